"""Always to know why: each outdated machine has an action or a hold, and what holds say is true.

The reasons are held against the rows and against what people asked for, each worked out here
anew.  A reason about other machines (the batch before is open) is left to liveness.
"""

from datetime import datetime

from upkeep.core.hold import Hold, HoldReason
from upkeep.core.model import (
    Budget,
    BudgetId,
    Group,
    Health,
    Lifecycle,
    Machine,
    MachineId,
    System,
    UpgradeMode,
)
from upkeep.core.version import is_older, latest
from upkeep.sim.check_budgets import limit_of
from upkeep.sim.check_starts import inside
from upkeep.sim.checkers import BlindChecker, Commit, Facts, RuleBroken
from upkeep.sim.memory_rows import BudgetSelector


class HoldChecker(BlindChecker):
    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._rules = {rule.id: (rule, selector) for rule, selector in facts.drawing.budgets}
        # Places wanted and places there are, by budget and zone: counted once a commit.
        self._places: dict[tuple[BudgetId, str | None], tuple[int, int]] = {}
        self._times = {g.group.id: (g.blackouts, g.windows) for g in facts.drawing.groups}

    def committed(self, commit: Commit) -> None:
        self._places.clear()
        holds: set[tuple[MachineId, System]] = set()
        rows = self.facts.store.groups[commit.plan.group.id].machines
        for hold in commit.plan.holds:
            key = (hold.machine, hold.system)
            if key in holds:
                raise RuleBroken("HOLD_TWICE", f"{hold.machine}: {hold.reason}")
            holds.add(key)
            if hold.until is not None and hold.until <= commit.now:
                raise RuleBroken("HOLD_PAST", f"{hold.machine}: {hold.reason} {hold.until}")
            if not self._is_true(commit, hold, rows[hold.machine]):
                raise RuleBroken("HOLD_UNTRUE", f"{hold.machine}: {hold.reason}, {hold.lifted_by}")
        self._all_explained(commit, {machine for machine, _ in holds})

    def _all_explained(self, commit: Commit, held: set[MachineId]) -> None:
        row = self.facts.store.groups[commit.plan.group.id]
        target = latest(self.facts.store.catalogue.of(row.group.image_name))
        for machine in row.machines.values():
            if machine.id in held or not _outdated(row.group, machine, target):
                continue
            if machine.id not in self.facts.at_work:
                raise RuleBroken("HELD", f"{machine.name} is outdated: no action and no hold")

    def _is_true(self, commit: Commit, hold: Hold, machine: Machine) -> bool:
        group, facts = commit.plan.group, self.facts
        match hold.reason:
            case HoldReason.BUDGET_SPENT:
                return self._is_spent(commit, hold, machine)
            case HoldReason.UNREACHABLE:
                return machine.health is Health.UNKNOWN
            case HoldReason.INITIALIZING:
                return machine.health is Health.INITIALIZING
            case HoldReason.PROTECTED:
                spared = hold.system is System.REPAIR and machine.scale_in_protected
                return machine.protected or spared
            case HoldReason.OPTED_OUT:
                return machine.opted_out
            case HoldReason.NEEDS_APPROVAL:
                theirs = [r.id for r in facts.rollouts.values() if r.ended_at is None]
                return not any((rollout, machine.id) in facts.approved for rollout in theirs)
            case HoldReason.REPAIR_GRACE | HoldReason.REPAIRS_BUSY | HoldReason.REPAIRS_SUSPENDED:
                return machine.health is Health.UNHEALTHY and group.repairs is not None
            case HoldReason.MACHINE_STOPPED:
                return machine.lifecycle is not Lifecycle.PRESENT
            case HoldReason.MODEL_BY_HAND:
                return facts.modes[group.id] is UpgradeMode.MANUAL
            case HoldReason.AUTO_UPGRADE_OFF:
                return not group.auto_upgrade
            case HoldReason.PAUSED:
                theirs = [r.id for r in facts.rollouts.values() if r.group == group.id]
                return any(name in facts.paused for name in (group.id, *theirs))
            case HoldReason.BLACKOUT | HoldReason.OUTSIDE_WINDOW:
                return self._is_out_of_time(hold, machine, commit.now)
            case _:
                return True

    def _is_out_of_time(self, hold: Hold, machine: Machine, now: datetime) -> bool:
        blackouts, windows = self._times[self.facts.store.group_of[machine.id]]
        if hold.reason is HoldReason.BLACKOUT:
            return any(inside(blackout, now) for blackout in blackouts)
        return windows is not None and not any(inside(window, now) for window in windows)

    def _is_spent(self, commit: Commit, hold: Hold, machine: Machine) -> bool:
        """No place is free."""
        rule, selector = self._rules[hold.budget]
        key = (rule.id, machine.zone if rule.per_zone else None)
        if key not in self._places:
            self._places[key] = self._count(commit, rule, selector, key[1])
        used, size = self._places[key]
        # A machine that leaves in this plan was part of the size, one that joins was not yet.
        changed = commit.plan.machines
        joined = sum(m.lifecycle is Lifecycle.PRESENT for m in changed)
        return len(changed) > joined or used >= limit_of(rule, size - joined)

    def _count(
        self, commit: Commit, rule: Budget, selector: BudgetSelector, zone: str | None
    ) -> tuple[int, int]:
        """Who is down or claimed, and who is there: over all groups, each machine once."""
        released = {name for budget, name in commit.plan.released if budget == rule.id}
        size = used = 0
        for group in selector.groups:
            row = self.facts.store.groups[group]
            for other in row.machines.values():
                if selector.zone not in ("", other.zone) or zone not in (None, other.zone):
                    continue
                present = other.lifecycle is Lifecycle.PRESENT
                # A place that was given back in this plan was still taken when it was asked for.
                claimed = (rule.id, other.id) in row.claims or other.id in released
                size += present
                used += claimed or (present and other.health is not Health.HEALTHY)
        return used, size


def _outdated(group: Group, machine: Machine, target: str | None) -> bool:
    if machine.lifecycle is not Lifecycle.PRESENT or not machine.image:
        return False
    is_behind = target is not None and is_older(machine.image, target)
    return is_behind or machine.model not in ("", group.model)
