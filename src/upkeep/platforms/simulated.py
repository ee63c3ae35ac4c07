"""Machines that exist only in memory: for `--platform simulated`, for tests, for the simulator.

It keeps every rule of the port: keys, fences, a kept disk, a data volume that only `delete`
destroys.  How long a call takes and how it ends is not decided here: a `Course` is asked for at
the call's beginning, and `wait_until` is called where a real driver would block.  In the server
it sleeps; in virtual time it raises, and the same call, made again at that moment, goes on.

Calls of one machine go by the rules of platforms/journal.py: an older fence is refused; a key
that succeeded is answered; a key that was begun goes on from the step it reached.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from upkeep.ports import (
    DriverError,
    DriverErrorKind,
    MachineSpec,
    MachineStatus,
    OsImage,
    Power,
)


class Verb(StrEnum):
    """The port's own verbs; the core's have the same values."""

    CREATE = "create"
    START = "start"
    STOP = "stop"
    RESTART = "restart"
    REPLACE_OS_DISK = "replace_os_disk"
    SWITCH_BACK = "switch_back"
    DELETE = "delete"


class Reach(StrEnum):
    """How far a call comes before it ends."""

    NOTHING = "nothing"
    STOPPED = "stopped"  # The machine is off, and nothing else has been done.
    DONE = "done"  # Everything was done, whatever is answered.


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How one call goes.

    Attributes:
        seconds: from the call to its answer.
        error: what is answered; None for success.
    """

    seconds: float = 0.0
    error: DriverError | None = None
    reach: Reach = Reach.DONE


class Courses(Protocol):
    def __call__(self, verb: Verb, name: str, key: str, fence: int) -> Course: ...


@dataclass(slots=True, kw_only=True)
class Call:
    """The call that a machine is in."""

    verb: Verb
    key: str
    fence: int
    ends_at: float
    course: Course
    image: str
    model: str = ""


@dataclass(slots=True, kw_only=True)
class SimulatedMachine:
    """One machine with its disks.

    Attributes:
        disk_of: key of the call that made the OS disk in use, so that it is made once.
        data: marks its data volume; another value means that the data was lost.
        call: the call under way, or one whose caller died.
    """

    spec: MachineSpec
    power: Power = Power.OFF
    image: str = ""
    kept: str = ""
    model: str = ""
    kept_model: str = ""
    boots: int = 0
    fence: int = 0
    disk_of: str = ""
    data: str = ""
    call: Call | None = None
    succeeded: set[str] = field(default_factory=set)


class Watcher(Protocol):
    """Is told of everything that happens to machines, at the moment it happens."""

    def began(self, machine: SimulatedMachine, call: Call) -> None: ...

    def changed(self, machine: SimulatedMachine, call: Call) -> None: ...

    def ended(self, machine: SimulatedMachine, call: Call) -> None: ...


class _Nobody:
    def began(self, machine: SimulatedMachine, call: Call) -> None:
        pass

    def changed(self, machine: SimulatedMachine, call: Call) -> None:
        pass

    def ended(self, machine: SimulatedMachine, call: Call) -> None:
        pass


def at_once(verb: Verb, name: str, key: str, fence: int) -> Course:
    """The course of a call where nothing takes time and nothing fails."""
    return Course()


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


class SimulatedPlatform:
    """The Platform port over machines in memory; see the module text."""

    def __init__(
        self,
        *,
        courses: Courses = at_once,
        monotonic: Callable[[], float] = time.monotonic,
        wait_until: Callable[[float], None] = _sleep_until,
        watcher: Watcher | None = None,
    ) -> None:
        self.machines: dict[str, SimulatedMachine] = {}
        self._gone: dict[str, SimulatedMachine] = {}
        self._courses = courses
        self._monotonic = monotonic
        self._wait_until = wait_until
        self._watcher: Watcher = watcher or _Nobody()

    def observe(self, names: Sequence[str]) -> Sequence[MachineStatus]:
        return [self._status(name) for name in names]

    def _status(self, name: str) -> MachineStatus:
        machine = self.machines.get(name)
        if machine is None:
            return MachineStatus(name=name, power=Power.ABSENT)
        return MachineStatus(
            name=name,
            power=machine.power,
            image_version=machine.image,
            kept_version=machine.kept,
            model=machine.model,
            kept_model=machine.kept_model,
            address=f"sim:{name}",
            boots=machine.boots,
        )

    def create(self, spec: MachineSpec, *, key: str, fence: int) -> None:
        machine = self.machines.get(spec.name) or self._gone.get(spec.name)
        if machine is None or machine.spec.uuid != spec.uuid:
            machine = SimulatedMachine(spec=spec)
            self.machines[spec.name] = machine
        self._run(machine, Verb.CREATE, key, fence, image=spec.image.version, model=spec.model)

    def start(self, name: str, *, key: str, fence: int) -> None:
        self._run(self._find(name), Verb.START, key, fence)

    def stop(self, name: str, *, key: str, fence: int) -> None:
        self._run(self._find(name), Verb.STOP, key, fence)

    def restart(self, name: str, *, key: str, fence: int) -> None:
        self._run(self._find(name), Verb.RESTART, key, fence)

    def replace_os_disk(
        self,
        name: str,
        image: OsImage,
        seed: Mapping[str, bytes],
        *,
        model: str = "",
        key: str,
        fence: int,
    ) -> None:
        machine = self._find(name)
        machine.spec = replace(machine.spec, seed=seed)
        self._run(machine, Verb.REPLACE_OS_DISK, key, fence, image=image.version, model=model)

    def switch_back(self, name: str, *, key: str, fence: int) -> None:
        self._run(self._find(name), Verb.SWITCH_BACK, key, fence)

    def delete(self, name: str, *, key: str, fence: int) -> None:
        machine = self.machines.get(name)
        if machine is not None:
            self._run(machine, Verb.DELETE, key, fence)

    def _find(self, name: str) -> SimulatedMachine:
        machine = self.machines.get(name)
        if machine is None:
            detail = f"there is no machine {name}: create it first"
            raise DriverError(DriverErrorKind.NOT_FOUND, detail, retryable=False)
        return machine

    def _run(
        self,
        machine: SimulatedMachine,
        verb: Verb,
        key: str,
        fence: int,
        *,
        image: str = "",
        model: str = "",
    ) -> None:
        """One call, from its beginning or from where the same call was left."""
        _refuse_older(machine, fence)
        machine.fence = fence
        if key in machine.succeeded:
            return
        call = machine.call
        if call is None or call.key != key or call.fence != fence:
            call = self._begin(machine, verb, key, fence, image, model)
        self._wait_until(call.ends_at)
        self.end_call(machine, call)
        if call.course.error is not None:
            raise call.course.error

    def _begin(
        self, machine: SimulatedMachine, verb: Verb, key: str, fence: int, image: str, model: str
    ) -> Call:
        name = machine.spec.name
        if verb is Verb.SWITCH_BACK and not machine.kept and machine.disk_of != key:
            detail = f"{name} keeps no previous OS disk: replace the OS disk instead"
            raise DriverError(DriverErrorKind.NO_KEPT_DISK, detail, retryable=False)
        course = self._courses(verb, name, key, fence)
        ends_at = self._monotonic() + course.seconds
        call = Call(
            verb=verb,
            key=key,
            fence=fence,
            ends_at=ends_at,
            course=course,
            image=image,
            model=model,
        )
        machine.call = call
        self._watcher.began(machine, call)
        stops = course.reach is not Reach.NOTHING and verb is not Verb.START
        if stops and machine.power is Power.RUNNING:
            machine.power = Power.OFF
            self._watcher.changed(machine, call)
        return call

    def end_call(self, machine: SimulatedMachine, call: Call) -> None:
        """Bring about what the call does; also when its caller is dead and the work went on.

        Raises:
            DriverError(FENCED): a newer call has taken the machine over.
        """
        if machine.call is not call:
            detail = f"{machine.spec.name}: another call has begun since"
            raise DriverError(DriverErrorKind.FENCED, detail, retryable=False)
        machine.call = None
        if call.course.reach is Reach.DONE:
            self._take_effect(machine, call)
        if call.course.error is None:
            machine.succeeded.add(call.key)
        self._watcher.ended(machine, call)

    def _take_effect(self, machine: SimulatedMachine, call: Call) -> None:
        name = machine.spec.name
        match call.verb:
            case Verb.CREATE:
                if machine.disk_of != call.key and not machine.image:
                    machine.image, machine.disk_of = call.image, call.key
                    machine.model = call.model
                    machine.data = f"data of {machine.spec.uuid}"
                self._boot(machine)
            case Verb.START:
                if machine.power is not Power.RUNNING:
                    self._boot(machine)
            case Verb.RESTART:
                self._boot(machine)
            case Verb.STOP:
                machine.power = Power.OFF
            case Verb.REPLACE_OS_DISK:
                if machine.disk_of != call.key:
                    machine.kept, machine.image = machine.image, call.image
                    machine.kept_model, machine.model = machine.model, call.model
                    machine.disk_of = call.key
                self._boot(machine)
            case Verb.SWITCH_BACK:
                if machine.disk_of != call.key:
                    machine.kept, machine.image = machine.image, machine.kept
                    machine.kept_model, machine.model = machine.model, machine.kept_model
                    machine.disk_of = call.key
                self._boot(machine)
            case Verb.DELETE:
                machine.power = Power.ABSENT
                self._gone[name] = self.machines.pop(name)
        self._watcher.changed(machine, call)

    def _boot(self, machine: SimulatedMachine) -> None:
        machine.power = Power.RUNNING
        machine.boots += 1


def _refuse_older(machine: SimulatedMachine, fence: int) -> None:
    if fence < machine.fence:
        detail = f"{machine.spec.name}: fence {fence} is older than {machine.fence}"
        raise DriverError(DriverErrorKind.FENCED, detail, retryable=False)
