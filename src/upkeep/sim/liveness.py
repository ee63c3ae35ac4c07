"""When everything is healed, everything must come to rest: at the newest version, or held for good.

`unrest` lists what has not: it is asked every few hours, and must become empty.
"""

from collections import Counter

from upkeep.core.blame import LOST_MACHINES_MIN
from upkeep.core.budget import is_down
from upkeep.core.hold import Hold, HoldReason
from upkeep.core.model import BudgetId, Health, Lifecycle, Machine, System
from upkeep.core.version import is_older, latest
from upkeep.sim.check_budgets import limit_of
from upkeep.sim.checkers import Facts
from upkeep.sim.drawing import BAD
from upkeep.sim.memory_domains import DomainKey, domains_of
from upkeep.sim.memory_rows import GroupRow

# With these a machine may be left for good: a person must do something.
FOR_GOOD = frozenset(
    {
        HoldReason.AUTO_UPGRADE_OFF,
        HoldReason.MODEL_BY_HAND,
        HoldReason.PROTECTED,
        HoldReason.OPTED_OUT,
        HoldReason.SKIP_REQUESTED,
    }
)
# Waiting for other machines of the group.
_AFTER_OTHERS = frozenset(
    {
        HoldReason.RETRY_LATER,
        HoldReason.RETRIES_SPENT,
        HoldReason.NOT_IN_ROLLOUT,
        HoldReason.BATCH_OPEN,
        HoldReason.FAILED_HERE,
        HoldReason.HALTED,
        HoldReason.HOOK,  # Left out at it: the next rollout takes the machine.
    }
)
_BUDGETS = frozenset({HoldReason.BUDGET_SPENT, HoldReason.BUDGET_RESERVED})
# Said whatever else there is: when the window opens, a spent budget holds the machine on.
_OUT_OF_TIME = frozenset({HoldReason.OUTSIDE_WINDOW, HoldReason.WINDOW_TOO_SHORT})


def unrest(facts: Facts) -> list[str]:
    """What is not at rest, a line each."""
    found = []
    for row in facts.store.groups.values():
        target = latest(facts.store.catalogue.of(row.group.image_name))
        assert target is not None
        for machine in row.sorted_machines():
            found += _machine(facts, row, machine, target)
        for budget, machine_id in row.claims:
            if row.machines[machine_id].health is Health.HEALTHY:
                found.append(f"{machine_id} is well and keeps its claim on {budget}")
        for action in facts.store.pending_of(row.group.id):
            found.append(f"{action} is still to be done")
    return found


def newest(facts: Facts) -> int:
    """How many machines run the newest version of their image, and how many the newest model."""
    return sum(
        (machine.image == latest(facts.store.catalogue.of(row.group.image_name)))
        + (machine.model == row.group.model)
        for row in facts.store.groups.values()
        for machine in row.machines.values()
    )


def _machine(facts: Facts, row: GroupRow, machine: Machine, target: str) -> list[str]:
    if machine.lifecycle is Lifecycle.STOPPED:
        return []
    if machine.lifecycle is not Lifecycle.PRESENT:
        return [f"{machine.name} is still {machine.lifecycle}"]
    truth = facts.truth(machine.id)
    if truth is None:
        return [f"{machine.name} does not exist"]
    holds = [hold for (key, _), (hold, _) in row.holds.items() if key == machine.id]
    if machine.image != truth.platform.image:
        return [f"{machine.name}: the row says {machine.image}, it runs {truth.platform.image}"]
    if _is_cut_off(facts, machine):
        return []  # Its image has cut it off: no action can be proposed, and a hold says so.
    if is_older(machine.image, target) or machine.model not in ("", row.group.model):
        return [
            f"{machine.name} runs {machine.image} ({machine.model}), not {target}: {hold.reason}"
            for hold in holds or ()
            if hold.system is System.OS_IMAGE and not _is_for_good(facts, row, machine, hold)
        ] or ([] if holds else [f"{machine.name} runs {machine.image} without a hold"])
    if machine.health is Health.HEALTHY:
        return []
    return [f"{machine.name} is {machine.health} (in truth it serves: {truth.serves})"]


def _is_cut_off(facts: Facts, machine: Machine) -> bool:
    """Its own image has done it: nobody will reach it again."""
    truth = facts.truth(machine.id)
    return (
        truth is not None
        and truth.behaviour in BAD
        and not truth.serves
        and machine.health is Health.UNKNOWN
    )


def _is_for_good(facts: Facts, row: GroupRow, machine: Machine, hold: Hold) -> bool:
    if hold.reason in FOR_GOOD or machine.protected:
        return True
    if hold.reason in _BUDGETS:
        return _is_spent_for_good(facts, hold.budget)
    if hold.reason in _OUT_OF_TIME:
        counting = [b for b, budget in facts.store.budgets.items() if machine.id in budget.counted]
        return any(_is_spent_for_good(facts, budget) for budget in counting)
    if hold.reason is HoldReason.DOMAIN_LOST:
        return _has_lost_domain(facts, row)
    if hold.reason not in _AFTER_OTHERS:
        return False
    # Machines that nobody can heal stop each attempt; a budget that stays spent, those behind.
    ill = [m for m in row.machines.values() if is_down(m)]
    others = [other for other, _ in row.holds.values() if other.reason in _BUDGETS]
    return len(ill) > 1 or any(_is_spent_for_good(facts, other.budget) for other in others)


def _is_spent_for_good(facts: Facts, budget: BudgetId) -> bool:
    """It allows nobody down, or those who are down have been given up."""
    row = facts.store.budgets[budget]
    sizes: dict[str, int] = {}
    used: dict[str, int] = {}
    for (_, zone), count in row.size.items():
        sizes[zone] = sizes.get(zone, 0) + count
    for (_, zone), count in row.used.items():
        used[zone] = used.get(zone, 0) + count
    return any(used.get(zone, 0) >= limit_of(row.rule, size) for zone, size in sizes.items())


def _has_lost_domain(facts: Facts, row: GroupRow) -> bool:
    """Half of a zone, a host or a fault domain of the group, and three machines, are cut off."""
    there: Counter[DomainKey] = Counter()
    cut_off: Counter[DomainKey] = Counter()
    for other in facts.store.groups.values():
        for machine in other.machines.values():
            if machine.lifecycle is Lifecycle.PRESENT:
                places = domains_of(other.group, machine)
                there.update(places)
                cut_off.update(places if _is_cut_off(facts, machine) else ())
    return any(
        cut_off[place] >= max(LOST_MACHINES_MIN, there[place] / 2)
        for machine in row.machines.values()
        for place in domains_of(row.group, machine)
    )
