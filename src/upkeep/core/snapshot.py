"""What `plan_group` reads and what it answers: a group at one moment, and what to write."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from upkeep.core.alarm import Alarm
from upkeep.core.hold import Hold
from upkeep.core.hook_event import HookEvent
from upkeep.core.model import (
    Budget,
    BudgetId,
    Claim,
    Group,
    GroupId,
    Machine,
    MachineId,
    Outcome,
    Rollout,
    RolloutId,
    System,
    Task,
    Verb,
)
from upkeep.core.version import ImageVersion

# System, verb, and whether the version was found guilty (None: either).
PastKind = tuple[System, Verb, bool | None]
# How many ended rollouts of each kind a plan is given, the newest.  Each kind has a number of its
# own, and no age: nothing else that happens in a group, however often, makes it try a bad version
# again.  Scaling and repairs look at their last few.
REMEMBERED: Mapping[PastKind, int] = {
    (System.OS_IMAGE, Verb.REPLACE_OS_DISK, True): 200,
    (System.OS_IMAGE, Verb.REPLACE_OS_DISK, False): 200,
    (System.OS_IMAGE, Verb.REIMAGE, True): 200,
    (System.OS_IMAGE, Verb.REIMAGE, False): 200,
    (System.SCALE, Verb.CREATE, None): 20,
    (System.SCALE, Verb.DELETE, None): 20,
    (System.SCALE, Verb.START, None): 20,
    (System.REPAIR, Verb.RESTART, None): 20,
    (System.REPAIR, Verb.REIMAGE, None): 20,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A zone, host or fault domain: how many machines it has fleet-wide, and who went away.

    `away` holds (lost_at, back_at) of each machine that turned UNKNOWN outside of work.
    """

    kind: str
    name: str
    size: int
    away: tuple[tuple[datetime, datetime | None], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Half-open [opens, closes): one occurrence of a window or a blackout, with its name."""

    opens: datetime
    closes: datetime
    name: str = ""


# What a person can ask for instead of a version; none is written so.
GROUPS_MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCall:
    """A person asked for something; becomes a rollout of System.OPERATOR or of OS_IMAGE.

    Attributes:
        machines: empty means every machine of the group that needs it.
        target: version for a started OS image rollout; empty means latest, `GROUPS_MODEL` that it
            brings the group's model.
    """

    id: str
    verb: Verb
    machines: tuple[MachineId, ...] = ()
    target: str = ""
    force: bool = False
    actor: str = ""


def remembered(ended: Iterable[Rollout]) -> list[Rollout]:
    """Of a group's ended rollouts, newest first, those that a plan is given."""
    counts: Counter[PastKind] = Counter()
    kept = []
    for rollout in ended:
        kind: PastKind = (rollout.system, rollout.verb, rollout.guilty)
        if kind not in REMEMBERED:
            kind = (rollout.system, rollout.verb, None)
        counts[kind] += 1
        if counts[kind] <= REMEMBERED.get(kind, 0):
            kept.append(rollout)
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All that is known of one group at one moment.

    Attributes:
        rollouts: the open ones; at most one OS image rollout.
        past: the ended rollouts that are `remembered`, newest first.
        alarms: those of the group, by name.
        hook_events: what the open rollouts have asked at their lifecycle hooks, in order.
        outcomes: of the actions that the tasks of open rollouts wait for, by key.
        windows: occurrences in which disruptive work may start; empty means always.
        awake_since: nobody has looked at the machines for a while before; None: long ago.
        clock_stepped: the wall clock disagrees with the engine's by more than 30 s.
    """

    group: Group
    machines: tuple[Machine, ...]
    versions: tuple[ImageVersion, ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    past: tuple[Rollout, ...] = ()
    tasks: tuple[Task, ...] = ()
    hook_events: tuple[HookEvent, ...] = ()
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()
    claims: tuple[Claim, ...] = ()
    calls: tuple[OperatorCall, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    domains: tuple[Domain, ...] = ()
    windows: tuple[Interval, ...] | None = None
    blackouts: tuple[Interval, ...] = ()
    awake_since: datetime | None = None
    clock_stepped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An intent: one verb on one machine, named by a derived key, so that it happens once.

    Attributes:
        version, model: what a new OS disk is made of.
    """

    key: str
    group: GroupId
    machine: MachineId
    rollout: RolloutId
    verb: Verb
    version: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to write, all in one transaction; the executor acts on it afterwards.

    Attributes:
        machines: rows to add or to change (made, stopped, deleted, last work).
        rollouts: new or changed rollouts; tasks: new or changed tasks.
        hook_events: questions that were put or closed.
        revoked: keys of commands to agents that nobody wants done any more.
        claims: taken now; released: (budget, machine) given back now.
        budget_versions: what the claims relied on; the commit checks them again.
        holds: the whole truth for the group: what is not here is lifted.
        calls_done: operator calls that have become rollouts or were refused, with the reason.
        story: one line per decision, for people; goes into the group's history.
        next_wake: the next moment at which anything could change without any input.
    """

    group: Group
    machines: tuple[Machine, ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    tasks: tuple[Task, ...] = ()
    hook_events: tuple[HookEvent, ...] = ()
    actions: tuple[Action, ...] = ()
    revoked: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    released: tuple[tuple[BudgetId, MachineId], ...] = ()
    budget_versions: Mapping[BudgetId, int] = field(default_factory=dict)
    holds: tuple[Hold, ...] = ()
    calls_done: tuple[tuple[str, str], ...] = ()
    story: tuple[str, ...] = ()
    next_wake: datetime | None = None
