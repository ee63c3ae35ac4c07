"""What every checker sees, and what it raises.

Checkers are separate objects.  They are told of everything that happens, compare it with the
truth of the world and with what people asked for, and never ask the server what it thinks of a
machine's health.  The plans they read are the journal: intents that were written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import inf
from typing import Protocol

from upkeep.core.alarm import AlarmState
from upkeep.core.hook_event import Answer
from upkeep.core.model import (
    GroupId,
    MachineId,
    Rollout,
    RolloutId,
    StartedBy,
    System,
    Task,
    UpgradeMode,
    Verb,
)
from upkeep.core.snapshot import Action, Plan
from upkeep.core.task import TaskState
from upkeep.engine.fleet_store import LeasedAction
from upkeep.platforms.simulated import Call, SimulatedMachine
from upkeep.sim.drawing import Drawing
from upkeep.sim.kernel import Kernel, moment
from upkeep.sim.memory import MemoryStore
from upkeep.sim.world import Truth, World

# Verbs that end a machine's service for a while.
TAKES_DOWN = frozenset(
    {
        Verb.STOP,
        Verb.RESTART,
        Verb.REPLACE_OS_DISK,
        Verb.REIMAGE,
        Verb.SWITCH_BACK,
        Verb.DELETE,
    }
)

# While a task is in one of these, its machine is in our hands.
OURS = frozenset(
    {
        TaskState.ANNOUNCED,
        TaskState.DRAINING,
        TaskState.RUNNING,
        TaskState.VERIFYING,
        TaskState.ROLLING_BACK,
    }
)


class RuleBroken(Exception):
    """A checker has seen what must never happen."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule
        self.detail = detail


def is_automatic_upgrade(rollout: Rollout) -> bool:
    """It began by itself: an alarm that is not quiet holds it."""
    return rollout.system is System.OS_IMAGE and rollout.started_by is StartedBy.PLATFORM


def waits_as_agreed(facts: "Facts", rollout: Rollout) -> bool:
    """It began by itself, asks people and keeps its pace, where the group's policy says so; a
    model in a group whose mode is automatic does neither."""
    if not is_automatic_upgrade(rollout):
        return False
    return not rollout.is_of_model or facts.modes[rollout.group] is not UpgradeMode.AUTOMATIC


def has(rollout: Rollout, truth: Truth) -> str:
    """What the machine's OS disk in truth is, of what the rollout's target names."""
    return truth.platform.model if rollout.is_of_model else truth.platform.image


@dataclass(slots=True, kw_only=True)
class Facts:
    """Shared by all checkers: the world, what was asked for, and the journal so far.

    Attributes:
        in_hand: the task that has a machine in our hands; overlaps: two had it at once.
        begun_at: when work on a rollout's first machine, or on its stand-in, began.
        at_work: the task that is being done for a machine, on it or on its stand-in.
        tasks, rollouts: as last written, also those that have ended.
        intents: every action ever written, by key.
        paused: groups and rollouts that a person holds at this moment.
        modes: how a changed model reaches the machines of each group.
        suspended: groups in which a person wants nothing repaired.
        cancelled: rollouts that a person has cancelled.
        promoted: rollouts that a person lets go on after their canary.
        approved: machines that a person has let a rollout take.
        said: what a person has answered at a lifecycle hook: (rollout, serial, machine).
        moved: until when a person lets a question wait: (rollout, serial).
        alarms_told: what was told of each alarm, by group and name, in order.
        watched_since: health has been watched without a gap, and messages have come through
            since then.
        watcher_since, watcher_until: since when the present process has watched, and until when
            the one before it did that had the time to see how things stand.
        planner_sees_since: the process that plans cannot have seen anything before.
        wall_differs: the wall clock and the engine's time differ by this, unaccepted.
        healed: the faults are over; now everything must come to rest.
    """

    drawing: Drawing
    kernel: Kernel
    world: World
    store: MemoryStore
    modes: dict[GroupId, UpgradeMode]
    tasks: dict[tuple[RolloutId, MachineId], Task] = field(default_factory=dict)
    in_hand: dict[MachineId, Task] = field(default_factory=dict)
    begun_at: dict[RolloutId, datetime] = field(default_factory=dict)
    at_work: dict[MachineId, Task] = field(default_factory=dict)
    overlaps: list[tuple[Task, Task]] = field(default_factory=list)
    rollouts: dict[RolloutId, Rollout] = field(default_factory=dict)
    intents: dict[str, Action] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    suspended: set[GroupId] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    promoted: set[str] = field(default_factory=set)
    approved: set[tuple[RolloutId, MachineId]] = field(default_factory=set)
    said: dict[tuple[RolloutId, int, MachineId], Answer] = field(default_factory=dict)
    moved: dict[tuple[RolloutId, int], datetime] = field(default_factory=dict)
    alarms_told: dict[tuple[GroupId, str], list[tuple[datetime, AlarmState]]] = field(
        default_factory=dict
    )
    planner_sees_since: datetime = field(default_factory=lambda: moment(0))
    watched_since: float = 0.0
    watcher_since: float = 0.0
    watcher_until: float = 0.0
    wall_differs: timedelta = timedelta(0)
    names: dict[str, str] = field(default_factory=dict)  # Machine id → name.

    def truth(self, machine: str) -> Truth | None:
        return self.world.machines.get(self.names.get(machine, ""))

    def detect_s(self) -> float:
        """After so long everybody who watches must know that a machine is down.

        A process that has just begun to watch takes an agent's interval to be five minutes and
        waits for three of them; then come grace period and probes.
        """
        drawing = self.drawing
        return 900 + 5.0 * drawing.agent_s + 180 + 5 * drawing.probe_s + 120 + 3 * drawing.tick_s

    def known_down(self, truth: Truth) -> bool:
        """Down, and for so long that the server must know."""
        if truth.serves:
            return False
        now, long = self.kernel.now, self.detect_s()
        return now - truth.since > long and now - self.watched_since > long

    def settle_s(self) -> float:
        """After so long without a bad word, whoever watches must know that a machine is well."""
        drawing = self.drawing
        return 60 + 5.0 * drawing.probe_s + 2.0 * drawing.agent_s + 3 * drawing.tick_s

    def looks_ill(self, truth: Truth) -> bool:
        """The server may honestly take it for ill: a moment ago somebody said so.

        A process that has just begun to watch believes the row, which says what was seen last.
        """
        now, settle = self.kernel.now, self.settle_s()
        amiss_at = max(truth.well_since, truth.doubted_at)
        if now - amiss_at < settle:
            return True
        return now - self.watcher_since < settle and amiss_at > self.watcher_until - settle

    def watch_begins(self) -> None:
        self.watcher_since = self.kernel.now

    def watch_ends(self) -> None:
        now = self.kernel.now
        if now - self.watcher_since >= self.settle_s():
            self.watcher_until = now
        self.watcher_since = self.watched_since = inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One plan that was written.

    Attributes:
        now: the engine's time of the plan.
        moved: tasks whose state it changed, with the state before (None: the task is new).
    """

    plan: Plan
    now: datetime
    moved: tuple[tuple[Task, TaskState | None], ...]


class Checker(Protocol):
    """A checker implements what it needs of these; `BlindChecker` has them all empty."""

    def committed(self, commit: Commit) -> None: ...

    def leased(self, taken: Sequence[LeasedAction], now: datetime, until: datetime) -> None: ...

    def lease_moved(self, key: str, fence: int, until: datetime | None) -> None: ...

    def began(self, truth: Truth, call: Call) -> None: ...

    def ended(self, truth: Truth, call: Call, machine: SimulatedMachine) -> None: ...

    def serving(self, truth: Truth) -> None: ...

    def looked(self) -> None: ...


class BlindChecker:
    """Sees nothing."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts

    def committed(self, commit: Commit) -> None:
        """A plan was written."""

    def leased(self, taken: Sequence[LeasedAction], now: datetime, until: datetime) -> None:
        """A process was given actions."""

    def lease_moved(self, key: str, fence: int, until: datetime | None) -> None:
        """A lease was extended, or ended (None)."""

    def began(self, truth: Truth, call: Call) -> None:
        """A call began on the platform; the machine is as it was before."""

    def ended(self, truth: Truth, call: Call, machine: SimulatedMachine) -> None:
        """A call came to its end; the machine is as it is after."""

    def serving(self, truth: Truth) -> None:
        """A machine begins or ceases to serve."""

    def looked(self) -> None:
        """Now and then, for what must not last."""


def learn(facts: Facts, plan: Plan, now: datetime) -> Commit:
    """Enter a written plan in the facts; answers what the checkers are told of it."""
    for machine in plan.machines:
        facts.names[machine.id] = machine.name
    for rollout in plan.rollouts:
        facts.rollouts[rollout.id] = rollout
    moved = []
    # Those that end first: a machine may pass from one rollout to the next in one plan.
    for task in sorted(plan.tasks, key=lambda task: task.state in OURS):
        key = (task.rollout, task.machine)
        before = facts.tasks.get(key)
        facts.tasks[key] = task
        if task.stand_in:
            facts.tasks[(task.rollout, task.stand_in)] = task
        if before is None or before.state is not task.state:
            moved.append((task, None if before is None else before.state))
        if task.state is TaskState.RUNNING or (task.stand_in and task.state in OURS):
            facts.begun_at.setdefault(task.rollout, now)
        _enter_in_hand(facts, task)
    return Commit(plan=plan, now=now, moved=tuple(moved))


def _enter_in_hand(facts: Facts, task: Task) -> None:
    machine = subject(task)
    for key in dict.fromkeys((task.machine, machine)):
        if task.state in OURS or task.state is TaskState.BAKING:
            facts.at_work[key] = task
        elif (work := facts.at_work.get(key)) and work.rollout == task.rollout:
            del facts.at_work[key]
    held = facts.in_hand.get(machine)
    if task.state in OURS:
        if held is not None and held.rollout != task.rollout:
            facts.overlaps.append((held, task))
        facts.in_hand[machine] = task
    elif held is not None and held.rollout == task.rollout:
        del facts.in_hand[machine]
    old = facts.in_hand.get(task.machine)
    if task.stand_in and old is not None and old.rollout == task.rollout:
        del facts.in_hand[task.machine]  # From now on its stand-in is worked on.


def subject(task: Task) -> MachineId:
    """The machine on which the task's work is done."""
    return task.stand_in or task.machine
