"""How many machines may be down at once, and whether one more may be.

A machine counts once per budget, whether it is down by itself or claimed.  Claims on all the
budgets that select a machine are taken together or not at all; the commit checks each budget's
version again, so that two groups planned at once cannot share one last place.

Rounding: a percentage of `max_down` rounds down but never below one (a small group would be held
for ever); a percentage of `min_available` rounds up.  Source: sheet os-image §2.4 step 4, §12
(Cluster API), docs/adr/0003.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from upkeep.core.hold import Hold, HoldReason
from upkeep.core.model import (
    Budget,
    Claim,
    Health,
    Lifecycle,
    Machine,
    MachineId,
    Priority,
    RolloutId,
    System,
)
from upkeep.core.policy import share_of

# Work held on a budget for so long is served before newer work of other groups.
STARVED_AFTER = timedelta(hours=1)
# The work that went first may end without a word to those behind it (cancelled, held by something
# else): they look again.
RESERVED_LOOK = timedelta(minutes=5)


def allowed_down(budget: Budget, *, zone: str = "", left: int = 0) -> int:
    """How many of the selected machines may be down at once, in `zone` when it is per zone.

    Args:
        left: machines that the budget's size counts and that count no more.
    """
    size = max(0, budget.size.get(zone if budget.per_zone else "", 0) - left)
    if budget.max_down is not None:
        if budget.percent:
            return share_of(budget.max_down, size=size)
        return budget.max_down
    assert budget.min_available is not None
    needed = budget.min_available
    if budget.percent:
        needed = -(-size * budget.min_available // 100)  # Rounded up.
    return max(0, size - needed)


def is_down(machine: Machine) -> bool:
    """True for every machine that does not serve now, whatever the cause."""
    return machine.lifecycle is Lifecycle.PRESENT and machine.health is not Health.HEALTHY


class Ledger:
    """The budgets of one plan while claims are being taken; lives for one `plan_group` call."""

    def __init__(
        self,
        budgets: Iterable[Budget],
        machines: Mapping[MachineId, Machine],
        claims: Iterable[Claim],
    ) -> None:
        self._budgets = tuple(budgets)
        self._machines = machines
        claimed: dict[str, set[MachineId]] = {budget.id: set() for budget in self._budgets}
        for claim in claims:
            if claim.budget in claimed:
                claimed[claim.budget].add(claim.machine)
        down = {machine.id for machine in machines.values() if is_down(machine)}
        # For each budget, this group's machines that count in it now.
        self._counted: dict[str, set[MachineId]] = {}
        self._used: dict[tuple[str, str], int] = {}
        self._started: dict[str, int] = {}
        # Machines that the budgets' sizes still count and that have left in this plan.
        self._left: dict[tuple[str, str], int] = {}
        for budget in self._budgets:
            members = budget.members
            counted = claimed[budget.id] | (down if members is None else down & members)
            self._counted[budget.id] = counted
            for zone, used in budget.used_elsewhere.items():
                self._used[(budget.id, zone)] = used
            for machine_id in counted:
                slot = (budget.id, self._zone(budget, machine_id))
                self._used[slot] = self._used.get(slot, 0) + 1

    def _zone(self, budget: Budget, machine: MachineId) -> str:
        if not budget.per_zone or machine not in self._machines:
            return ""
        return self._machines[machine].zone

    def of(self, machine: MachineId) -> list[Budget]:
        """The budgets that select the machine."""
        return [b for b in self._budgets if b.members is None or machine in b.members]

    def refusal(
        self,
        machine: MachineId,
        *,
        system: System,
        priority: Priority,
        waiting_since: datetime,
        now: datetime,
    ) -> Hold | None:
        """Why the machine cannot be taken down now; None when every budget has a place."""
        # Down already in a budget: taking it costs nobody anything more there.
        asked = [b for b in self.of(machine) if machine not in self._counted[b.id]]
        # What is spent comes first: work that waits for one budget keeps no place in another.
        for budget in asked:
            zone = self._zone(budget, machine)
            used = self._used.get((budget.id, zone), 0)
            allowed = self._allowed(budget, zone)
            if used + 1 > allowed:
                return _spent(budget, zone, used, allowed, machine, system, priority)
        for budget in asked:
            if is_reserved(budget, priority=priority, waiting_since=waiting_since, now=now):
                return Hold(
                    machine=machine,
                    system=system,
                    reason=HoldReason.BUDGET_RESERVED,
                    budget=budget.id,
                    priority=priority,
                    lifted_by=f"work of another group has waited longer on budget {budget.name}",
                )
            recent = [moment for moment in budget.started if moment + budget.rate_period > now]
            if budget.rate and len(recent) + self._started.get(budget.id, 0) >= budget.rate:
                first = min(recent, default=now)
                return Hold(
                    machine=machine,
                    system=system,
                    reason=HoldReason.RATE_SPENT,
                    until=first + budget.rate_period,
                    budget=budget.id,
                    priority=priority,
                    lifted_by=f"budget {budget.name} starts at most {budget.rate} machines "
                    f"in {budget.rate_period}",
                )
        return None

    def overdrawn(self, machine: MachineId, *, system: System, priority: Priority) -> Hold | None:
        """A budget in which the machine counts and more are down than it allows, or None.

        Asked before work begins that took its places some time ago: others may have fallen ill
        since, or the budget may have become smaller.
        """
        for budget in self.of(machine):
            zone = self._zone(budget, machine)
            used = self._used.get((budget.id, zone), 0)
            allowed = self._allowed(budget, zone)
            if used > allowed:
                return _spent(budget, zone, used - 1, allowed, machine, system, priority)
        return None

    def take(
        self, machine: MachineId, rollout: RolloutId, *, overdraft: bool, now: datetime
    ) -> list[Claim]:
        """Claims on every budget that selects the machine; ask `refusal` first."""
        taken = []
        for budget in self.of(machine):
            counted = self._counted[budget.id]
            if machine not in counted:
                zone = self._zone(budget, machine)
                slot = (budget.id, zone)
                used = self._used.get(slot, 0) + 1
                assert overdraft or used <= self._allowed(budget, zone)
                self._used[slot] = used
                counted.add(machine)
            self._started[budget.id] = self._started.get(budget.id, 0) + 1
            taken.append(
                Claim(
                    budget=budget.id,
                    machine=machine,
                    rollout=rollout,
                    taken_at=now,
                    overdraft=overdraft,
                )
            )
        return taken

    def give_back(self, machine: MachineId) -> None:
        """The machine's claims end in this plan: it counts on only if it is down by itself."""
        seen = self._machines.get(machine)
        if seen is not None and is_down(seen):
            return
        for budget in self._budgets:
            counted = self._counted[budget.id]
            if machine in counted:
                counted.remove(machine)
                self._used[(budget.id, self._zone(budget, machine))] -= 1

    def left(self, machine: Machine) -> None:
        """A machine that counted until now leaves in this plan (stopped, on its way out).

        Percentages and `min_available` are of those that stay: with at least 50 of 51 up, one
        stopped for good leaves no place for a second.
        """
        for budget in self.of(machine.id):
            slot = (budget.id, machine.zone if budget.per_zone else "")
            self._left[slot] = self._left.get(slot, 0) + 1

    def _allowed(self, budget: Budget, zone: str) -> int:
        slot = (budget.id, zone if budget.per_zone else "")
        return allowed_down(budget, zone=zone, left=self._left.get(slot, 0))

    def versions(self, claims: Iterable[Claim]) -> dict[str, int]:
        """What the commit must find unchanged for these claims to stand."""
        wanted = {claim.budget for claim in claims}
        return {budget.id: budget.version for budget in self._budgets if budget.id in wanted}


def _spent(
    budget: Budget,
    zone: str,
    used: int,
    allowed: int,
    machine: MachineId,
    system: System,
    priority: Priority,
) -> Hold:
    where = f" in zone {zone}" if zone else ""
    return Hold(
        machine=machine,
        system=system,
        reason=HoldReason.BUDGET_SPENT,
        budget=budget.id,
        priority=priority,
        lifted_by=f"budget {budget.name} allows {allowed} down{where}, "
        f"and {used} are; a machine seen healthy again gives a place back",
    )


def is_reserved(
    budget: Budget, *, priority: Priority, waiting_since: datetime, now: datetime
) -> bool:
    """True when other work has waited over an hour on the budget and goes before ours."""
    if budget.waiting_elsewhere is None:
        return False
    their_priority, their_since = budget.waiting_elsewhere
    if now - their_since < STARVED_AFTER:
        return False
    return (their_priority, their_since) < (priority, waiting_since)
