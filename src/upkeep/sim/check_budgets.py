"""Never more machines of a budget down by our doing than it allows.

Three moments are watched.  When work is announced, the machines that are in our hands or, for so
long that the server must know it, down by themselves must leave a place; a machine counts once.
When its notice is over that must still be so.
When a call takes a serving machine down, the machines we have down must be within the limit.
Work that a person forced is excepted; a machine that is down already costs nothing more.
"""

from upkeep.core.model import Budget, BudgetId, Lifecycle, MachineId, RolloutId, Task, Verb
from upkeep.core.task import TaskState
from upkeep.platforms.simulated import Call, SimulatedMachine
from upkeep.sim.checkers import OURS, TAKES_DOWN, BlindChecker, Commit, Facts, RuleBroken
from upkeep.sim.memory_rows import BudgetSelector
from upkeep.sim.world import Truth


def limit_of(budget: Budget, size: int) -> int:
    """The limit as the documentation words it, worked out apart from the product's code."""
    if budget.max_down is not None:
        if not budget.percent:
            return budget.max_down
        return max(1, (size * budget.max_down) // 100)
    assert budget.min_available is not None
    needed = budget.min_available
    if budget.percent:
        needed = (size * budget.min_available + 99) // 100
    return max(0, size - needed)


class BudgetChecker(BlindChecker):
    """See the module text.

    `_busy` holds machines from the moment their work is announced until they serve again after
    it; `_down` those that a call of ours has taken out of service.
    """

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._busy: dict[MachineId, RolloutId] = {}  # Machine id → rollout.
        self._down: set[str] = set()  # Names.
        self._free: set[MachineId] = set()  # Their present work was forced, or they looked ill.
        self._limits: dict[tuple[MachineId, BudgetId], int] = {}
        self._rules = facts.drawing.budgets
        # While one commit or one call is looked at nobody comes or goes.
        self._members: dict[tuple[BudgetId, str], list[Truth]] = {}

    def committed(self, commit: Commit) -> None:
        self._members.clear()
        for task, before in commit.moved:
            rollout = self.facts.rollouts[task.rollout]
            takes_down = rollout.verb in TAKES_DOWN
            if task.state in OURS and takes_down and not task.surge:
                self._in_hand(task, before, forced=rollout.force)
            elif task.state not in OURS:
                self._left_alone(task)
        for machine in commit.plan.machines:
            if machine.lifecycle in (Lifecycle.DELETED, Lifecycle.STOPPED):
                self._busy.pop(machine.id, None)
                self._down.discard(machine.name)

    def _in_hand(self, task: Task, before: TaskState | None, *, forced: bool) -> None:
        if before is TaskState.FAILED:
            return  # It goes back where it came from: it was ours, or down.
        if before not in OURS or task.machine not in self._busy:
            self._announced(task, forced=forced)
        elif before is TaskState.ANNOUNCED and task.machine not in self._free:
            self._notice_over(task)

    def _left_alone(self, task: Task) -> None:
        """Its work has ended; a machine that was never taken down is free at once."""
        truth = self.facts.truth(task.machine)
        never_begun = task.state in (TaskState.CANCELLED, TaskState.SKIPPED)
        if self._busy.get(task.machine) != task.rollout:
            return
        if never_begun or truth is None or (truth.serves and truth.platform.call is None):
            del self._busy[task.machine]

    def _announced(self, task: Task, *, forced: bool) -> None:
        machine, rollout = task.machine, task.rollout
        truth = self.facts.truth(machine)
        if truth is None or not self._counts(truth):
            return  # On its way out: it is not among those that must be up.
        # Witnesses may say that it is down already, and then it costs nothing more.
        free = forced or self.facts.looks_ill(truth)
        (self._free.add if free else self._free.discard)(machine)
        for rule, selector in self._selecting(truth):
            zone = truth.zone if rule.per_zone else ""
            limit = limit_of(rule, len(self._selected(rule, selector, zone)))
            self._limits[(machine, rule.id)] = limit
            if free or machine in self._busy:
                continue
            taken = self._taken(rule, selector, zone)
            if len(taken) + 1 > limit:
                raise RuleBroken(
                    "BUDGET",
                    f"{rollout} announces {truth.name}: budget {rule.id} {zone} allows {limit}, "
                    f"and {sorted(taken)} are down or in hand",
                )
        self._busy[machine] = rollout

    def _notice_over(self, task: Task) -> None:
        """Others may have fallen ill while its notice ran; then it must not go down as well."""
        truth = self.facts.truth(task.machine)
        if truth is None or not self._counts(truth) or self.facts.looks_ill(truth):
            return
        for rule, selector in self._selecting(truth):
            zone = truth.zone if rule.per_zone else ""
            limit = limit_of(rule, len(self._selected(rule, selector, zone)))
            taken = self._taken(rule, selector, zone) | {truth.name}
            if len(taken) > limit:
                raise RuleBroken(
                    "BUDGET",
                    f"{task.rollout} starts {truth.name} after its notice: budget {rule.id} {zone} "
                    f"allows {limit}, and {sorted(taken)} are down or in hand",
                )

    def _taken(self, rule: Budget, selector: BudgetSelector, zone: str) -> set[str]:
        return {
            truth.name
            for truth in self._selected(rule, selector, zone)
            if truth.id in self._busy or self.facts.known_down(truth)
        }

    def began(self, truth: Truth, call: Call) -> None:
        self._members.clear()
        if Verb(call.verb) not in TAKES_DOWN or not truth.serves:
            return
        if truth.id in self._free or self.facts.looks_ill(truth) or not self._counts(truth):
            return
        self._down.add(truth.name)
        for rule, selector in self._selecting(truth):
            zone = truth.zone if rule.per_zone else ""
            now = limit_of(rule, len(self._selected(rule, selector, zone)))
            limit = max(now, self._limits.get((truth.id, rule.id), 0))
            down = sorted(
                name
                for name in self._down
                if (other := self.facts.world.machines.get(name)) is not None
                and self._is_in(other, selector, zone)
            )
            if len(down) > limit:
                raise RuleBroken(
                    "BUDGET",
                    f"{call.key} takes {truth.name} down: budget {rule.id} {zone} allows "
                    f"{limit}, and by our doing {down} are down",
                )

    def serving(self, truth: Truth) -> None:
        if not truth.serves or truth.platform.call is not None:
            return
        self._down.discard(truth.name)
        task = self.facts.in_hand.get(truth.id)
        waits = (
            task is not None
            and task.state in (TaskState.ANNOUNCED, TaskState.DRAINING)
            and self._busy.get(truth.id) == task.rollout  # Else it only awaits its stand-in.
        )
        if not waits:
            self._busy.pop(truth.id, None)

    def ended(self, truth: Truth, call: Call, machine: SimulatedMachine) -> None:
        # A call that failed before it touched the machine has taken nobody down.
        if not truth.serves:
            return
        self._down.discard(truth.name)
        rollout = self._busy.get(truth.id)
        task = self.facts.tasks.get((rollout, truth.id)) if rollout is not None else None
        if task is not None and task.state not in OURS:
            # Its work has ended, and it came back while another's call was under way.
            del self._busy[truth.id]

    def _selecting(self, truth: Truth) -> list[tuple[Budget, BudgetSelector]]:
        return [
            (rule, selector)
            for rule, selector in self._rules
            if truth.group in selector.groups and selector.zone in ("", truth.zone)
        ]

    def _is_in(self, truth: Truth, selector: BudgetSelector, zone: str) -> bool:
        return (
            truth.group in selector.groups
            and selector.zone in ("", truth.zone)
            and zone in ("", truth.zone)
        )

    def _counts(self, truth: Truth) -> bool:
        """It is meant to serve: made, and not stopped by a person."""
        row = self.facts.store.groups[truth.group]
        machine = row.machines.get(truth.id)
        return machine is not None and machine.lifecycle is Lifecycle.PRESENT

    def _selected(self, rule: Budget, selector: BudgetSelector, zone: str) -> list[Truth]:
        """The machines of the budget, of `zone` only if one is named, that are meant to serve."""
        found = self._members.get((rule.id, zone))
        if found is None:
            found = self._members[rule.id, zone] = [
                truth
                for group in selector.groups
                for machine in self.facts.store.groups[group].machines.values()
                if machine.lifecycle is Lifecycle.PRESENT
                and (truth := self.facts.truth(machine.id)) is not None
                and self._is_in(truth, selector, zone)
            ]
        return found
