"""A group played forward in virtual time: plan, outcomes, health, and what a script makes of it.

A `Story` keeps the rows that a store would keep and does what an executor, a platform and a
prober would do, by literal rules that a test sets before it calls `run`:

- an action takes a minute; while it runs its machine is INITIALIZING; a minute after it has ended
  the machine is seen HEALTHY, or UNHEALTHY if (machine, version) is among `ill_on`;
- a machine of `never_drained` does not say that it has moved its work away;
- `refused[(machine, verb)]` makes the platform fail with that kind, for good;
- `at(minute, ...)` makes something happen at a moment.

It decides nothing: every decision in it is the core's.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from upkeep.core.alarm import Alarm, AlarmState, told
from upkeep.core.draft import domain_names
from upkeep.core.hold import Hold, HoldReason
from upkeep.core.hook_event import Answer, HookEvent
from upkeep.core.model import (
    OPEN_STATES,
    Budget,
    BudgetId,
    Claim,
    Group,
    GroupId,
    GroupKind,
    Health,
    Lifecycle,
    Machine,
    MachineId,
    Outcome,
    Rollout,
    RolloutId,
    Task,
    Verb,
)
from upkeep.core.plan import plan_group
from upkeep.core.policy import RollingPolicy
from upkeep.core.snapshot import Action, Domain, Interval, OperatorCall, Plan, Snapshot, remembered
from upkeep.core.task import IN_HAND, TaskState
from upkeep.core.version import ImageVersion

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)

# A story that needs more plans than this goes round in circles.
PLANS_MAX = 20_000

MINUTE = timedelta(minutes=1)
DOWN_VERBS = frozenset({Verb.STOP, Verb.RESTART, Verb.REPLACE_OS_DISK, Verb.DELETE})
BACK_VERBS = frozenset({Verb.SWITCH_BACK})


def a_group(**changes: Any) -> Group:
    plain = Group(
        id=GroupId("g"),
        name="web",
        region="north",
        kind=GroupKind.AVAILABILITY_SET,
        image_name="web",
    )
    return replace(plain, **changes)


def machines_of(
    count: int,
    *,
    zones: Iterable[str] = ("",),
    update_domains: int = 1,
    image: str = "1.0.0",
    **fields: Any,
) -> list[Machine]:
    """m0, m1, …: zones and update domains in turn, healthy since before the story."""
    names = list(zones)
    width = len(str(count - 1))
    return [
        Machine(
            id=MachineId(f"m{number:0{width}}"),
            name=f"m{number:0{width}}",
            zone=names[number % len(names)],
            update_domain=number // len(names) % update_domains,
            image=image,
            boots=1,
            health_since=START - timedelta(days=1),
            **fields,
        )
        for number in range(count)
    ]


def share(percent: int, name: str = "group") -> Budget:
    """The budget that every group has: a share of its machines may be down."""
    return Budget(id=BudgetId(f"bu_{name}"), name=name, max_down=percent, percent=True, size={})


class Story:
    def __init__(
        self,
        machines: Iterable[Machine],
        *,
        versions: Iterable[str] = ("1.0.0",),
        group: Group | None = None,
        policy: RollingPolicy | None = None,
        budgets: Iterable[Budget] = (share(20),),
    ) -> None:
        group = group or a_group()
        self.group = replace(group, policy=policy or group.policy)
        self.machines: dict[MachineId, Machine] = {m.id: m for m in machines}
        self.versions = {v: ImageVersion(version=v) for v in versions}
        self.budgets = tuple(budgets)
        self.rollouts: dict[RolloutId, Rollout] = {}
        self.ended: list[RolloutId] = []
        self.tasks: dict[tuple[RolloutId, MachineId], Task] = {}
        self.hook_events: dict[tuple[RolloutId, int], HookEvent] = {}
        self.claims: list[Claim] = []
        self.outcomes: dict[str, Outcome] = {}
        self.actions: dict[str, Action] = {}
        self.calls: list[OperatorCall] = []
        self.answers: dict[str, str] = {}
        self.windows: tuple[Interval, ...] | None = None
        self.blackouts: tuple[Interval, ...] = ()
        self.awake_since: datetime | None = None
        self.clock_stepped = False
        self.alarms: dict[str, Alarm] = {}
        self.now = START
        self.holds: tuple[Hold, ...] = ()
        self.next_wake: datetime | None = None
        self.told: list[tuple[datetime, str]] = []
        self.plans: list[tuple[datetime, Plan]] = []
        # The script.
        self.ill_on: set[tuple[str, str]] = set()
        self.refused: dict[tuple[str, Verb], str] = {}
        self.never_drained: set[str] = set()
        self.dark: set[str] = set()  # Zones that nobody can look into.
        self.action_takes = MINUTE
        self.seen_after = MINUTE
        self._coming: list[tuple[datetime, int, Callable[[], None]]] = []
        self._count = 0

    # What a test asks.

    def rollout(self, number: int = 1) -> Rollout:
        return self.rollouts[RolloutId(f"ro_g_{number}")]

    def task(self, machine: str, number: int = 1) -> Task:
        return self.tasks[RolloutId(f"ro_g_{number}"), MachineId(machine)]

    def hold(self, machine: str) -> HoldReason | None:
        """The reason of the machine's first hold."""
        return next((h.reason for h in self.holds if h.machine == machine), None)

    def images(self) -> dict[str, str]:
        return {m.name: m.image for m in self.machines.values()}

    def in_hand(self, machine: str) -> list[Task]:
        return [
            t
            for t in self.open_tasks()
            if t.machine == machine and (t.state in IN_HAND or t.state is TaskState.BAKING)
        ]

    def sent(self, verb: Verb) -> list[str]:
        """The machines to which the verb was sent, in the order of the plans."""
        return [a.machine for _, plan in self.plans for a in plan.actions if a.verb is verb]

    def batches(self, number: int = 1) -> list[list[str]]:
        """Who was taken together, batch by batch."""
        taken: dict[int, list[str]] = {}
        for (rollout, machine), task in sorted(self.tasks.items()):
            if rollout == f"ro_g_{number}" and task.batch:
                taken.setdefault(task.batch, []).append(machine)
        return [taken[batch] for batch in sorted(taken)]

    def open_tasks(self) -> list[Task]:
        return [t for t in self.tasks.values() if self.rollouts[t.rollout].state in OPEN_STATES]

    # What a test makes happen.

    def at(self, minute: float, happens: Callable[[], None]) -> None:
        self._at(START + timedelta(minutes=minute), happens)

    def after(self, minutes: float, happens: Callable[[], None]) -> None:
        self._at(self.now + timedelta(minutes=minutes), happens)

    def publish(self, version: str, **fields: Any) -> None:
        self.versions[version] = ImageVersion(version=version, **fields)

    def call(
        self, verb: Verb, *machines: str, target: str = "", force: bool = False
    ) -> OperatorCall:
        self._count += 1
        call = OperatorCall(
            id=f"call_{self._count}",
            verb=verb,
            machines=tuple(MachineId(m) for m in machines),
            target=target,
            force=force,
            actor="ann",
        )
        self.calls.append(call)
        return call

    def cancel(self, number: int = 1) -> None:
        rollout = self.rollout(number)
        self.rollouts[rollout.id] = replace(rollout, cancel_requested=True)

    def approve(self, *machines: str, number: int = 1) -> None:
        """The named machines, or all that wait, may be taken by the rollout."""
        for key, task in self.tasks.items():
            wanted = not machines or task.machine in machines
            if task.rollout == f"ro_g_{number}" and task.state is TaskState.HELD and wanted:
                self.tasks[key] = replace(task, approved=True)

    def question(self, serial: int = 1, number: int = 1) -> HookEvent:
        """What the rollout has asked at a lifecycle hook."""
        return self.hook_events[RolloutId(f"ro_g_{number}"), serial]

    def answer(self, answer: Answer, *machines: str, serial: int = 1, number: int = 1) -> None:
        """For the named machines, or for all that are asked about."""
        event = self.question(serial, number)
        chosen = [MachineId(m) for m in machines] or list(event.answers)
        answers = {**event.answers, **dict.fromkeys(chosen, answer)}
        self.hook_events[event.rollout, serial] = replace(event, answers=answers)

    def tell_alarm(self, name: str, state: AlarmState, detail: str = "") -> None:
        self.alarms[name] = told(self.alarms[name], state, detail, now=self.now)

    def change(self, machine: str, **changes: Any) -> None:
        key = MachineId(machine)
        self.machines[key] = replace(self.machines[key], **changes)

    def see(self, machine: str, health: Health) -> None:
        """What a sighting writes: a machine turns UNKNOWN in our hands, or it is lost."""
        before = self.machines.get(MachineId(machine))
        if before is None or before.health is health:
            return
        changes: dict[str, Any] = {"health": health, "health_since": self.now}
        if health is Health.UNKNOWN and not self.in_hand(machine):
            changes["lost_at"] = self.now
        elif before.health is Health.UNKNOWN:
            changes["back_at"] = self.now
        self.change(machine, **changes)

    def remove(self, machine: str) -> None:
        """The machine is gone, and its row with it."""
        del self.machines[MachineId(machine)]

    # Playing forward.

    def run(self, *, minutes: float) -> "Story":
        """Play until so many minutes after the beginning, planning whenever there is cause."""
        self.rest()
        return self._play(until=START + timedelta(minutes=minutes))

    def run_on(self, *, minutes: float) -> "Story":
        """Play for so many minutes more."""
        return self._play(until=self.now + timedelta(minutes=minutes))

    def _play(self, *, until: datetime) -> "Story":
        while (moment := self._next_moment()) is not None and moment <= until:
            self.now = max(self.now, moment)
            while self._coming and self._coming[0][0] <= self.now:
                heapq.heappop(self._coming)[2]()
            self.rest()
            assert len(self.plans) < PLANS_MAX, self.told[-5:]
        self.now = until
        return self

    def rest(self) -> None:
        """Plan once, as the loop does when something came in: a second time needs a cause."""
        plan = plan_group(self.snapshot(), now=self.now)
        self.write(plan)
        self.start(plan)

    def _next_moment(self) -> datetime | None:
        moments = [self._coming[0][0]] if self._coming else []
        if self.next_wake is not None:
            moments.append(self.next_wake)
        return min(moments, default=None)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            group=self.group,
            machines=tuple(self.machines[key] for key in sorted(self.machines)),
            versions=tuple(self.versions[key] for key in sorted(self.versions)),
            rollouts=tuple(r for _, r in sorted(self.rollouts.items()) if r.state in OPEN_STATES),
            past=tuple(remembered(self.rollouts[key] for key in reversed(self.ended))),
            tasks=tuple(sorted(self.open_tasks(), key=lambda t: (t.rollout, t.machine))),
            hook_events=tuple(
                event
                for key, event in sorted(self.hook_events.items())
                if self.rollouts[key[0]].state in OPEN_STATES
            ),
            outcomes=dict(self.outcomes),
            budgets=tuple(self._budget_now(b) for b in self.budgets),
            claims=tuple(self.claims),
            calls=tuple(self.calls),
            alarms=tuple(self.alarms[name] for name in sorted(self.alarms)),
            domains=self._domains(),
            windows=self.windows,
            blackouts=self.blackouts,
            awake_since=self.awake_since,
            clock_stepped=self.clock_stepped,
        )

    def write(self, plan: Plan) -> None:
        """Write the plan, as a store's one transaction would."""
        self.plans.append((self.now, plan))
        self.group = plan.group
        for machine in plan.machines:
            self.machines[machine.id] = machine
        for rollout in plan.rollouts:
            if rollout.state not in OPEN_STATES and rollout.id not in self.ended:
                self.ended.append(rollout.id)
            self.rollouts[rollout.id] = rollout
        for task in plan.tasks:
            self.tasks[task.rollout, task.machine] = task
        for event in plan.hook_events:
            self.hook_events[event.rollout, event.serial] = event
        released = set(plan.released)
        self.claims = [c for c in self.claims if (c.budget, c.machine) not in released]
        self.claims.extend(plan.claims)
        answered = dict(plan.calls_done)
        self.answers |= answered
        self.calls = [c for c in self.calls if c.id not in answered]
        for machine_id in [
            m.id for m in self.machines.values() if m.lifecycle is Lifecycle.DELETED
        ]:
            del self.machines[machine_id]
            self.claims = [c for c in self.claims if c.machine != machine_id]
        self.holds = plan.holds
        self.next_wake = plan.next_wake
        self.told.extend((self.now, line) for line in plan.story)

    # What an executor, a platform and a prober would do.

    def start(self, plan: Plan) -> None:
        """Begin the plan's actions; a key that is known is not begun again."""
        for action in plan.actions:
            if action.key not in self.actions:
                self.actions[action.key] = action
                self.begin(action)

    def begin(self, action: Action) -> None:
        if action.verb is Verb.DRAIN:
            if action.machine in self.never_drained:
                return
            self._at(self.now + self.action_takes, lambda: self.drained(action))
            return
        if action.machine in self.machines:
            self.see(action.machine, Health.INITIALIZING)
        self._at(self.now + self.action_takes, lambda: self.end(action))

    def drained(self, action: Action) -> None:
        self.outcomes[action.key] = Outcome(key=action.key, succeeded=True, at=self.now)

    def end(self, action: Action) -> None:
        kind = self.refused.get((action.machine, action.verb), "")
        self.outcomes[action.key] = Outcome(
            key=action.key, succeeded=not kind, at=self.now, kind=kind, detail=kind and "refused"
        )
        machine = self.machines.get(action.machine)
        if machine is None:
            return
        if not kind and action.verb not in (Verb.STOP, Verb.DELETE):
            self.change(machine.id, boots=machine.boots + 1, powered_off=False)
            disk = (action.version, action.model)
            if action.verb is Verb.SWITCH_BACK:
                disk = (machine.kept, machine.kept_model)
            if action.version and disk != (machine.image, machine.model):
                before = {"kept": machine.image, "kept_model": machine.model}
                self.change(machine.id, image=disk[0], model=disk[1], **before)
        self._at(self.now + self.seen_after, lambda: self.seen(action.machine))

    def seen(self, name: str) -> None:
        """The prober's first verdict after the machine has started."""
        machine = self.machines.get(MachineId(name))
        if machine is None or machine.zone in self.dark:
            return
        ill = not self.ill_on.isdisjoint(
            {(machine.name, machine.image), (machine.name, machine.model)}
        )
        self.see(name, Health.UNHEALTHY if ill else Health.HEALTHY)

    def _at(self, moment: datetime, happens: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._coming, (moment, self._count, happens))

    def _budget_now(self, budget: Budget) -> Budget:
        """The budget with what a store would count: its size, and the starts of its period."""
        size: dict[str, int] = dict(budget.size)
        if not size:
            for machine in self.machines.values():
                selected = budget.members is None or machine.id in budget.members
                if selected and machine.lifecycle is Lifecycle.PRESENT:
                    zone = machine.zone if budget.per_zone else ""
                    size[zone] = size.get(zone, 0) + 1
        started = tuple(
            claim.taken_at
            for _, plan in self.plans
            for claim in plan.claims
            if claim.budget == budget.id and claim.taken_at > self.now - budget.rate_period
        )
        return replace(budget, size=size, started=started)

    def _domains(self) -> tuple[Domain, ...]:
        found: dict[tuple[str, str], list[Machine]] = {}
        for machine in self.machines.values():
            for kind, name in domain_names(machine):
                found.setdefault((kind, name), []).append(machine)
        return tuple(
            Domain(
                kind=kind,
                name=name,
                size=len(members),
                away=tuple((m.lost_at, m.back_at) for m in members if m.lost_at is not None),
            )
            for (kind, name), members in sorted(found.items())
        )


def one_version_newer(machines: Iterable[Machine], **kwargs: Any) -> Story:
    """The usual beginning: everybody runs 1.0.0 and 1.0.1 is there."""
    return Story(machines, versions=("1.0.0", "1.0.1"), **kwargs)


def reasons(story: Story) -> Mapping[str, str]:
    return {hold.machine: hold.reason for hold in story.holds}
