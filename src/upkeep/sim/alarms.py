"""The alarms of a world: who asks them hears what the seed drew, at the time that it drew.

Some fire just when machines are worked on.  What was told is kept for the checker, apart from the
rows.
"""

from functools import partial

from upkeep.core.alarm import AlarmState
from upkeep.core.model import GroupId
from upkeep.core.task import TaskState
from upkeep.sim.checkers import Commit, Facts
from upkeep.sim.drawing import Drawing
from upkeep.sim.hosting import Hosting
from upkeep.sim.kernel import moment, stream
from upkeep.sim.memory_operator import MemoryOperator

# How often an alarm of the group fires soon after work on a machine has begun.
FIRES_AT_WORK = 0.05


class Alarms:
    def __init__(self, drawing: Drawing, facts: Facts, hosting: Hosting) -> None:
        self._facts = facts
        self._hosting = hosting
        self._operator = MemoryOperator(facts.store)
        self._is_healed = False
        self._draws = stream(drawing.seed, "fires")
        self._of = {g.group.id: [alarm.name for alarm in g.alarms] for g in drawing.groups}
        for group in drawing.groups:
            for alarm in group.alarms:
                key = (group.group.id, alarm.name)
                facts.alarms_told[key] = [(moment(0), AlarmState.QUIET)]
                for at, state in alarm.tellings:
                    facts.kernel.at(at, partial(self._tell, *key, state))

    def committed(self, commit: Commit) -> None:
        names = self._of[commit.plan.group.id]
        if not names or not any(task.state is TaskState.RUNNING for task, _ in commit.moved):
            return
        if self._draws.random() < FIRES_AT_WORK:
            told = (commit.plan.group.id, self._draws.choice(names))
            wait_s = self._draws.uniform(0, 300)
            fires_s = self._draws.choice((20.0, 600.0))
            kernel = self._facts.kernel
            kernel.after(wait_s, partial(self._tell, *told, AlarmState.FIRING))
            kernel.after(wait_s + fires_s, partial(self._tell, *told, AlarmState.QUIET))

    def heal(self) -> None:
        for group, name in self._facts.alarms_told:
            self._tell(group, name, AlarmState.QUIET)
        self._is_healed = True

    def _tell(self, group: GroupId, name: str, state: AlarmState) -> None:
        if self._is_healed:
            return
        now = self._hosting.engine_now()
        self._facts.kernel.tell(f"{group}: alarm {name} is {state}")
        self._facts.alarms_told[group, name].append((now, state))
        self._operator.tell_alarm(group, name, state, now=now)
