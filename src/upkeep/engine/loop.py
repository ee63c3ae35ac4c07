"""The planner's loop: read a group, ask the core, write the plan; again when something moves.

A tick costs what changed: it plans the groups that were marked (by an outcome, a sighting, an
operator) and those whose `next_wake` has come, never the whole fleet.  No decision lives here or
in this process's memory.

The one guard of the product stands here: a mistake of ours, in a plan or in what a group's rows
say, parks that group for a minute with its trace in its history, and the loop goes on with the
others.  A store that is away is no mistake: whoever drives the loop waits for it.
"""

import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from upkeep.core.model import GroupId
from upkeep.core.plan import plan_group
from upkeep.core.snapshot import Plan
from upkeep.core.task import IllegalTransition
from upkeep.engine.clock import EngineClock
from upkeep.engine.fleet_store import FleetStore

# One group is planned at most five times a second on average, so that a storm of check-ins
# costs a bounded share of the machine; a short burst may come at once.
PLANS_PER_SECOND = 5
GROUPS_PER_TICK = 100
PARKED_FOR = timedelta(minutes=1)
OUR_MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    IllegalTransition,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class Engine:
    """Plans due groups.

    Args:
        on_plan: told of each plan that was written, before its actions start (events, metrics).
    """

    def __init__(
        self,
        store: FleetStore,
        clock: EngineClock,
        *,
        on_plan: Callable[[Plan], None] = lambda plan: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._on_plan = on_plan
        # Group → (allowance left, when it was counted).
        self._allowance: dict[GroupId, tuple[float, datetime]] = {}

    def tick(self) -> int:
        """Plan every due group once; answers how many plans were written."""
        now = self._clock.now()
        written = 0
        for group in self._store.due_groups(now, GROUPS_PER_TICK):
            if self._may_plan(group, now) and self._plan(group, now):
                written += 1
        return written

    def _may_plan(self, group: GroupId, now: datetime) -> bool:
        left, counted_at = self._allowance.get(group, (float(PLANS_PER_SECOND), now))
        refill = (now - counted_at).total_seconds() * PLANS_PER_SECOND
        left = min(float(PLANS_PER_SECOND), left + refill)
        if left < 1:
            self._allowance[group] = (left, now)
            return False
        self._allowance[group] = (left - 1, now)
        return True

    def _plan(self, group: GroupId, now: datetime) -> bool:
        stepped = self._clock.stepped() is not None
        try:
            found = self._store.read_group(group, now=now, clock_stepped=stepped)
            if found is None:
                return False
            snapshot, read = found
            snapshot = replace(snapshot, awake_since=self._clock.awake_since)
            plan = plan_group(snapshot, now=now)
        except OUR_MISTAKES:
            self._store.park_group(group, trace=traceback.format_exc(), until=now + PARKED_FOR)
            return False
        # When a budget moved since the read nothing is written; the group stays due.
        if not self._store.commit_plan(plan, read, now=now):
            return False
        self._on_plan(plan)
        return True
