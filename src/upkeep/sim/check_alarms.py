"""No rollout begins work past an alarm, none completes that one has failed.

Worked out anew from what was told of each alarm, and when.
"""

from datetime import datetime

from upkeep.core.alarm import AlarmAction, AlarmState
from upkeep.core.model import GroupId, Rollout, RolloutCode, RolloutState, System
from upkeep.core.task import TaskState
from upkeep.sim.checkers import OURS, BlindChecker, Commit, Facts, RuleBroken, is_automatic_upgrade

_AHEAD = (None, TaskState.HELD, TaskState.ANNOUNCED)
_BEGUN = (TaskState.DRAINING, TaskState.RUNNING)


class AlarmChecker(BlindChecker):
    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._alarms = {g.group.id: g.alarms for g in facts.drawing.groups}

    def committed(self, commit: Commit) -> None:
        for task, before in commit.moved:
            rollout = self.facts.rollouts[task.rollout]
            if rollout.system is not System.OS_IMAGE:
                continue
            announced = before in (None, TaskState.HELD) and task.state in OURS
            begun = before in _AHEAD and task.state in _BEGUN
            if (announced or begun) and is_automatic_upgrade(rollout):
                self._all_quiet(rollout)
        for rollout in commit.plan.rollouts:
            if rollout.system is System.OS_IMAGE and rollout.ended_at is not None:
                self._ended(rollout)

    def _all_quiet(self, rollout: Rollout) -> None:
        for alarm in self._alarms[rollout.group]:
            _, state = self.facts.alarms_told[rollout.group, alarm.name][-1]
            if state is not AlarmState.QUIET:
                raise RuleBroken("ALARM", f"{rollout.id} begins work while {alarm.name} is {state}")

    def _ended(self, rollout: Rollout) -> None:
        begun_at = self.facts.begun_at.get(rollout.id)
        fired = begun_at is not None and any(
            moment >= begun_at
            for alarm in self._alarms[rollout.group]
            if alarm.action is AlarmAction.HALT
            for moment in self._beginnings(rollout.group, alarm.name)
        )
        if fired and rollout.state is RolloutState.COMPLETED:
            raise RuleBroken("ALARM", f"{rollout.id} is completed, and an alarm has failed it")
        if rollout.code is RolloutCode.ALARM and not fired:
            raise RuleBroken("ALARM", f"{rollout.id} was failed by no alarm: {rollout.evidence}")

    def _beginnings(self, group: GroupId, name: str) -> list[datetime]:
        """When it began to fire: not knowing in between is no new beginning."""
        found, was_firing = [], False
        for moment, state in self.facts.alarms_told[group, name]:
            if state is AlarmState.FIRING and not was_firing:
                found.append(moment)
            if state is not AlarmState.UNKNOWN:
                was_firing = state is AlarmState.FIRING
        return found
