"""The fleet's rows in memory: `FleetStore` for simulated years in minutes.

It keeps the contract of engine/fleet_store.py (one suite runs on it and on the SQL store) and
adds a way to lose the process (what operators do is in memory_operator.py).  Every write method
calls `before` and `after` with its own name; a hook that raises `Killed` is a process that died
before the write was durable, or after it and before anybody heard of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

from upkeep.core.health import AGENT_VERBS, renews_health
from upkeep.core.hold import HoldReason
from upkeep.core.model import (
    OPEN_STATES,
    BudgetId,
    Group,
    GroupId,
    Health,
    Lifecycle,
    Machine,
    MachineId,
    Outcome,
    Repairs,
)
from upkeep.core.snapshot import Plan, Snapshot, remembered
from upkeep.core.task import IN_HAND, TaskState
from upkeep.engine.fleet_store import (
    AGENT,
    REVOKED,
    ActionResult,
    LeasedAction,
    ReadMark,
    Sighting,
    WatchedMachine,
)
from upkeep.ports import MachineStatus, Power
from upkeep.sim.memory_budgets import budget_of
from upkeep.sim.memory_domains import DomainTally, is_away
from upkeep.sim.memory_rows import (
    ActionRow,
    ActionState,
    BudgetRow,
    Catalogue,
    GroupRow,
    MachineExtra,
)

_WAITING = (HoldReason.BUDGET_SPENT, HoldReason.BUDGET_RESERVED)

P = ParamSpec("P")
R = TypeVar("R")


def _suspended(known: Repairs | None, after: Repairs | None) -> Repairs | None:
    if known is None or after is None:
        return known
    return replace(known, suspended_at=after.suspended_at)


class Killed(BaseException):
    """The process is gone at this instruction; only the simulator may catch it."""


def _write(
    method: "Callable[Concatenate[MemoryStore, P], R]",
) -> "Callable[Concatenate[MemoryStore, P], R]":
    """One durable step: the two moments at which a process can die around it."""
    name = method.__name__

    def step(self: "MemoryStore", /, *args: P.args, **kwargs: P.kwargs) -> R:
        self.before(name)
        result = method(self, *args, **kwargs)
        self.wrote(name, result, args, kwargs)
        self.after(name)
        return result

    step.__name__, step.__doc__ = name, method.__doc__
    return step


class MemoryStore:
    """See the module text."""

    def __init__(self) -> None:
        self.before: Callable[[str], None] = _nothing
        self.after: Callable[[str], None] = _nothing
        # Told of each write with its answer and arguments, whether or not anybody hears of it.
        self.wrote: Callable[[str, Any, tuple[Any, ...], dict[str, Any]], None] = _nobody
        self.groups: dict[GroupId, GroupRow] = {}
        self.group_of: dict[MachineId, GroupId] = {}
        self.budgets: dict[BudgetId, BudgetRow] = {}
        self.catalogue = Catalogue()
        self.actions: dict[str, ActionRow] = {}
        self._pending: dict[str, ActionRow] = {}  # Those not DONE, oldest first.
        self.budgets_of: dict[GroupId, list[BudgetRow]] = {}
        self._domains = DomainTally()
        self._mark: datetime | None = None

    # Planning.

    def due_groups(self, now: datetime, limit: int) -> Sequence[GroupId]:
        due = []
        for key, row in self.groups.items():
            since = row.due_since(now)
            if since is not None:
                due.append((since, key))
        due.sort()
        return [key for _, key in due[:limit]]

    def next_wake(self) -> datetime | None:
        wakes = []
        for row in self.groups.values():
            if (moment := row.wake_at()) is not None:
                wakes.append(max(moment, row.parked_until or moment))
        return min(wakes, default=None)

    def read_group(
        self, group: GroupId, *, now: datetime, clock_stepped: bool
    ) -> tuple[Snapshot, ReadMark] | None:
        row = self.groups.get(group)
        if row is None:
            return None
        row.read_as = row.group
        machines = row.sorted_machines()
        open_ids = sorted(row.open)
        outcomes: dict[str, Outcome] = {}
        for rollout in open_ids:
            outcomes.update(row.outcomes.get(rollout, {}))
        snapshot = Snapshot(
            group=row.group,
            machines=machines,
            versions=self.catalogue.of(row.group.image_name),
            rollouts=tuple(row.open[key] for key in open_ids),
            past=tuple(row.past),
            tasks=tuple(
                row.tasks[rollout][machine]
                for rollout in open_ids
                for machine in sorted(row.tasks[rollout])
            ),
            hook_events=tuple(row.hook_events[key] for key in sorted(row.hook_events)),
            outcomes=outcomes,
            budgets=tuple(
                budget_of(b, row, self.groups, now)
                for b in self.budgets_of[group]
                if b.is_own or any(m.id in b.counted for m in machines)
            ),
            claims=tuple(row.claims[key] for key in sorted(row.claims)),
            calls=tuple(row.calls.values()),
            alarms=tuple(row.alarms[name] for name in sorted(row.alarms)),
            domains=self._domains.read(row.group, machines, now),
            windows=row.windows,
            blackouts=tuple(
                sorted((b for b in row.blackouts if b.closes > now), key=lambda b: b.opens)
            ),
            clock_stepped=clock_stepped,
        )
        return snapshot, ReadMark(marks=row.marks, fence=row.fence)

    @_write
    def commit_plan(self, plan: Plan, read: ReadMark, *, now: datetime) -> bool:
        row = self.groups.get(plan.group.id)
        if row is None or row.fence != read.fence:
            return False
        for budget, version in plan.budget_versions.items():
            if budget not in self.budgets or self.budgets[budget].version != version:
                return False
        self._write_group(row, plan.group)
        self._write_rollouts(row, plan, now)
        for key in plan.released:
            row.claims.pop(key, None)
        for claim in plan.claims:  # After: the same plan may give a place back and take it anew.
            row.claims[(claim.budget, claim.machine)] = claim
            # Also where nobody else is down for it: what a rate has counted has moved.
            self.budgets[claim.budget].version += 1
            if self.budgets[claim.budget].rule.rate:
                self.budgets[claim.budget].started.append(claim.taken_at)
        for machine in plan.machines:
            self._write_machine(row, machine, now)
        for touched in sorted({c.machine for c in plan.claims} | {m for _, m in plan.released}):
            self._recount(row, touched)
        for action in plan.actions:
            if action.key not in self.actions:
                self.actions[action.key] = ActionRow(action=action, not_before=now)
                if action.verb not in AGENT_VERBS:  # It waits for the agent, not for a lease.
                    self._pending[action.key] = self.actions[action.key]
        for command in (self.actions[revoked] for revoked in plan.revoked):
            if command.state is not ActionState.DONE:
                result = ActionResult(succeeded=False, detail=REVOKED)
                self._record(command, row, result, now)
        self._write_holds(row, plan, now)
        row.story.extend(plan.story)
        for call, refusal in plan.calls_done:
            row.calls.pop(call, None)
            row.calls_done[call] = refusal
        row.fence += 1
        row.committed_marks = read.marks
        row.next_wake = plan.next_wake
        row.parked_until = None
        return True

    def _write_group(self, row: GroupRow, after: Group) -> None:
        """Only what the core owns; the rest is the operators'."""
        assert row.read_as is not None
        row.group = replace(
            row.group,
            baked=after.baked,
            baked_model=after.baked_model,
            next_ordinal=after.next_ordinal,
            next_rollout=after.next_rollout,
            repairs=_suspended(row.group.repairs, after.repairs),
            capacity=max(0, row.group.capacity + after.capacity - row.read_as.capacity),
        )

    def _write_rollouts(self, row: GroupRow, plan: Plan, now: datetime) -> None:
        for rollout in plan.rollouts:
            row.tasks.setdefault(rollout.id, {})
            if known := row.open.get(rollout.id):
                rollout = replace(
                    rollout,
                    paused=known.paused,
                    cancel_requested=known.cancel_requested,
                    promoted=known.promoted,
                )
            row.open[rollout.id] = rollout
        for task in plan.tasks:
            known_task = row.tasks[task.rollout].get(task.machine)
            approved = known_task is not None and known_task.approved
            row.tasks[task.rollout][task.machine] = replace(task, approved=approved)
        for event in plan.hook_events:
            row.hook_events[event.rollout, event.serial] = event
        for rollout in plan.rollouts:
            if rollout.state not in OPEN_STATES:
                row.past.append(row.open.pop(rollout.id))
                del row.tasks[rollout.id]
                row.outcomes.pop(rollout.id, None)
                for key in [key for key in row.hook_events if key[0] == rollout.id]:
                    del row.hook_events[key]
        # Newest first; those that ended at one moment, in two plans even, by their ids.
        row.past.sort(key=lambda r: (r.ended_at or now, r.id), reverse=True)
        row.past = remembered(row.past)

    def _write_machine(self, row: GroupRow, after: Machine, now: datetime) -> None:
        """Only what the core owns: what was observed meanwhile is not written back."""
        known = row.machines.get(after.id)
        if after.lifecycle is Lifecycle.DELETED:
            self._forget_machine(row, after.id)
        elif known is None:
            self.put_machine(row, after)
            row.extras[after.id] = MachineExtra(platform=row.platform, watch_from=now)
        else:
            self.put_machine(
                row, replace(known, lifecycle=after.lifecycle, worked_at=after.worked_at)
            )

    def _write_holds(self, row: GroupRow, plan: Plan, now: datetime) -> None:
        holds = {}
        for hold in plan.holds:
            key = (hold.machine, hold.system)
            before = row.holds.get(key)
            same = before is not None and before[0].reason is hold.reason
            holds[key] = (hold, before[1] if same and before is not None else now)
        row.holds = holds

    # The journal of actions.

    @_write
    def claim_actions(
        self, owner: str, *, now: datetime, lease_until: datetime, limit: int
    ) -> Sequence[LeasedAction]:
        rows = [row for row in self._pending.values() if _claimable(row, now)]
        rows.sort(key=_age)
        taken: list[LeasedAction] = []
        for row in sorted(rows[:limit], key=lambda row: row.action.key):
            group = self.groups[row.action.group]
            machine = group.machines.get(row.action.machine)
            if machine is None:  # Nobody performs it any more.
                self._pending.pop(row.action.key).state = ActionState.DONE
                continue
            taken.append(self._lease(row, group, machine, owner, now, lease_until))
        return taken

    def _lease(
        self,
        row: ActionRow,
        group: GroupRow,
        machine: Machine,
        owner: str,
        now: datetime,
        lease_until: datetime,
    ) -> LeasedAction:
        extra = group.extras[machine.id]
        extra.fence += 1
        was_with_agent = row.owner == AGENT
        row.state = ActionState.LEASED
        row.owner = owner
        row.lease_until = lease_until
        row.fence = extra.fence
        row.attempts += 1
        if renews_health(row.action.verb) and machine.health is not Health.INITIALIZING:
            self.put_machine(group, replace(machine, health=Health.INITIALIZING, health_since=now))
        return LeasedAction(
            action=row.action,
            fence=row.fence,
            attempts=row.attempts,
            machine_name=machine.name,
            platform=extra.platform,
            image_name=group.group.image_name,
            was_with_agent=was_with_agent,
        )

    @_write
    def give_to_agent(self, key: str, *, fence: int, lease_until: datetime) -> None:
        row = self.actions.get(key)
        if row is not None and row.state is ActionState.LEASED and row.fence == fence:
            row.owner = AGENT
            row.lease_until = lease_until

    @_write
    def extend_lease(self, key: str, *, fence: int, lease_until: datetime) -> bool:
        row = self.actions.get(key)
        if row is None or row.state is not ActionState.LEASED or row.fence != fence:
            return False
        assert row.lease_until is not None
        row.lease_until = max(row.lease_until, lease_until)
        return True

    @_write
    def retry_action(
        self, key: str, *, fence: int, result: ActionResult, not_before: datetime
    ) -> None:
        row = self.actions.get(key)
        if row is None or row.state is not ActionState.LEASED or row.fence != fence:
            return
        row.state = ActionState.READY
        row.not_before = not_before
        row.lease_until = None

    @_write
    def finish_action(self, key: str, *, fence: int, result: ActionResult, now: datetime) -> bool:
        row = self.actions.get(key)
        if row is None:
            return False
        group = self.groups[row.action.group]
        current = row.state is ActionState.LEASED and row.fence == fence
        machine = group.machines.get(row.action.machine)
        if machine is not None and result.status is not None:
            self._write_status(group, machine, result.status)
        if current:
            self._begin_watch(group, row.action.machine, now)
            self._record(row, group, result, now)
        self.mark_row(group, now)
        return current

    def _record(self, row: ActionRow, group: GroupRow, result: ActionResult, now: datetime) -> None:
        key = row.action.key
        row.state = ActionState.DONE
        self._pending.pop(key, None)
        if row.action.rollout in group.open:
            group.outcomes.setdefault(row.action.rollout, {})[key] = Outcome(
                key=key, succeeded=result.succeeded, at=now, kind=result.kind, detail=result.detail
            )

    def _write_status(self, group: GroupRow, machine: Machine, status: MachineStatus) -> None:
        """A status older than what is known (fewer boots) changes nothing."""
        if status.power in (Power.ABSENT, Power.UNKNOWN) or status.boots < machine.boots:
            return
        group.extras[machine.id].address = status.address
        after = replace(
            machine,
            image=status.image_version,
            kept=status.kept_version,
            model=status.model,
            kept_model=status.kept_model,
            boots=status.boots,
            powered_off=status.power is Power.OFF,
        )
        self.put_machine(group, after)

    def _begin_watch(self, group: GroupRow, key: MachineId, now: datetime) -> None:
        machine = group.machines.get(key)
        if machine is None:
            return
        group.extras[key].watch_from = now
        if machine.health is not Health.INITIALIZING:
            self.put_machine(group, replace(machine, health=Health.INITIALIZING, health_since=now))

    @_write
    def finish_by_agent(self, key: str, *, now: datetime, succeeded: bool = True) -> bool:
        """The agent says how a command ended that it was offered."""
        row = self.actions[key]
        if not row.waits_for_agent():
            return False
        group = self.groups[row.action.group]
        if renews_health(row.action.verb):
            self._begin_watch(group, row.action.machine, now)
        self._record(row, group, ActionResult(succeeded=succeeded), now)
        self.mark_row(group, now)
        return True

    def next_action_at(self, now: datetime) -> datetime | None:
        """The earliest moment at which an action can be claimed; the past counts as `now`."""
        moments = [
            max(now, row.not_before if row.lease_until is None else row.lease_until)
            for row in self._pending.values()
        ]
        return min(moments, default=None)

    def pending_of(self, group: GroupId) -> list[str]:
        """Keys of the group's actions that have not ended."""
        return [key for key, row in self._pending.items() if row.action.group == group]

    # What was seen.

    @_write
    def observe(self, machine: MachineId, sighting: Sighting, *, now: datetime) -> bool:
        group_id = self.group_of.get(machine)
        if group_id is None:
            return False
        row = self.groups[group_id]
        before = row.machines[machine]
        extra = row.extras[machine]
        after = self._seen(row, before, sighting, now)
        moved = sighting.address is not None and sighting.address != extra.address
        if after == before and not moved:
            return False
        extra.address = extra.address if sighting.address is None else sighting.address
        self.put_machine(row, after)
        self.mark_row(row, now)
        return True

    def _seen(self, row: GroupRow, before: Machine, sighting: Sighting, now: datetime) -> Machine:
        after = before
        if sighting.image is not None:
            after = replace(after, image=sighting.image)
        if sighting.boots is not None and sighting.boots > before.boots:
            after = replace(after, boots=sighting.boots)
        if sighting.powered_off is not None:
            after = replace(after, powered_off=sighting.powered_off)
        if sighting.phase is not None:
            after = replace(after, phase=sighting.phase)
        if sighting.skip is not None:
            after = replace(after, skip=sighting.skip)
        health = sighting.health
        if health is None or health is before.health:
            return after
        if sighting.watch_from not in (None, row.extras[before.id].watch_from):
            return after  # Seen before the machine's last work ended.
        after = replace(after, health=health, health_since=now)
        if health is Health.UNKNOWN:
            if not self._in_hand(row, before.id):
                after = replace(after, lost_at=now)
        elif health is not Health.INITIALIZING and is_away(before):
            # Also after work that began while it was away: it has been seen again.
            after = replace(after, back_at=now)
        return after

    def _in_hand(self, row: GroupRow, machine: MachineId) -> bool:
        if any(a.action.machine == machine and a.attempts for a in self._pending.values()):
            return True
        return any(
            (task.state in IN_HAND or task.state is TaskState.BAKING)
            and machine in (task.machine, task.stand_in)
            for tasks in row.tasks.values()
            for task in tasks.values()
        )

    @_write
    def mark_group(self, group: GroupId, *, now: datetime) -> None:
        if group in self.groups:
            self.mark_row(self.groups[group], now)

    @_write
    def park_group(self, group: GroupId, *, trace: str, until: datetime) -> None:
        if group in self.groups:
            self.groups[group].story.append(trace)
            self.groups[group].parked_until = until

    def watched(self, machines: Sequence[MachineId] | None = None) -> Sequence[WatchedMachine]:
        wanted = list(self.group_of) if machines is None else machines
        found = []
        for machine in wanted:
            group = self.group_of.get(machine)
            if group is None:
                continue
            row = self.groups[group]
            if row.machines[machine].lifecycle not in (Lifecycle.PRESENT, Lifecycle.CREATING):
                continue
            extra = row.extras[machine]
            found.append(
                WatchedMachine(
                    machine=machine,
                    address=extra.address,
                    probe=row.probe,
                    source=row.source,
                    watch_from=extra.watch_from,
                    health=row.machines[machine].health,
                )
            )
        return found

    @_write
    def raise_clock_mark(self, now: datetime) -> datetime:
        self._mark = now if self._mark is None else max(self._mark, now)
        return self._mark

    # Bookkeeping.

    def mark_row(self, row: GroupRow, now: datetime) -> None:
        if row.marks == row.committed_marks:
            row.marked_at = now
        row.marks += 1

    def put_machine(self, row: GroupRow, machine: Machine) -> None:
        before = row.machines.get(machine.id)
        row.machines[machine.id] = machine
        row.machines_sorted = None
        self.group_of[machine.id] = row.group.id
        self._domains.count(row.group, before, machine)
        self._recount(row, machine.id)

    def _forget_machine(self, row: GroupRow, machine: MachineId) -> None:
        before = row.machines.pop(machine, None)
        if before is None:
            return
        row.machines_sorted = None
        del row.extras[machine]
        del self.group_of[machine]
        for key in [k for k in row.claims if k[1] == machine]:
            del row.claims[key]
        self._domains.count(row.group, before, None)
        self._recount(row, machine)

    def _recount(self, row: GroupRow, machine: MachineId) -> None:
        """Its place in each budget; whoever waits for one that moved is planned again."""
        for budget in self.budgets_of[row.group.id]:
            claimed = (budget.rule.id, machine) in row.claims
            value = row.machines.get(machine)
            if not budget.count(row.group.id, value, machine, claimed):
                continue
            for other in budget.selector.groups:
                waiting = self.groups.get(other)
                if waiting is None or waiting is row:
                    continue
                for hold, since in waiting.holds.values():
                    if hold.budget == budget.rule.id and hold.reason in _WAITING:
                        self.mark_row(waiting, since)
                        break


def _claimable(row: ActionRow, now: datetime) -> bool:
    if row.state is ActionState.READY:
        return row.not_before <= now
    return row.lease_until is not None and row.lease_until <= now


def _age(row: ActionRow) -> tuple[bool, datetime, str]:
    """Leases that ran out before what nobody has begun, then the longest waiting."""
    is_ready = row.state is ActionState.READY
    return (
        is_ready,
        row.not_before if is_ready else row.lease_until or row.not_before,
        row.action.key,
    )


def _nothing(name: str) -> None:
    pass


def _nobody(name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    pass
