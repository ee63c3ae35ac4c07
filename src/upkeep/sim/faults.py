"""What goes wrong: which kinds of fault there are, when they strike, and what they met.

Half of the faults come at a drawn time to a drawn place; the other half lie in ambush until a
task enters a drawn state, because some states last seconds in a fortnight.  Each fault is counted
once for every state in which it found a task of an open rollout within its reach.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from upkeep.core.model import GroupId, MachineId, Task
from upkeep.core.task import TaskState
from upkeep.engine.fleet_store import LeasedAction
from upkeep.platforms.simulated import Course, Reach, Verb
from upkeep.ports import DriverError, DriverErrorKind
from upkeep.sim.checkers import Commit, Facts
from upkeep.sim.drawing import DAY, Drawing
from upkeep.sim.hosting import Hosting
from upkeep.sim.kernel import Kernel, stream
from upkeep.sim.memory import Killed
from upkeep.sim.replica import Replica, Site
from upkeep.sim.world import Truth, World


class Fault(StrEnum):
    KILL_BEFORE_WRITE = "kill before a write"
    KILL_AFTER_WRITE = "kill after a write"
    KILL = "kill between two steps"
    FREEZE = "freeze beyond the lease"
    SECOND_PROCESS = "two processes"
    CLOCK_FORWARD = "clock forward"
    CLOCK_BACK = "clock back"
    MACHINE_ILL = "machine ill"
    MACHINE_ILL_LONG = "machine ill for long"
    MACHINES_ILL = "machines ill together"
    POWER_CUT = "power cut"
    AGENT_LOST = "agent lost"
    PROBER_LOST = "prober lost"
    HOST_LOST = "host lost"
    ZONE_LOST = "zone lost"
    DRIVER_RETRY = "driver error, passing"
    DRIVER_FAILED = "driver error, lasting"
    DRIVER_HALF_WAY = "driver stops half-way"
    DRIVER_HANG = "driver hangs"
    NO_SPACE = "disk full"
    MESSAGES_LOST = "messages lost"
    MESSAGES_LATE = "messages late"
    MESSAGES_DOUBLED = "messages doubled"


# Writes around which a process may be killed.
_JOURNAL = frozenset(
    {
        "commit_plan",
        "claim_actions",
        "give_to_agent",
        "finish_action",
        "retry_action",
        "extend_lease",
        "observe",
        "raise_clock_mark",
    }
)
_DRIVER = (
    Fault.DRIVER_RETRY,
    Fault.DRIVER_FAILED,
    Fault.DRIVER_HALF_WAY,
    Fault.DRIVER_HANG,
    Fault.NO_SPACE,
)
_OF_ONE_MACHINE = frozenset(
    {Fault.MACHINE_ILL, Fault.MACHINE_ILL_LONG, Fault.POWER_CUT, Fault.AGENT_LOST}
)
# States that are short, and the one that is rare, are waited for more often.
_SHORT = frozenset(TaskState) - {TaskState.HELD, TaskState.RUNNING, TaskState.DONE}
_RARE = frozenset({TaskState.SKIPPED})
# Kinds that measure blame: what makes machines look bad when the version is not.
BLAME_FAULTS = (
    Fault.MACHINE_ILL,
    Fault.MACHINE_ILL_LONG,
    Fault.POWER_CUT,
    Fault.AGENT_LOST,
    Fault.HOST_LOST,
    Fault.ZONE_LOST,
    Fault.PROBER_LOST,
    Fault.DRIVER_RETRY,
    Fault.DRIVER_HALF_WAY,
    Fault.KILL,
)
_SECONDS = {
    Verb.CREATE: (10.0, 60.0),
    Verb.START: (2.0, 15.0),
    Verb.STOP: (2.0, 30.0),
    Verb.RESTART: (5.0, 30.0),
    Verb.REPLACE_OS_DISK: (10.0, 60.0),
    Verb.SWITCH_BACK: (5.0, 30.0),
    Verb.DELETE: (2.0, 10.0),
}


# A process that shall be frozen in mid-call is looked at so often, for a day.
MID_CALL_LOOK_S = 7.0
MID_CALL_TRIES = 12_000
# The lease runs out in the middle of a call, and it wakes up while the one that took over is at it.
MID_CALL_LEFT_S = 180
MID_CALL_FREEZE_S = 300


@dataclass(slots=True)
class _Ambush:
    kind: Fault
    state: TaskState
    after: float


class Faults:
    """See the module text.

    Args:
        changed: told when the store may have work for somebody.
    """

    def __init__(self, drawing: Drawing, site: Site, hosting: Hosting, facts: Facts) -> None:
        self.met: Counter[tuple[str, str]] = Counter()
        self.on = True
        self._kernel: Kernel = site.kernel
        self._world: World = site.world
        self._site = site
        self._hosting = hosting
        self._facts = facts
        self._draws = stream(drawing.seed, "faults")
        self._calls = stream(drawing.seed, "calls")
        self._episodes: dict[GroupId, tuple[Fault, float]] = {}
        self._kill_at: tuple[str, int] | None = None
        self._ambushes: list[_Ambush] = []
        kinds = BLAME_FAULTS if drawing.options.bad_versions else tuple(Fault)
        # Some worlds are calm, so that what is found in them is not lost in the noise.
        rate = self._draws.choice((0.0, 0.5, 1.0, 1.0, 1.5, 2.5))
        self._plan(drawing, kinds, rate)

    def _plan(self, drawing: Drawing, kinds: tuple[Fault, ...], rate: float) -> None:
        for _ in range(round(rate * 10)):
            kind = self._draws.choice(kinds)
            at = self._draws.uniform(0, drawing.days) * DAY
            self._kernel.at(at, partial(self._strike, kind))
        # A fault of one machine meets one task only, so it has to come more often.
        few = (*_OF_ONE_MACHINE, Fault.MACHINES_ILL)
        weights = [4 if kind in few else 1 for kind in kinds]
        states = [*TaskState, *sorted(_SHORT), *sorted(_RARE), *sorted(_RARE)]
        for _ in range(round(rate * 16)):
            self._ambushes.append(
                _Ambush(
                    self._draws.choices(kinds, weights)[0],
                    self._draws.choice(states),
                    self._draws.uniform(0, drawing.days * 0.8) * DAY,
                )
            )

    # Striking.

    def committed(self, commit: Commit) -> None:
        """An ambush springs when a task enters the state it waits for."""
        if not self.on:
            return
        for task, _ in commit.moved:
            for ambush in self._ambushes:
                if ambush.state is task.state and ambush.after <= self._kernel.now:
                    self._ambushes.remove(ambush)
                    wait = self._draws.choice((0.0, 0.0, 1.0, 10.0, 40.0))
                    self._kernel.after(wait, partial(self._strike, ambush.kind, task))
                    break

    def _strike(self, kind: Fault, ambushed: Task | None = None) -> None:
        if not self.on:
            return
        truth = self._facts.truth(ambushed.machine) if ambushed else None
        if truth is None:
            everybody = list(self._world.machines.values())
            if not everybody:
                return
            truth = self._draws.choice(everybody)
        reach = self._apply(kind, truth)
        if reach is None:
            return
        self._kernel.tell(f"fault: {kind} ({truth.name})")
        if ambushed is not None and not self._is_open(ambushed):
            # Its rollout ended with it; the fault met it all the same.
            task = self._facts.tasks[(ambushed.rollout, ambushed.machine)]
            self.met[(kind.value, task.state.value)] += 1
        for row in self._facts.store.groups.values():
            for tasks in row.tasks.values():
                for task in tasks.values():
                    if reach(task.machine):
                        self.met[(kind.value, task.state.value)] += 1

    def _is_open(self, task: Task) -> bool:
        group = self._facts.rollouts[task.rollout].group
        return task.rollout in self._facts.store.groups[group].open

    def _apply(self, kind: Fault, truth: Truth) -> Callable[[MachineId], bool] | None:
        """Bring it about; answers whom it reaches, or None if there was nothing to break."""
        if kind in _DRIVER:
            until = self._kernel.now + self._draws.choice((60.0, 600.0, 3_600.0))
            self._episodes[truth.group] = (kind, until)
            members = self._facts.store.groups[truth.group].machines
            return lambda machine: machine in members
        if kind in (Fault.HOST_LOST, Fault.ZONE_LOST):
            return self._lose_domain(kind, truth)
        if kind is Fault.MACHINES_ILL:
            return self._harm_several(truth)
        if kind in _OF_ONE_MACHINE:
            self._harm(kind, truth)
            return lambda machine: machine == truth.id
        if self._harm_all(kind):
            return lambda machine: True
        return None

    def _harm(self, kind: Fault, truth: Truth) -> None:
        now = self._kernel.now
        if kind is Fault.MACHINE_ILL:
            self._world.make_ill(truth, now + self._draws.uniform(30, 1_800))
        elif kind is Fault.MACHINE_ILL_LONG:
            self._world.make_ill(truth, now + self._draws.uniform(0.2, 3.0) * DAY)
        elif kind is Fault.POWER_CUT:
            self._world.cut_power(truth, now + self._draws.uniform(5, 900))
        else:
            self._world.lose_agent(truth, now + self._draws.uniform(60, 7_200))

    def _harm_several(self, truth: Truth) -> Callable[[MachineId], bool]:
        """Something that they share, and that is no domain: a database, a certificate."""
        group = [t for t in self._world.machines.values() if t.group == truth.group]
        others = self._draws.sample(group, min(len(group), self._draws.randint(1, 5)))
        until = self._kernel.now + self._draws.uniform(0.1, 1.5) * DAY
        struck = {t.id: t for t in (truth, *others)}
        for each in struck.values():
            self._world.make_ill(each, until)
        return lambda machine: machine in struck

    def _lose_domain(self, kind: Fault, truth: Truth) -> Callable[[MachineId], bool]:
        what = "host" if kind is Fault.HOST_LOST else "zone"
        name = truth.host if what == "host" else truth.zone
        there = {t.id for t in self._world.in_domain(what, name)} if name else set()
        if name:
            long = self._draws.choice((60.0, 600.0, 3_600.0, 6 * 3_600.0))
            self._world.lose_domain(what, name, self._kernel.now + long)
        return lambda machine: machine in there

    def _harm_all(self, kind: Fault) -> bool:
        now, draws = self._kernel.now, self._draws
        awake = self._hosting.awake()
        match kind:
            case Fault.KILL_BEFORE_WRITE:
                self._kill_at = ("before", draws.randint(1, 12))
            case Fault.KILL_AFTER_WRITE:
                self._kill_at = ("after", draws.randint(1, 12))
            case Fault.KILL:
                if awake:
                    self._hosting.kill(draws.choice(awake))
            case Fault.FREEZE:
                if awake and draws.random() < 0.5:
                    self._freeze_in_mid_call(draws.choice(awake))
                elif awake:
                    self._hosting.freeze(draws.choice(awake))
            case Fault.SECOND_PROCESS:
                self._hosting.start_second()
            case Fault.CLOCK_FORWARD | Fault.CLOCK_BACK:
                self._step_clock(1 if kind is Fault.CLOCK_FORWARD else -1)
            case Fault.PROBER_LOST:
                until = now + draws.uniform(60, 3_600)
                self._hosting.blind(until + 600)
                self._world.lose_prober(until)
            case _:
                self._spoil_messages(kind)
        return True

    def _freeze_in_mid_call(self, replica: Replica, tries: int = MID_CALL_TRIES) -> None:
        """What fences are for: it wakes up and goes on while another one has taken over.

        Calls are slow then, or else the other one would have finished long before.
        """
        if not self.on or not replica.alive or not tries:
            return
        under_way = [self._left_of(leased) for leased in replica.in_flight.values()]
        if max(under_way, default=0.0) > MID_CALL_LEFT_S:
            self._hosting.freeze(replica, longest_s=MID_CALL_FREEZE_S)
            return
        for leased in replica.in_flight.values():
            slow_until = self._kernel.now + 3 * 3_600
            self._episodes[leased.action.group] = (Fault.DRIVER_HANG, slow_until)
        wait = partial(self._freeze_in_mid_call, replica, tries - 1)
        self._kernel.after(MID_CALL_LOOK_S, wait)

    def _left_of(self, leased: LeasedAction) -> float:
        """How many seconds the call has still to go."""
        truth = self._world.machines.get(leased.machine_name)
        call = truth.platform.call if truth is not None else None
        return call.ends_at - self._kernel.now if call is not None else 0.0

    def _step_clock(self, direction: int) -> None:
        wall, draws = self._site.wall, self._draws
        step = direction * draws.choice((45.0, 600.0, 3_600.0, 7_200.0))
        wall.offset_s += step

        def put_right() -> None:
            wall.offset_s -= step

        self._kernel.after(draws.uniform(60, 6 * 3_600), put_right)

    def _spoil_messages(self, kind: Fault) -> None:
        messages, draws = self._site.messages, self._draws
        name = {
            Fault.MESSAGES_LOST: "lost",
            Fault.MESSAGES_LATE: "late",
            Fault.MESSAGES_DOUBLED: "doubled",
        }[kind]
        percent = draws.choice((10, 30, 60))
        setattr(messages, name, percent)
        messages.late_s = draws.choice((10.0, 60.0, 300.0))
        until = self._kernel.now + draws.uniform(600, 7_200)
        self._hosting.blind(until + 600)
        self._kernel.at(until, lambda: setattr(messages, name, 0))

    # Killing between two writes.

    def before_write(self, name: str) -> None:
        self._maybe_kill("before", name)

    def after_write(self, name: str) -> None:
        self._maybe_kill("after", name)

    def _maybe_kill(self, side: str, name: str) -> None:
        if self._kill_at is None or self._hosting.current is None or name not in _JOURNAL:
            return
        wanted, left = self._kill_at
        if wanted != side:
            return
        self._kill_at = (wanted, left - 1) if left > 1 else None
        if left == 1 and self.on:
            self._kernel.tell(f"killed {side} {name}")
            raise Killed

    # How calls go.

    def course(self, verb: Verb, name: str, key: str, fence: int) -> Course:
        low, high = _SECONDS[verb]
        seconds = round(self._calls.uniform(low, high))
        truth = self._world.machines.get(name)
        episode = self._episodes.get(truth.group) if truth is not None else None
        if episode is None or episode[1] <= self._kernel.now or self._calls.random() < 0.3:
            return Course(seconds=seconds)
        return _bad_course(episode[0], seconds, self._calls)

    def heal(self) -> None:
        """No fault strikes from now on, and no episode goes on."""
        self.on = False
        self._episodes.clear()
        self._kill_at = None
        self._site.wall.offset_s = 0.0
        messages = self._site.messages
        messages.lost = messages.late = messages.doubled = 0
        self._world.heal()


def _bad_course(kind: Fault, seconds: float, draws: random.Random) -> Course:
    reach = draws.choice((Reach.NOTHING, Reach.STOPPED, Reach.DONE))
    match kind:
        case Fault.DRIVER_RETRY:
            error = DriverError(DriverErrorKind.UNREACHABLE, "no route to the host", retryable=True)
            return Course(seconds=seconds, error=error, reach=Reach.NOTHING)
        case Fault.DRIVER_FAILED:
            error = DriverError(DriverErrorKind.FAILED, "the hypervisor said no", retryable=False)
            return Course(seconds=seconds, error=error, reach=Reach.NOTHING)
        case Fault.NO_SPACE:
            error = DriverError(DriverErrorKind.NO_SPACE, "the disk is full", retryable=True)
            return Course(seconds=seconds, error=error, reach=draws.choice(tuple(Reach)[:2]))
        case Fault.DRIVER_HALF_WAY:
            retryable = draws.random() < 0.7
            error = DriverError(DriverErrorKind.TIMED_OUT, "not in time", retryable=retryable)
            return Course(seconds=seconds, error=error, reach=reach)
        case _:
            return Course(seconds=draws.uniform(70, 900))
