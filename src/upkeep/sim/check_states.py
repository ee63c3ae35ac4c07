"""What the rows say must be true, and nothing may be left lying about.

A machine called updated has served on the target since the call ended; one called rolled back is
on the version it had, which was healthy once; no claim outlives the health of its machine.
"""

from datetime import datetime

from upkeep.core.model import Failure, Task, Verb
from upkeep.core.task import TaskState
from upkeep.platforms.simulated import Call, SimulatedMachine
from upkeep.sim.checkers import TAKES_DOWN, BlindChecker, Commit, Facts, RuleBroken, subject
from upkeep.sim.world import Truth


class StateChecker(BlindChecker):
    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        # Machine → it has served since the last call that renewed it ended.
        self._served: dict[str, bool] = {}
        # (rollout, machine) → the image on the machine when its work began.
        self._image_before: dict[tuple[str, str], str] = {}
        self._model_before: dict[tuple[str, str], str] = {}

    def began(self, truth: Truth, call: Call) -> None:
        if Verb(call.verb) in TAKES_DOWN or call.verb.value == Verb.START.value:
            self._served[truth.name] = False

    def ended(self, truth: Truth, call: Call, machine: SimulatedMachine) -> None:
        self._served[truth.name] = truth.serves

    def serving(self, truth: Truth) -> None:
        if truth.serves and truth.platform.call is None:
            self._served[truth.name] = True

    def committed(self, commit: Commit) -> None:
        for task, before in commit.moved:
            self._task(task, before)
            if before is TaskState.VERIFYING and task.failure is Failure.NOT_HEALTHY_IN_TIME:
                self._had_time(task, commit.now)
        for action in commit.plan.actions:
            task = self.facts.tasks[(action.rollout, action.machine)]
            if task.state is TaskState.ROLLING_BACK and not task.surge:
                self._way_back(task, action.version)

    def _had_time(self, task: Task, now: datetime) -> None:
        """What nobody could see is no failure: its health wait passed while somebody looked."""
        looked = now - self.facts.planner_sees_since
        if looked < self.facts.rollouts[task.rollout].policy.health_wait:
            raise RuleBroken("UNSEEN", f"{task.machine} is failed after a look of {looked}: {task}")

    def _task(self, task: Task, before: TaskState | None) -> None:
        truth = self.facts.truth(subject(task))
        if truth is None:
            return
        rollout = self.facts.rollouts[task.rollout]
        key = (str(task.rollout), str(task.machine))
        if task.state is TaskState.RUNNING:
            self._image_before[key] = truth.platform.image
            self._model_before[key] = truth.platform.model
        seen_well = task.state is TaskState.BAKING or (
            task.state is TaskState.DONE and before is not TaskState.BAKING
        )
        if seen_well and rollout.verb in (Verb.RESTART, Verb.REPLACE_OS_DISK, Verb.START):
            self._is_well(task, truth, rollout.target)
        elif seen_well and rollout.verb is Verb.REIMAGE:
            self._is_well(task, truth, self._image_before[key])
            if rollout.is_of_model and truth.platform.model != rollout.target:
                raise RuleBroken("MODEL", f"{truth.name} has {truth.platform.model}: {task}")
        if task.state is TaskState.ROLLED_BACK and task.healed and not task.surge:
            self._is_well(task, truth, self._image_before[key])
            if rollout.is_of_model and truth.platform.model != self._model_before[key]:
                raise RuleBroken("ROLLBACK", f"{truth.name} has {truth.platform.model}: {task}")

    def _is_well(self, task: Task, truth: Truth, version: str) -> None:
        if version and truth.platform.image != version:
            raise RuleBroken(
                "VERSION",
                f"{task.rollout}: {truth.name} runs {truth.platform.image}, not {version}",
            )
        if not self._served.get(truth.name, True):
            raise RuleBroken("SEEN_HEALTHY", f"{task.rollout}: {truth.name} has never served since")

    def _way_back(self, task: Task, version: str) -> None:
        group = self.facts.rollouts[task.rollout].group
        before = self._image_before.get((str(task.rollout), str(task.machine)))
        if version != before:
            raise RuleBroken("ROLLBACK", f"{task.machine} goes to {version}, it had {before}")
        if task.repair:
            return  # It was ill on what it had; it goes back there all the same.
        if (self.facts.world.image_of(group), version) not in self.facts.world.once_healthy:
            raise RuleBroken("ROLLBACK", f"{task.machine} goes to {version}, never healthy")

    def looked(self) -> None:
        """Claims of machines that have been well for long, and holds that have run out."""
        facts = self.facts
        now, long = facts.kernel.now, 2 * facts.detect_s()
        if now - facts.watched_since < long:
            return
        for row in facts.store.groups.values():
            for budget, machine_id in row.claims:
                truth = facts.truth(machine_id)
                if truth is None:
                    raise RuleBroken("CLAIM_LEFT", f"{budget}: {machine_id} does not exist")
                # With its agent cut off it serves, and nobody is sure of it.
                well_since = max(truth.since, truth.well_since)
                if truth.serves and now - well_since > long and machine_id not in facts.in_hand:
                    health = row.machines[machine_id].health
                    raise RuleBroken("CLAIM_LEFT", f"{budget}: {truth.name} is well ({health})")
