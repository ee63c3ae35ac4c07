"""Repairs take only who has long been ill, few at a time, and nobody whom a person spares.

Held against the rows' health, which is all that anybody can know, the drawn policy, and what
people asked for.
"""

from upkeep.core.model import Health, Lifecycle, MachineId, RolloutId, System, Task
from upkeep.core.task import TERMINAL, TaskState
from upkeep.sim.checkers import OURS, BlindChecker, Commit, Facts, RuleBroken

SHARE_PERCENT = 5


class RepairChecker(BlindChecker):
    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._repairs = {g.group.id: g.group.repairs for g in facts.drawing.groups}
        self._open: set[tuple[RolloutId, MachineId]] = set()

    def committed(self, commit: Commit) -> None:
        for task, before in commit.moved:
            rollout = self.facts.rollouts[task.rollout]
            if rollout.system is not System.REPAIR:
                continue
            key = (task.rollout, task.machine)
            (self._open.discard if task.state in TERMINAL else self._open.add)(key)
            if before in (None, TaskState.HELD) and task.state in OURS:
                self._taken(commit, task)

    def _taken(self, commit: Commit, task: Task) -> None:
        group = commit.plan.group.id
        repairs = self._repairs[group]
        what = f"{task.rollout} takes {task.machine}"
        if repairs is None:
            raise RuleBroken("REPAIR", f"{what}: nobody asked for repairs in {group}")
        row = self.facts.store.groups[group]
        machine = row.machines[task.machine]
        if group in self.facts.suspended:
            raise RuleBroken("REPAIR", f"{what}: a person has suspended the repairs of {group}")
        if machine.protected or machine.scale_in_protected:
            raise RuleBroken("REPAIR", f"{what}: it is protected")
        if machine.health is not Health.UNHEALTHY:
            raise RuleBroken("REPAIR", f"{what}: it is {machine.health}")
        if commit.now - machine.health_since < repairs.grace:
            raise RuleBroken("REPAIR", f"{what}: it is ill since {machine.health_since:%H:%M:%S}")
        present = sum(m.lifecycle is Lifecycle.PRESENT for m in row.machines.values())
        at_once = sum(self.facts.rollouts[rollout].group == group for rollout, _ in self._open)
        # Since it was let in others may have left the group.
        if at_once > max(1, (present + at_once) * SHARE_PERCENT // 100):
            raise RuleBroken("REPAIR", f"{what}: {at_once} of {present} are repaired at once")
