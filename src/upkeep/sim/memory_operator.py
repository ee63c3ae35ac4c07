"""What operators do to the rows of a `MemoryStore`: groups, budgets, versions, calls, flags.

The server has its API for this; tests and the simulator's operator have these methods.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from upkeep.core.alarm import Alarm, AlarmState, told
from upkeep.core.hook_event import Answer, HookEvent
from upkeep.core.model import (
    Budget,
    Group,
    GroupId,
    Machine,
    MachineId,
    RolloutId,
)
from upkeep.core.snapshot import Interval, OperatorCall
from upkeep.core.task import TaskState
from upkeep.core.version import ImageVersion
from upkeep.sim.memory import MemoryStore
from upkeep.sim.memory_rows import BudgetRow, BudgetSelector, GroupRow, MachineExtra


class MemoryOperator:
    """A person with every right; each method marks the groups it touches."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def add_group(
        self,
        group: Group,
        machines: Sequence[Machine] = (),
        *,
        platform: str = "simulated",
        probe: Mapping[str, object] | None = None,
        source: str = "both",
        now: datetime,
    ) -> None:
        row = GroupRow(group=group, platform=platform, probe=dict(probe or {}), source=source)
        row.marked_at = now
        self._store.groups[group.id] = row
        self._store.budgets_of[group.id] = []
        for machine in machines:
            self._store.put_machine(row, machine)
            row.extras[machine.id] = MachineExtra(
                platform=platform, address=f"sim:{machine.name}", watch_from=now
            )

    def add_budget(self, rule: Budget, selector: BudgetSelector) -> None:
        budget = BudgetRow(rule=rule, selector=selector)
        self._store.budgets[rule.id] = budget
        for group in sorted(selector.groups):
            self._store.budgets_of[group].append(budget)
            self._store.budgets_of[group].sort(key=lambda row: row.rule.id)
            for machine in self._store.groups[group].sorted_machines():
                budget.count(group, machine, machine.id, claimed=False)

    def publish(self, image_name: str, version: ImageVersion, *, now: datetime) -> None:
        """Add a version, or change one (exclude it, finish its replication)."""
        self._store.catalogue.versions.setdefault(image_name, {})[version.version] = version
        for row in self._store.groups.values():
            if row.group.image_name == image_name:
                self._store.mark_row(row, now)

    def add_call(self, group: GroupId, call: OperatorCall, *, now: datetime) -> None:
        self._store.groups[group].calls[call.id] = call
        self._store.mark_row(self._store.groups[group], now)

    def change_group(self, group: GroupId, *, now: datetime, **changes: Any) -> None:
        row = self._store.groups[group]
        row.group = replace(row.group, **changes)
        if not changes.keys().isdisjoint({"repairs", "model"}):
            row.fence += 1  # A plan in flight may just be suspending them, or bring the old one.
        self._store.mark_row(row, now)

    def change_machine(self, machine: MachineId, *, now: datetime, **changes: Any) -> None:
        row = self._store.groups[self._store.group_of[machine]]
        self._store.put_machine(row, replace(row.machines[machine], **changes))
        self._store.mark_row(row, now)

    def change_rollout(self, rollout: RolloutId, *, now: datetime, **changes: Any) -> bool:
        """Pause, resume or cancel an open rollout; False if it is not open (any more)."""
        for row in self._store.groups.values():
            if rollout in row.open:
                row.open[rollout] = replace(row.open[rollout], **changes)
                self._store.mark_row(row, now)
                return True
        return False

    def approve(
        self, rollout: RolloutId, machines: Sequence[MachineId] | None, *, now: datetime
    ) -> int:
        """The machines that wait in it may be taken, all with None; answers how many waited."""
        for row in self._store.groups.values():
            waiting = [
                task
                for task in row.tasks.get(rollout, {}).values()
                if task.state is TaskState.HELD and (machines is None or task.machine in machines)
            ]
            for task in waiting:
                row.tasks[rollout][task.machine] = replace(task, approved=True)
            if waiting:
                self._store.mark_row(row, now)
                return len(waiting)
        return 0

    def answer(
        self, event: HookEvent, answers: Mapping[MachineId, Answer], *, now: datetime
    ) -> bool:
        """People answer at a lifecycle hook; False if the question is closed."""
        known = self._open_question(event)
        return known is not None and self._put(
            known[0], replace(known[1], answers={**known[1].answers, **answers}), now
        )

    def move_end(self, event: HookEvent, wait_until: datetime, *, now: datetime) -> bool:
        known = self._open_question(event)
        return known is not None and self._put(
            known[0], replace(known[1], wait_until=wait_until), now
        )

    def _open_question(self, event: HookEvent) -> tuple[GroupRow, HookEvent] | None:
        for row in self._store.groups.values():
            known = row.hook_events.get((event.rollout, event.serial))
            if known is not None and not known.closed:
                return row, known
        return None

    def _put(self, row: GroupRow, event: HookEvent, now: datetime) -> bool:
        row.hook_events[event.rollout, event.serial] = event
        # A plan in flight may just be taking silence for an answer.
        self._mark_at_once(row, now)
        return True

    def add_alarm(self, group: GroupId, alarm: Alarm, *, now: datetime) -> None:
        row = self._store.groups[group]
        row.alarms[alarm.name] = alarm
        self._mark_at_once(row, now)

    def remove_alarm(self, group: GroupId, name: str, *, now: datetime) -> None:
        row = self._store.groups[group]
        del row.alarms[name]
        self._mark_at_once(row, now)

    def tell_alarm(
        self, group: GroupId, name: str, state: AlarmState, detail: str = "", *, now: datetime
    ) -> None:
        row = self._store.groups[group]
        if row.alarms[name].state is not state:
            row.alarms[name] = told(row.alarms[name], state, detail, now=now)
            self._mark_at_once(row, now)

    def _mark_at_once(self, row: GroupRow, now: datetime) -> None:
        """A plan in flight does not know it, and fails."""
        row.fence += 1
        self._store.mark_row(row, now)

    def set_times(
        self,
        group: GroupId,
        *,
        windows: tuple[Interval, ...] | None,
        blackouts: tuple[Interval, ...],
        now: datetime,
    ) -> None:
        row = self._store.groups[group]
        row.windows, row.blackouts = windows, blackouts
        self._store.mark_row(row, now)
