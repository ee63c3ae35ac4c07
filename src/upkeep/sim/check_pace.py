"""No rollout has begun more machines than its canary, its checkpoints and its ramp allow by then.

Worked out anew from the drawn policy, from what was announced and from when batches were closed.
"""

from collections import defaultdict
from datetime import datetime

from upkeep.core.model import MachineId, Rollout, RolloutId
from upkeep.core.task import TaskState
from upkeep.sim.checkers import OURS, BlindChecker, Commit, Facts, RuleBroken, waits_as_agreed


class PaceChecker(BlindChecker):
    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._policies = {g.group.id: g.group.policy for g in facts.drawing.groups}
        self._announced: defaultdict[RolloutId, set[MachineId]] = defaultdict(set)
        # How many each rollout had begun when it was looked at last, and when a batch was closed.
        self._begun: dict[RolloutId, int] = {}
        self._closed_at: dict[RolloutId, datetime] = {}

    def committed(self, commit: Commit) -> None:
        touched = set()
        for task, before in commit.moved:
            if before in (None, TaskState.HELD) and task.state in OURS:
                self._announced[task.rollout].add(task.machine)
            touched.add(task.rollout)
        for name in sorted(touched):
            rollout = self.facts.rollouts[name]
            if waits_as_agreed(self.facts, rollout):
                self._look_at(rollout, commit.now)
        for rollout in commit.plan.rollouts:
            if rollout.batch_closed_at is not None:
                self._closed_at[rollout.id] = rollout.batch_closed_at

    def _look_at(self, rollout: Rollout, now: datetime) -> None:
        # A machine whose work was withdrawn gives its place to another.
        tasks = self.facts.tasks
        begun = sum(
            tasks[(rollout.id, machine)].batch > 0
            and tasks[(rollout.id, machine)].state is not TaskState.CANCELLED
            for machine in self._announced[rollout.id]
        )
        before = self._begun.get(rollout.id, 0)
        self._begun[rollout.id] = begun
        if begun <= before:
            return
        policy, size = self._policies[rollout.group], rollout.size
        canary = max(1, size * policy.canary_percent // 100)
        if policy.canary_percent and rollout.id not in self.facts.promoted and begun > canary:
            raise RuleBroken("CANARY", f"{rollout.id} has begun {begun} of {size} unpromoted")
        for percent in policy.checkpoints:
            rests_at = max(1, size * percent // 100)
            if before < rests_at < begun:
                raise RuleBroken("CHECKPOINT", f"{rollout.id} goes from {before} to {begun}")
            if before == rests_at:
                rested = now - self._closed_at[rollout.id]
                if rested < policy.checkpoint_bake:
                    raise RuleBroken("CHECKPOINT", f"{rollout.id} rests at {before} for {rested}")
        begun_at = self.facts.begun_at.get(rollout.id, now)
        elapsed = (now - begun_at) / policy.ramp if policy.ramp else 1.0
        if begun > 1 and begun > size * elapsed + 1e-6 and elapsed < 1:
            raise RuleBroken("RAMP", f"{rollout.id}: {begun} of {size} at {elapsed:.3f} of it")
