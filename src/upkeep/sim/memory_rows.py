"""The rows of `memory.MemoryStore`: one group, one action, one budget as plain dicts.

Nothing here decides; it keeps counts up to date where a row changes, so that reading a group
costs what the group is large and not what the fleet is large.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from upkeep.core.alarm import Alarm
from upkeep.core.budget import is_down
from upkeep.core.health import AGENT_VERBS
from upkeep.core.hold import Hold
from upkeep.core.hook_event import HookEvent
from upkeep.core.model import (
    Budget,
    BudgetId,
    Claim,
    Group,
    GroupId,
    Lifecycle,
    Machine,
    MachineId,
    Outcome,
    Rollout,
    RolloutId,
    System,
    Task,
)
from upkeep.core.snapshot import Action, Interval, OperatorCall
from upkeep.core.version import ImageVersion
from upkeep.engine.fleet_store import AGENT


class ActionState(StrEnum):
    READY = "ready"  # Nobody's: to be claimed from `not_before` on.
    LEASED = "leased"
    DONE = "done"


@dataclass(slots=True, kw_only=True)
class ActionRow:
    action: Action
    not_before: datetime
    state: ActionState = ActionState.READY
    owner: str = ""
    lease_until: datetime | None = None
    fence: int = 0
    attempts: int = 0

    def waits_for_agent(self) -> bool:
        """Its machine's agent is offered it, and may end it."""
        if self.action.verb in AGENT_VERBS:
            return self.state is ActionState.READY
        return self.state is ActionState.LEASED and self.owner == AGENT


@dataclass(slots=True, kw_only=True)
class MachineExtra:
    """What the core does not look at.

    Attributes:
        fence: the highest given out for this machine, over all its actions.
    """

    platform: str
    address: str = ""
    watch_from: datetime
    fence: int = 0


@dataclass(slots=True, kw_only=True)
class GroupRow:
    """One group with everything that hangs on it.

    Attributes:
        marks: how often it was marked; `committed_marks` is the count at the last written plan.
        read_as: the group as the last planner read it, so that a commit writes only what the
            core changed and an operator's change made meanwhile is not undone.
    """

    group: Group
    platform: str
    probe: dict[str, object]
    source: str
    machines: dict[MachineId, Machine] = field(default_factory=dict)
    extras: dict[MachineId, MachineExtra] = field(default_factory=dict)
    open: dict[RolloutId, Rollout] = field(default_factory=dict)
    past: list[Rollout] = field(default_factory=list)
    alarms: dict[str, Alarm] = field(default_factory=dict)
    tasks: dict[RolloutId, dict[MachineId, Task]] = field(default_factory=dict)
    outcomes: dict[RolloutId, dict[str, Outcome]] = field(default_factory=dict)
    hook_events: dict[tuple[RolloutId, int], HookEvent] = field(default_factory=dict)
    claims: dict[tuple[BudgetId, MachineId], Claim] = field(default_factory=dict)
    calls: dict[str, OperatorCall] = field(default_factory=dict)
    calls_done: dict[str, str] = field(default_factory=dict)
    holds: dict[tuple[MachineId, System], tuple[Hold, datetime]] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)
    windows: tuple[Interval, ...] | None = None
    blackouts: tuple[Interval, ...] = ()
    marks: int = 1
    committed_marks: int = 0
    marked_at: datetime | None = None
    next_wake: datetime | None = None
    parked_until: datetime | None = None
    # How often a plan was committed.
    fence: int = 0
    read_as: Group | None = None
    machines_sorted: tuple[Machine, ...] | None = None

    def due_since(self, now: datetime) -> datetime | None:
        """Since when the group has been due, or None."""
        if self.parked_until is not None and now < self.parked_until:
            return None
        moment = self.wake_at()
        return moment if moment is not None and moment <= now else None

    def wake_at(self) -> datetime | None:
        """Since or from when it is due, parking aside."""
        if self.marks == self.committed_marks or self.marked_at is None:
            return self.next_wake
        return self.marked_at if self.next_wake is None else min(self.marked_at, self.next_wake)

    def sorted_machines(self) -> tuple[Machine, ...]:
        if self.machines_sorted is None:
            self.machines_sorted = tuple(self.machines[key] for key in sorted(self.machines))
        return self.machines_sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSelector:
    """Which machines a budget selects: those of some groups, in one zone or in all."""

    groups: frozenset[GroupId]
    zone: str = ""

    def selects(self, group: GroupId, machine: Machine) -> bool:
        return group in self.groups and (not self.zone or machine.zone == self.zone)


@dataclass(slots=True, kw_only=True)
class BudgetRow:
    """One budget with its counts per group and zone key, kept as machines and claims change.

    Attributes:
        rule: limit and rate; its counting fields are not used.
    """

    rule: Budget
    selector: BudgetSelector
    version: int = 0
    size: dict[tuple[GroupId, str], int] = field(default_factory=dict)
    used: dict[tuple[GroupId, str], int] = field(default_factory=dict)
    started: list[datetime] = field(default_factory=list)
    # Machine → (zone key, counted in size, counted as used), as last counted.
    counted: dict[MachineId, tuple[GroupId, str, bool, bool]] = field(default_factory=dict)

    @property
    def is_own(self) -> bool:
        """It is the one budget that its group was made with."""
        return len(self.selector.groups) == 1 and not self.selector.zone

    def count(self, group: GroupId, machine: Machine | None, key: MachineId, claimed: bool) -> bool:
        """Bring the counts of one machine up to date; True if its place in the budget moved."""
        before = self.counted.get(key)
        after: tuple[GroupId, str, bool, bool] | None = None
        if machine is not None and self.selector.selects(group, machine):
            zone = machine.zone if self.rule.per_zone else ""
            present = machine.lifecycle is Lifecycle.PRESENT
            after = (group, zone, present, claimed or is_down(machine))
        if before == after:
            return False
        if before is not None:
            self._add(before, -1)
        if after is not None:
            self._add(after, 1)
            self.counted[key] = after
        else:
            del self.counted[key]
        self.version += 1
        return True

    def _add(self, place: tuple[GroupId, str, bool, bool], change: int) -> None:
        group, zone, present, used = place
        slot = (group, zone)
        if present:
            self.size[slot] = self.size.get(slot, 0) + change
        if used:
            self.used[slot] = self.used.get(slot, 0) + change

    def started_within(self, now: datetime) -> tuple[datetime, ...]:
        if not self.rule.rate:
            return ()
        period: timedelta = self.rule.rate_period
        self.started = [moment for moment in self.started if now - moment < period]
        return tuple(self.started)


@dataclass(slots=True, kw_only=True)
class Catalogue:
    """The versions of each image, as every region sees them."""

    versions: dict[str, dict[str, ImageVersion]] = field(default_factory=dict)

    def of(self, image_name: str) -> tuple[ImageVersion, ...]:
        known = self.versions.get(image_name, {})
        return tuple(known[version] for version in sorted(known))
