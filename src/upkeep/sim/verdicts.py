"""How well the product tells a bad version from bad luck: recall and precision of its verdicts.

A bad version is *tried* in a group when it has failed on a machine there that was well before and
whose task has ended.  It is *stopped* when no rollout to it completes: it was found guilty, or its
rollout was halted for another reason.  A verdict is *right* when a version called guilty is bad, or
when a bad model came with it.
"""

from dataclasses import dataclass, field

from upkeep.core.model import (
    GroupId,
    MachineId,
    Rollout,
    RolloutCode,
    RolloutId,
    RolloutState,
    StartedBy,
    System,
)
from upkeep.core.task import TaskState
from upkeep.sim.checkers import Commit, Facts, subject
from upkeep.sim.drawing import BAD


@dataclass(slots=True)
class Verdicts:
    """Counts over one world; `+` adds those of another.

    Attributes:
        missed, wrong: which ones, for people: `seed group version`.
    """

    tried: int = 0
    stopped: int = 0
    guilty: int = 0
    right: int = 0
    missed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _tried: dict[tuple[GroupId, str], int] = field(default_factory=dict)
    _completed: set[tuple[GroupId, str]] = field(default_factory=set)
    _withdrawn: set[tuple[GroupId, str]] = field(default_factory=set)
    _stopped: set[tuple[GroupId, str]] = field(default_factory=set)

    def committed(self, commit: Commit, facts: Facts) -> None:
        for task, _ in commit.moved:
            if task.state in (TaskState.FAILED, TaskState.ROLLED_BACK) and not task.repair:
                self._failed(facts, task.rollout, subject(task))
        for rollout in commit.plan.rollouts:
            if rollout.system is not System.OS_IMAGE:
                continue
            key = (rollout.group, rollout.target)
            if rollout.guilty:
                self._stopped.add(key)  # Machines that cannot be sent back yet change nothing.
            if rollout.ended_at is None:
                continue
            if rollout.guilty and rollout.code is not RolloutCode.ALARM:
                self.guilty += 1
                if self._is_bad(facts, key) or self._came_with_a_bad_model(facts, rollout):
                    self.right += 1
                else:
                    self.wrong.append(f"seed {facts.drawing.seed} {rollout.id} {rollout.target}")
            if rollout.state is RolloutState.COMPLETED:
                self._completed.add(key)
            elif rollout.state is RolloutState.FAULTED:
                self._stopped.add(key)
            elif rollout.code is not RolloutCode.NONE or rollout.started_by is StartedBy.USER:
                self._withdrawn.add(key)

    def _failed(self, facts: Facts, rollout_id: RolloutId, machine: MachineId) -> None:
        rollout = facts.rollouts[rollout_id]
        if rollout.system is not System.OS_IMAGE:
            return
        name = facts.names[machine]
        if facts.world.behaviour(rollout.group, rollout.target, name) in BAD:
            key = (rollout.group, rollout.target)
            self._tried[key] = self._tried.get(key, 0) + 1

    def _is_bad(self, facts: Facts, key: tuple[GroupId, str]) -> bool:
        brought = facts.world.brought(*key)
        return brought is not None and brought.behaviour in BAD

    def _came_with_a_bad_model(self, facts: Facts, rollout: Rollout) -> bool:
        """In mode manual the two come together, and the verdict says that it may be either."""
        return any(
            task.model != task.model_before and self._is_bad(facts, (rollout.group, task.model))
            for (name, _), task in facts.tasks.items()
            if name == rollout.id
        )

    def close(self, facts: Facts) -> None:
        """The world has come to rest: what was tried and never stopped was missed."""
        for key in sorted(self._tried):
            if key in self._withdrawn and key not in self._stopped | self._completed:
                continue  # A newer version or a person was faster.
            self.tried += 1
            if key in self._stopped:
                self.stopped += 1
            else:
                self.missed.append(f"seed {facts.drawing.seed} {key[0]} {key[1]}")

    def add(self, other: "Verdicts") -> None:
        self.tried += other.tried
        self.stopped += other.stopped
        self.guilty += other.guilty
        self.right += other.right
        self.missed += other.missed
        self.wrong += other.wrong
