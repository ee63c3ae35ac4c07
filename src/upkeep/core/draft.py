"""The working copy of one `plan_group` call: what has been decided so far, and what has changed.

Mutable on purpose and never seen outside that call.  It decides nothing; it keeps the books:
every task moves through `move`, every claim is taken and given back here, and `emit` turns the
differences into a `Plan`.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from upkeep.core.blame import LostDomain, lost_domains
from upkeep.core.budget import Ledger
from upkeep.core.hold import Hold
from upkeep.core.hook_event import Answer, HookEvent, HookKind
from upkeep.core.model import (
    OPEN_STATES,
    BudgetId,
    Claim,
    Group,
    Lifecycle,
    Machine,
    MachineId,
    Rollout,
    RolloutId,
    StartedBy,
    System,
    Task,
    Verb,
)
from upkeep.core.policy import RollingPolicy
from upkeep.core.snapshot import Action, Plan, Snapshot
from upkeep.core.task import IN_HAND, Signal, TaskState, step
from upkeep.core.version import floor_between

MAKES_A_DISK = frozenset({Verb.CREATE, Verb.REPLACE_OS_DISK, Verb.REIMAGE})

# While a domain is lost with no end in sight: shorter than the time its machines must be back.
LOOK_AGAIN = timedelta(minutes=1)


def subject_of(task: Task) -> MachineId:
    """The machine that the work is done on: the task's own, or the one that stands in for it."""
    return task.stand_in or task.machine


def action_key(task: Task, verb: Verb) -> str:
    """The name under which the machine's action is done once: `ro_7/m_3/replace_os_disk/1`."""
    return f"{task.rollout}/{subject_of(task)}/{verb}/{task.attempt}"


class Draft:
    def __init__(self, snapshot: Snapshot, *, now: datetime) -> None:
        self.snapshot = snapshot
        self.now = now
        self.group: Group = snapshot.group
        self.machines: dict[MachineId, Machine] = {m.id: m for m in snapshot.machines}
        self.rollouts: dict[RolloutId, Rollout] = {r.id: r for r in snapshot.rollouts}
        self.tasks: dict[RolloutId, dict[MachineId, Task]] = {r.id: {} for r in snapshot.rollouts}
        for task in snapshot.tasks:
            self.tasks[task.rollout][task.machine] = task
        self._hook_events: dict[RolloutId, dict[int, HookEvent]] = {}
        for event in snapshot.hook_events:
            self._hook_events.setdefault(event.rollout, {})[event.serial] = event
        self.lost: list[LostDomain] = lost_domains(snapshot.domains, now=now)
        self._floors = [entry for entry in snapshot.versions if entry.floor]
        self._models: set[str] | None = None
        self._guilty_before: set[str] | None = None
        self._ledger: Ledger | None = None
        self.claims_of: dict[MachineId, list[Claim]] = {}
        for claim in snapshot.claims:
            self.claims_of.setdefault(claim.machine, []).append(claim)
        self.in_hand: dict[MachineId, Task] = {}
        for task in snapshot.tasks:
            self._note_in_hand(task)
        self.holds: list[Hold] = []
        self.revoked: list[str] = []
        self.actions: list[Action] = []
        self.taken: list[Claim] = []
        self.released: list[tuple[BudgetId, MachineId]] = []
        self.calls_done: list[tuple[str, str]] = []
        self.story: list[str] = []
        # While it is away nothing of this group's own may tell that others of it come back.
        self._wakes: list[datetime] = [lost.until or now + LOOK_AGAIN for lost in self.lost]
        self._changed_tasks: dict[tuple[RolloutId, MachineId], None] = {}
        self._changed_rollouts: dict[RolloutId, None] = {}
        self._changed_hook_events: dict[tuple[RolloutId, int], None] = {}
        self._changed_machines: dict[MachineId, None] = {}

    # Reading.

    @property
    def ledger(self) -> Ledger:
        """The budgets as they stand once step 1 has given back what it could."""
        if self._ledger is None:
            claims = [claim for held in self.claims_of.values() for claim in held]
            self._ledger = Ledger(self.snapshot.budgets, self.machines, claims)
        return self._ledger

    def open_rollouts(self, system: System | None = None) -> list[Rollout]:
        return [
            rollout
            for rollout in self.rollouts.values()
            if rollout.state in OPEN_STATES and (system is None or rollout.system is system)
        ]

    def ended_rollouts(self) -> list[Rollout]:
        """The past ones and those that ended just now, newest first."""
        just_now = [r for r in self.rollouts.values() if r.state not in OPEN_STATES]
        return [*reversed(just_now), *self.snapshot.past]

    def tasks_of(self, rollout: Rollout) -> list[Task]:
        return list(self.tasks[rollout.id].values())

    def is_held(self, rollout: Rollout, machine: MachineId) -> bool:
        task = self.tasks[rollout.id].get(machine)
        return task is not None and task.state is TaskState.HELD

    def newest_hook_event(self, rollout: Rollout, kind: HookKind) -> HookEvent | None:
        found = [e for e in self._hook_events.get(rollout.id, {}).values() if e.kind is kind]
        return max(found, key=lambda event: event.serial, default=None)

    def next_hook_serial(self, rollout: Rollout) -> int:
        return 1 + max(self._hook_events.get(rollout.id, {}), default=0)

    def rejected_at_hook(self, rollout: Rollout) -> list[MachineId]:
        events = self._hook_events.get(rollout.id, {}).values()
        said = {machine: a for event in events for machine, a in event.answers.items()}
        return sorted(machine for machine, answer in said.items() if answer is Answer.REJECTED)

    def present(self) -> list[Machine]:
        """The machines that count: made, not stopped by a person, not on their way out."""
        return [m for m in self.machines.values() if m.lifecycle is Lifecycle.PRESENT]

    def is_in_hand(self, machine: Machine) -> bool:
        """It is, or may be at any moment, down by our doing; baking it is not."""
        task = self.in_hand.get(machine.id)
        return task is not None and task.state in IN_HAND

    def seen_from(self, moment: datetime) -> datetime:
        """From when a wait for what machines show counts: while the server was away nobody looked,
        and what it finds at its first look is older than it knows."""
        return max(moment, self.snapshot.awake_since or moment)

    def lost_domain_of(self, machine: Machine) -> LostDomain | None:
        for lost in self.lost:
            if (lost.kind, lost.name) in domain_names(machine):
                return lost
        return None

    def floor_before(self, machine: Machine, target: str) -> str | None:
        """The version that it must run before it may get the target."""
        if not self._floors or not machine.image:
            return None
        return floor_between(machine.image, target, self._floors)

    def models_there(self) -> set[str]:
        if self._models is None:
            self._models = {machine.model for machine in self.present()}
        return self._models

    def guilty_models(self) -> set[str]:
        if self._guilty_before is None:
            past = self.snapshot.past
            self._guilty_before = {r.target for r in past if r.guilty and r.is_of_model}
        just_now = {r.target for r in self.rollouts.values() if r.guilty and r.is_of_model}
        return self._guilty_before | just_now

    # Deciding nothing, writing down.

    def wake_at(self, moment: datetime | None) -> None:
        """Plan again then, even if nothing comes in."""
        if moment is not None:
            self._wakes.append(moment)

    def tell(self, line: str) -> None:
        self.story.append(line)

    def move(self, task: Task, signal: Signal, **changes: Any) -> Task:
        """The only way a task's state changes."""
        after = replace(task, state=step(task.state, signal), state_since=self.now, **changes)
        if task.state is TaskState.DRAINING:
            drain = action_key(task, Verb.DRAIN)
            if drain not in self.snapshot.outcomes:
                # Its time is up, or its work is dropped: an agent that comes back must not do it.
                self.revoked.append(drain)
        return self.put_task(after)

    def put_task(self, task: Task) -> Task:
        self.tasks[task.rollout][task.machine] = task
        self._changed_tasks[(task.rollout, task.machine)] = None
        self._note_in_hand(task)
        return task

    def _note_in_hand(self, task: Task) -> None:
        is_in_hand = task.state in IN_HAND or task.state is TaskState.BAKING
        for machine in (task.machine, task.stand_in) if task.stand_in else (task.machine,):
            if is_in_hand:
                self.in_hand[machine] = task
            elif (held := self.in_hand.get(machine)) and held.rollout == task.rollout:
                del self.in_hand[machine]

    def begin_rollout(
        self,
        system: System,
        verb: Verb,
        machines: Iterable[Machine],
        *,
        policy: RollingPolicy,
        size: int,
        target: str = "",
        started_by: StartedBy = StartedBy.PLATFORM,
        force: bool = False,
    ) -> Rollout:
        """A new rollout with a held task for each machine; its number is the group's next."""
        rollout = self.put_rollout(
            Rollout(
                id=RolloutId(f"ro_{self.group.id}_{self.group.next_rollout}"),
                group=self.group.id,
                system=system,
                verb=verb,
                target=target,
                policy=policy,
                size=size,
                started_by=started_by,
                started_at=self.now,
                force=force,
            )
        )
        self.group = replace(self.group, next_rollout=self.group.next_rollout + 1)
        for machine in machines:
            self.put_task(
                Task(
                    rollout=rollout.id,
                    machine=machine.id,
                    state_since=self.now,
                    clock_from=self.now,
                    previous=rollout.on_disk_of(machine) if target else "",
                )
            )
        return rollout

    def put_rollout(self, rollout: Rollout, **changes: Any) -> Rollout:
        rollout = replace(rollout, **changes) if changes else rollout
        self.rollouts[rollout.id] = rollout
        self.tasks.setdefault(rollout.id, {})
        self._changed_rollouts[rollout.id] = None
        return rollout

    def put_hook_event(self, event: HookEvent) -> HookEvent:
        self._hook_events.setdefault(event.rollout, {})[event.serial] = event
        self._changed_hook_events[(event.rollout, event.serial)] = None
        return event

    def close_hook_events(self, rollout: Rollout) -> None:
        """Nothing of it begins any more: what it has asked needs no answer."""
        for event in list(self._hook_events.get(rollout.id, {}).values()):
            if not event.closed:
                self.put_hook_event(replace(event, closed=True))

    def put_machine(self, machine: Machine, **changes: Any) -> Machine:
        machine = replace(machine, **changes) if changes else machine
        before = self.machines.get(machine.id)
        counted = before is not None and before.lifecycle is Lifecycle.PRESENT
        if counted and machine.lifecycle is not Lifecycle.PRESENT:
            self.ledger.left(machine)
        self.machines[machine.id] = machine
        self._changed_machines[machine.id] = None
        return machine

    def add_claims(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            self.taken.append(claim)
            self.claims_of.setdefault(claim.machine, []).append(claim)

    def release(self, machine: MachineId) -> None:
        for claim in self.claims_of.pop(machine, []):
            self.released.append((claim.budget, machine))
        # In this very plan: nothing would cause another one to see the places that are free.
        self.ledger.give_back(machine)

    def act(self, task: Task, verb: Verb, *, version: str = "", model: str = "") -> None:
        """Args:
        version, model: of the OS disk, if the verb is about one; see new_disk.py.
        """
        if verb in MAKES_A_DISK and task.attempt == 1:
            before = task.model_before or self.machines[subject_of(task)].model
            self.put_task(replace(task, model=model, model_before=before))
        self.actions.append(
            Action(
                key=action_key(task, verb),
                group=self.group.id,
                machine=subject_of(task),
                rollout=task.rollout,
                verb=verb,
                version=version,
                model=model,
            )
        )

    def _one_hold_each(self) -> tuple[Hold, ...]:
        """In order; where a machine waits twice for one system, the first reason stands."""
        first: dict[tuple[MachineId, System], Hold] = {}
        for hold in self.holds:
            first.setdefault((hold.machine, hold.system), hold)
        return tuple(first[key] for key in sorted(first))

    def emit(self) -> Plan:
        """The differences, each list in id order, so that equal inputs give equal bytes."""
        return Plan(
            group=self.group,
            machines=tuple(self.machines[key] for key in sorted(self._changed_machines)),
            rollouts=tuple(self.rollouts[key] for key in sorted(self._changed_rollouts)),
            tasks=tuple(self.tasks[r][m] for r, m in sorted(self._changed_tasks)),
            hook_events=tuple(
                self._hook_events[r][serial] for r, serial in sorted(self._changed_hook_events)
            ),
            actions=tuple(sorted(self.actions, key=lambda action: action.key)),
            revoked=tuple(sorted(self.revoked)),
            claims=tuple(self.taken),
            released=tuple(sorted(self.released)),
            budget_versions={
                BudgetId(key): version
                for key, version in sorted(self.ledger.versions(self.taken).items())
            },
            holds=self._one_hold_each(),
            calls_done=tuple(self.calls_done),
            story=tuple(self.story),
            next_wake=min((w for w in self._wakes if w > self.now), default=None),
        )


def domain_names(machine: Machine) -> tuple[tuple[str, str], ...]:
    """The domains whose loss takes this machine with it.

    Zones and hosts without a name do not exist; a fault domain belongs to one group and zone.
    """
    names = []
    if machine.zone:
        names.append(("zone", machine.zone))
    if machine.host:
        names.append(("host", machine.host))
    names.append(("fault_domain", f"{machine.zone}/{machine.fault_domain}"))
    return tuple(names)
