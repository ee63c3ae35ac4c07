"""A budget as a planner reads it: its size, who is down elsewhere, who waits for a place."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from upkeep.core.model import Budget, GroupId, Priority
from upkeep.sim.memory_rows import BudgetRow, GroupRow


def budget_of(
    budget: BudgetRow, row: GroupRow, groups: Mapping[GroupId, GroupRow], now: datetime
) -> Budget:
    """For the planner of one group."""
    group = row.group.id
    size: dict[str, int] = {}
    for (_, zone), count in budget.size.items():
        if count:
            size[zone] = size.get(zone, 0) + count
    elsewhere: dict[str, int] = {}
    for (owner, zone), count in budget.used.items():
        if owner != group and count:
            elsewhere[zone] = elsewhere.get(zone, 0) + count
    members = frozenset(m.id for m in row.machines.values() if m.id in budget.counted)
    return replace(
        budget.rule,
        size=size,
        used_elsewhere=elsewhere,
        members=None if len(members) == len(row.machines) else members,
        version=budget.version,
        started=budget.started_within(now),
        waiting_elsewhere=_waiting_elsewhere(budget, group, groups),
    )


def _waiting_elsewhere(
    budget: BudgetRow, group: GroupId, groups: Mapping[GroupId, GroupRow]
) -> tuple[Priority, datetime] | None:
    first: tuple[Priority, datetime] | None = None
    for other in budget.selector.groups:
        if other == group or other not in groups:
            continue
        for hold, since in groups[other].holds.values():
            if hold.budget == budget.rule.id:
                candidate = (hold.priority, since)
                first = candidate if first is None else min(first, candidate)
    return first
