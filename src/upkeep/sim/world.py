"""What is true of the machines, whatever anybody knows of it.

A machine *serves* when it is powered, its image has come up and is well on it, its application
has no fault of its own, and its host and zone are there.  `refresh` works that out anew wherever
something changed and tells those who asked to be told.  Health as the server sees it is made
from the two witnesses at the end of this file, never from `serves`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path

from upkeep.core.model import GroupId, Health, MachineId
from upkeep.platforms.simulated import Call, SimulatedMachine
from upkeep.ports import MachineSpec, OsImage, Power, ProbeResult
from upkeep.sim.drawing import (
    FIRST_MODEL,
    Behaviour,
    Drawing,
    GroupDrawing,
    ModelChange,
    Publication,
)
from upkeep.sim.kernel import Kernel, stream

_WELL = ProbeResult(answered=True, status=200)
_ILL = ProbeResult(answered=True, status=503, detail="503 Service Unavailable")
_NO_ANSWER = ProbeResult(answered=False, detail="no answer")


@dataclass(slots=True, kw_only=True)
class Truth:
    """One machine as it is.

    Attributes:
        ready_at: when the image that boots now answers; `inf` if it never will.
        well_until: when it stops being well by the image's doing.
        boots_at: from when the agent and the network are up.
        ill_until: the machine's own fault lasts so long.
        agent_lost_until: the agent is cut off or dead so long, and nothing else is.
        serves: as of the last `refresh`; `since` is when that began.
        seen: what a probe, the agent and the network show; `well_since` is since when nothing
            of it has been amiss (`inf` while something is).
        doubted_at: when a witness last spoke against it, or its message was lost or late.
    """

    name: str
    id: MachineId
    group: GroupId
    zone: str
    host: str
    platform: SimulatedMachine
    behaviour: Behaviour = Behaviour.GOOD
    ready_at: float = 0.0
    boots_at: float = 0.0
    well_until: float = inf
    ill_until: float = 0.0
    agent_lost_until: float = 0.0
    serves: bool = True
    since: float = 0.0
    seen: tuple[int, bool, bool] = (200, True, True)
    well_since: float = -inf
    doubted_at: float = -inf


class World:
    def __init__(self, drawing: Drawing, kernel: Kernel) -> None:
        self.drawing = drawing
        self.kernel = kernel
        self.machines: dict[str, Truth] = {}
        self.lost: dict[tuple[str, str], float] = {}  # (kind, name) → until
        self.prober_lost_until = 0.0
        # Told when a machine begins or ceases to serve, and when what witnesses see may differ.
        self.on_serving: list[Callable[[Truth], None]] = []
        self.on_visible: Callable[[Truth], None] = lambda truth: None
        # Versions on which a machine once served, by image; the first ones were there before.
        self.once_healthy: set[tuple[str, str]] = {
            (image, drawing.first_version) for image in drawing.images
        }
        self._groups: dict[GroupId, GroupDrawing] = {g.group.id: g for g in drawing.groups}
        self.restarted_by_agent = {g.group.id for g in drawing.groups if g.restarted_by_agent}
        self._published: dict[tuple[str, str], Publication] = {
            (p.image, p.version): p for p in drawing.publications
        }
        self._models: dict[tuple[GroupId, str], ModelChange] = {
            (g.group.id, change.model): change for g in drawing.groups for change in g.models
        }

    def image_of(self, group: GroupId) -> str:
        return self._groups[group].group.image_name

    def add(
        self, platform: SimulatedMachine, group: GroupId, zone: str, host: str, key: MachineId
    ) -> Truth:
        truth = Truth(
            name=platform.spec.name, id=key, group=group, zone=zone, host=host, platform=platform
        )
        self.machines[truth.name] = truth
        return truth

    def brought(self, group: GroupId, target: str) -> Publication | ModelChange | None:
        """What a rollout to the target brings: a version of the group's image, or a model."""
        version = self._published.get((self.image_of(group), target))
        return version or self._models.get((group, target))

    def behaviour(self, group: GroupId, target: str, machine: str) -> Behaviour:
        """How the version or the model behaves on this machine: the same at each boot."""
        brought = self.brought(group, target)
        if brought is None:
            return Behaviour.GOOD
        if brought.behaviour in (Behaviour.GOOD, Behaviour.SLOW_BOOT):
            return brought.behaviour
        chosen = stream(self.drawing.seed, f"bad/{target}/{machine}").randrange(100)
        return brought.behaviour if chosen < brought.share_percent else Behaviour.GOOD

    def _behaviour_of(self, truth: Truth) -> Behaviour:
        """Of its OS disk: a bad model spoils a good version."""
        model = self.behaviour(truth.group, truth.platform.model, truth.name)
        if model is not Behaviour.GOOD:
            return model
        return self.behaviour(truth.group, truth.platform.image, truth.name)

    # The platform tells.

    def booted(self, truth: Truth) -> None:
        """The machine's power came on: decide how this boot goes."""
        now = self.kernel.now
        low, high = self.drawing.boot_s
        draws = stream(self.drawing.seed, f"boot/{truth.name}/{truth.platform.boots}")
        policy = self._groups[truth.group].group.policy
        wait = policy.health_wait.total_seconds()
        behaviour = self._behaviour_of(truth)
        truth.behaviour = behaviour
        truth.boots_at = now + draws.uniform(low, high) / 2
        truth.ready_at = truth.boots_at + draws.uniform(low, high) / 2
        truth.well_until = inf
        bake = policy.bake_time.total_seconds()
        match behaviour:
            case Behaviour.SLOW_BOOT:
                truth.ready_at = now + max(high, wait * draws.uniform(0.3, 0.6))
            case Behaviour.CRASHES:
                truth.boots_at = truth.ready_at = inf
            case Behaviour.NEVER_HEALTHY | Behaviour.NO_NETWORK:
                truth.ready_at = inf
            case Behaviour.FAILS_LATER:
                if bake < 600:
                    truth.ready_at = inf  # Without a bake time nobody could see the difference.
                else:
                    truth.well_until = truth.ready_at + bake * draws.uniform(0.1, 0.4)
            case Behaviour.GOOD:
                pass
        for change in (truth.boots_at, truth.ready_at, truth.well_until):
            if change < inf:
                self.kernel.at(change, lambda: self.refresh(truth))

    def refresh(self, truth: Truth) -> None:
        now = self.kernel.now
        serves = (
            truth.platform.power is Power.RUNNING
            and truth.ready_at <= now < truth.well_until
            and truth.ill_until <= now
            and not self.is_lost(truth)
        )
        if serves is not truth.serves:
            truth.serves = serves
            truth.since = now
            if serves:
                self.once_healthy.add((self.image_of(truth.group), truth.platform.image))
            for told in self.on_serving:
                told(truth)
        seen = (self.probe(truth).status, self.agent_alive(truth), self.reachable(truth))
        if seen != truth.seen:
            truth.seen = seen
            truth.well_since = now if seen == (200, True, True) else inf
            self.on_visible(truth)

    def refresh_all(self, truths: Iterable[Truth]) -> None:
        for truth in truths:
            self.refresh(truth)

    # Faults do.

    def make_ill(self, truth: Truth, until: float) -> None:
        truth.ill_until = max(truth.ill_until, until)
        self.refresh(truth)
        self.kernel.at(until, lambda: self.refresh(truth))

    def lose_agent(self, truth: Truth, until: float) -> None:
        truth.agent_lost_until = max(truth.agent_lost_until, until)
        self.refresh(truth)
        self.kernel.at(until, lambda: self.refresh(truth))

    def cut_power(self, truth: Truth, until: float) -> None:
        """The machine is off, and comes up by itself."""
        machine = truth.platform
        if machine.power is not Power.RUNNING or machine.call is not None:
            return
        machine.power = Power.OFF
        self.refresh(truth)

        def come_back() -> None:
            if machine.power is Power.OFF and machine.call is None:
                self._power_on(truth)

        self.kernel.at(until, come_back)

    def set_up(self, truth: Truth, version: str) -> None:
        """Somebody stands before it, gives it an OS disk by hand and switches it on."""
        truth.platform.image = version
        truth.platform.model = FIRST_MODEL
        self._power_on(truth)

    def _power_on(self, truth: Truth) -> None:
        truth.platform.power = Power.RUNNING
        truth.platform.boots += 1
        self.booted(truth)
        self.refresh(truth)

    def lose_prober(self, until: float) -> None:
        self.prober_lost_until = max(self.prober_lost_until, until)
        everybody = list(self.machines.values())
        self.refresh_all(everybody)
        self.kernel.at(until, lambda: self.refresh_all(list(self.machines.values())))

    def lose_domain(self, kind: str, name: str, until: float) -> None:
        self.lost[(kind, name)] = max(until, self.lost.get((kind, name), 0.0))
        self.refresh_all(self.in_domain(kind, name))
        self.kernel.at(until, lambda: self.refresh_all(self.in_domain(kind, name)))

    def in_domain(self, kind: str, name: str) -> list[Truth]:
        return [
            truth
            for truth in self.machines.values()
            if (truth.zone if kind == "zone" else truth.host) == name
        ]

    def heal(self) -> None:
        """No fault lasts longer than this moment."""
        self.lost.clear()
        self.prober_lost_until = 0.0
        for truth in self.machines.values():
            truth.ill_until = truth.agent_lost_until = 0.0
        self.refresh_all(list(self.machines.values()))

    def is_lost(self, truth: Truth) -> bool:
        if not self.lost:
            return False
        now = self.kernel.now
        return (
            self.lost.get(("zone", truth.zone), 0.0) > now
            or self.lost.get(("host", truth.host), 0.0) > now
        )

    # Witnesses see.

    def reachable(self, truth: Truth) -> bool:
        """Packets come through to a running operating system."""
        return (
            truth.platform.power is Power.RUNNING
            and truth.boots_at <= self.kernel.now
            and truth.behaviour is not Behaviour.NO_NETWORK
            and not self.is_lost(truth)
        )

    def probe(self, truth: Truth) -> ProbeResult:
        if self.prober_lost_until > self.kernel.now or not self.reachable(truth):
            return _NO_ANSWER
        return _WELL if truth.serves else _ILL

    def agent_alive(self, truth: Truth) -> bool:
        return self.reachable(truth) and truth.agent_lost_until <= self.kernel.now

    def inside(self, truth: Truth) -> Health:
        """What the agent's own probe says."""
        if truth.serves:
            return Health.HEALTHY
        if truth.ready_at > self.kernel.now and truth.ready_at < inf:
            return Health.INITIALIZING
        return Health.UNHEALTHY


def first_machine(
    name: str, key: str, image: str, version: str, model: str = ""
) -> SimulatedMachine:
    """A machine that was there before the world began."""
    spec = MachineSpec(name=name, uuid=key, image=os_image(image, version))
    return SimulatedMachine(
        spec=spec,
        power=Power.RUNNING,
        image=version,
        model=model,
        boots=1,
        data=f"data of {key}",
    )


def os_image(image: str, version: str) -> OsImage:
    return OsImage(name=image, version=version, sha256="", path=Path("/nowhere"))


class PlatformWatcher:
    """Passes on what happens on the simulated platform: to the world, then to the checkers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.on_began: list[Callable[[Truth, Call], None]] = []
        self.on_ended: list[Callable[[Truth, Call, SimulatedMachine], None]] = []
        self.adopt: Callable[[SimulatedMachine], Truth] = lambda machine: _nobody(machine)

    def _truth(self, machine: SimulatedMachine) -> Truth:
        return self._world.machines.get(machine.spec.name) or self.adopt(machine)

    def began(self, machine: SimulatedMachine, call: Call) -> None:
        truth = self._truth(machine)
        for told in self.on_began:
            told(truth, call)

    def changed(self, machine: SimulatedMachine, call: Call) -> None:
        truth = self._truth(machine)
        if machine.power is Power.RUNNING:
            self._world.booted(truth)
        self._world.refresh(truth)

    def ended(self, machine: SimulatedMachine, call: Call) -> None:
        truth = self._truth(machine)
        for told in self.on_ended:
            told(truth, call, machine)
        if machine.power is Power.ABSENT:
            self._world.machines.pop(truth.name, None)


def _nobody(machine: SimulatedMachine) -> Truth:
    raise AssertionError(f"{machine.spec.name} is not in the world")
