"""Nobody is taken before what was asked about them is answered, or its time is over.

Held against what people said (`Facts.said`) and against the drawn policy, never against what a
plan took for an answer.
"""

from collections.abc import Iterator
from datetime import datetime

from upkeep.core.hook_event import Answer, HookEvent, HookKind
from upkeep.core.model import MachineId, Rollout, RolloutId, Task
from upkeep.core.policy import RollingPolicy
from upkeep.core.task import TaskState
from upkeep.sim.checkers import (
    OURS,
    BlindChecker,
    Commit,
    Facts,
    RuleBroken,
    waits_as_agreed,
)


class HookChecker(BlindChecker):
    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._policies = {g.group.id: g.group.policy for g in facts.drawing.groups}
        # As they were first put.
        self._asked: dict[tuple[RolloutId, int], HookEvent] = {}

    def committed(self, commit: Commit) -> None:
        for event in commit.plan.hook_events:
            self._asked.setdefault((event.rollout, event.serial), event)
        for task, before in commit.moved:
            if before in (None, TaskState.HELD) and task.state in OURS:
                self._taken(task, commit.now)

    def _taken(self, task: Task, now: datetime) -> None:
        rollout = self.facts.rollouts[task.rollout]
        if not waits_as_agreed(self.facts, rollout):
            return
        policy = self._policies[rollout.group]
        if policy.start_hook_wait:
            self._is_let_go(rollout, policy, HookKind.START, MachineId(""), now)
        if policy.batch_hook_wait:
            self._is_let_go(rollout, policy, HookKind.BATCH, task.machine, now)

    def _is_let_go(
        self,
        rollout: Rollout,
        policy: RollingPolicy,
        kind: HookKind,
        machine: MachineId,
        now: datetime,
    ) -> None:
        asked = self._of(rollout, kind, machine)
        if not any(self._approves(event, policy, machine, now) for event in asked):
            name = machine or "its first batch"
            raise RuleBroken("UNASKED", f"{rollout.id} takes {name}: nobody let it ({kind})")

    def _of(self, rollout: Rollout, kind: HookKind, machine: MachineId) -> Iterator[HookEvent]:
        for (of, _), event in self._asked.items():
            if of == rollout.id and event.kind is kind and machine in event.answers:
                yield event

    def _approves(
        self, event: HookEvent, policy: RollingPolicy, machine: MachineId, now: datetime
    ) -> bool:
        said = self.facts.said.get((event.rollout, event.serial, machine))
        if said is not None:
            return said is Answer.APPROVED
        is_start = event.kind is HookKind.START
        wait = policy.start_hook_wait if is_start else policy.batch_hook_wait
        until = self.facts.moved.get((event.rollout, event.serial), event.created_at + wait)
        silence = policy.start_hook_approves if is_start else policy.batch_hook_approves
        return silence and now >= until
