"""The people: they ask for things, change their minds, hold and cancel, and put clocks right.

What they asked for is entered in the facts, so that the checkers know what they wanted.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from upkeep.core.hook_event import Answer, HookEvent
from upkeep.core.model import (
    GroupId,
    GroupKind,
    Lifecycle,
    Machine,
    MachineId,
    Repairs,
    Rollout,
    RolloutId,
    RolloutState,
    System,
    Task,
    Verb,
)
from upkeep.core.snapshot import OperatorCall
from upkeep.core.version import ImageVersion, is_older
from upkeep.sim.checkers import Commit, Facts
from upkeep.sim.drawing import CURE_MODEL, DAY, Drawing
from upkeep.sim.hosting import Hosting
from upkeep.sim.kernel import Kernel, stream
from upkeep.sim.memory_operator import MemoryOperator
from upkeep.sim.replica import Replica

_DOINGS = (
    "restart",
    "reimage",
    "forced_restart",
    "stop",
    "delete",
    "start_rollout",
    "start_rollout",
    "cancel",
    "cancel",
    "pause_group",
    "pause_rollout",
    "capacity",
    "protect",
)
# With blame measured, nobody lends a hand.
_QUIET = ("restart", "stop")


class Person:
    def __init__(self, drawing: Drawing, kernel: Kernel, facts: Facts, hosting: Hosting) -> None:
        self._kernel = kernel
        self._facts = facts
        self._store = facts.store
        self._operator = MemoryOperator(facts.store)
        self._hosting = hosting
        self._now = hosting.engine_now
        self._draws = stream(drawing.seed, "person")
        self._calls = 0
        self._is_done = False
        self._cure = ""
        self._drawing = drawing
        quiet = drawing.options.bad_versions
        for _ in range(self._draws.randint(0, 6 if quiet else 14)):
            doing = self._draws.choice(_QUIET if quiet else _DOINGS)
            at = self._draws.uniform(0, drawing.days) * DAY
            kernel.at(at, partial(self._do, doing))
        # Some see a rollout begin and have one machine left alone until it is over.
        self._wary = stream(drawing.seed, "wary")
        self._spared = 0 if quiet else self._wary.choice((0, 1, 2, 4))
        self._approvals = stream(drawing.seed, "approve")
        self._floors = stream(drawing.seed, "floors set")
        self._keeps = stream(drawing.seed, "kept")
        for group in drawing.groups:
            for change in group.models:
                kernel.at(change.at, partial(self._change_model, group.group.id, change.model))
        kernel.at(3_600, self._look_at_clocks)

    def committed(self, commit: Commit) -> None:
        """People see a rollout or a scale-in that has just begun."""
        for event in commit.plan.hook_events:
            if not event.closed:
                self._is_asked(event)
        for rollout in commit.plan.rollouts:
            if rollout.guilty and rollout.ended_at is not None:
                wait_s = self._approvals.uniform(0.5, 12) * 3_600
                self._kernel.after(wait_s, partial(self._lift_floor, rollout))
        for task, _ in commit.moved:
            if task.not_before is not None and task.not_before > commit.now:
                self._may_set_floor(task, commit.now)
                self._may_keep(task, commit.now)
        begun = [task for task, before in commit.moved if before is None]
        for rollout_id in dict.fromkeys(task.rollout for task in begun):
            machines = [task.machine for task in begun if task.rollout == rollout_id]
            self._look_at(self._facts.rollouts[rollout_id], machines)
        if not self._spared or not begun:
            return
        rollout = self._facts.rollouts[begun[0].rollout]
        if rollout.system is System.OS_IMAGE and len(begun) > 1:
            flag = "protected"
        elif rollout.system is System.SCALE and rollout.verb is Verb.DELETE:
            flag = "scale_in_protected"
        elif rollout.system is System.REPAIR:
            flag = "protected"
        else:
            return
        if self._wary.random() < 0.7:
            return
        self._spared -= 1
        machine = self._wary.choice(begun).machine
        self._kernel.after(self._wary.uniform(0, 60), lambda: self._spare(machine, flag))

    def _look_at(self, rollout: Rollout, machines: list[MachineId]) -> None:
        """Somebody lets it take a few machines first, and the others within a day."""
        if rollout.system is not System.OS_IMAGE:
            return
        if rollout.policy.canary_percent:
            wait_s = self._approvals.uniform(0.1, 12) * 3_600
            self._kernel.after(wait_s, partial(self._promote, rollout.id))
        if not rollout.policy.needs_approval:
            return
        if self._approvals.random() < 0.6:
            few = self._approvals.sample(machines, self._approvals.randint(1, len(machines)))
            wait_s = self._approvals.uniform(0, 2) * 3_600
            self._kernel.after(wait_s, partial(self._approve, rollout.id, few))
        wait_s = self._approvals.uniform(1, 24) * 3_600
        self._kernel.after(wait_s, partial(self._approve, rollout.id, machines))

    def _may_set_floor(self, task: Task, now: datetime) -> None:
        """Now and then somebody sees, just while work is announced, what it would jump over."""
        rollout = self._facts.rollouts[task.rollout]
        if rollout.system is not System.OS_IMAGE or self._is_done or self._floors.random() > 0.1:
            return
        if rollout.is_of_model:
            return
        row = self._store.groups[rollout.group]
        machine = row.machines.get(task.machine)
        for entry in self._store.catalogue.of(row.group.image_name):
            if machine is None or not is_older(machine.image, entry.version):
                continue
            if is_older(entry.version, rollout.target) and not entry.excluded:
                assert task.not_before is not None
                wait_s = (task.not_before - now).total_seconds() * self._floors.random()
                self._kernel.after(wait_s, partial(self._set_floor, rollout, entry.version))
                return

    def _may_keep(self, task: Task, now: datetime) -> None:
        """A notice is there for people to react: now and then somebody keeps who would go."""
        rollout = self._facts.rollouts[task.rollout]
        is_removal = rollout.system is System.SCALE and rollout.verb is Verb.DELETE
        if not is_removal or self._is_done or self._drawing.options.bad_versions:
            return
        if self._keeps.random() < 0.4:
            assert task.not_before is not None
            wait_s = (task.not_before - now).total_seconds() * self._keeps.random()
            spare = partial(self._spare, task.machine, "scale_in_protected")
            self._kernel.after(wait_s, spare)

    def _set_floor(self, rollout: Rollout, version: str) -> None:
        image = self._store.groups[rollout.group].group.image_name
        for entry in self._store.catalogue.of(image):
            if entry.version == version and not self._is_done:
                self._kernel.tell(f"person: {image} {version} is a floor")
                self._operator.publish(image, replace(entry, floor=True), now=self._now())

    def _lift_floor(self, rollout: Rollout) -> None:
        """Nobody gets past a bad floor until somebody says that it is none."""
        image = self._store.groups[rollout.group].group.image_name
        for entry in self._store.catalogue.of(image):
            if entry.version == rollout.target and entry.floor:
                self._kernel.tell(f"person: {image} {entry.version} is no floor any more")
                self._operator.publish(image, replace(entry, floor=False), now=self._now())

    def _change_model(self, group: GroupId, model: str) -> None:
        self._kernel.tell(f"person: the model of {group} is {model}")
        self._operator.change_group(group, now=self._now(), model=model)

    def _promote(self, rollout: RolloutId) -> None:
        if self._operator.change_rollout(rollout, now=self._now(), promoted=True):
            self._kernel.tell(f"person: promotes {rollout}")
            self._facts.promoted.add(rollout)

    def _approve(self, rollout: RolloutId, machines: list[MachineId]) -> None:
        if self._operator.approve(rollout, machines, now=self._now()):
            self._kernel.tell(f"person: approves {rollout} on {len(machines)} machines")
            self._facts.approved |= {(rollout, machine) for machine in machines}

    def _is_asked(self, event: HookEvent) -> None:
        """Some answer in time, some too late or in part, some let the question wait on."""
        draws = self._approvals
        wait_s = (event.wait_until - event.created_at).total_seconds()
        if self._is_done:
            # From now on everybody is let go, before silence could mean something else.
            everybody = dict.fromkeys(event.answers, Answer.APPROVED)
            self._kernel.after(wait_s / 2, partial(self._answer, event, everybody))
            return
        if draws.random() < 0.2:
            later = event.wait_until + timedelta(minutes=draws.choice((10, 60)))
            self._kernel.after(draws.uniform(0, wait_s), partial(self._move_end, event, later))
        for _ in range(draws.choice((0, 1, 1, 2))):
            machines = sorted(event.answers)
            chosen = draws.sample(machines, draws.randint(1, len(machines)))
            answer = Answer.APPROVED if draws.random() < 0.8 else Answer.REJECTED
            at_s = draws.uniform(0, 1.3 * wait_s)
            answers = dict.fromkeys(chosen, answer)
            self._kernel.after(at_s, partial(self._answer, event, answers))

    def _answer(self, event: HookEvent, answers: dict[MachineId, Answer]) -> None:
        if self._operator.answer(event, answers, now=self._now()):
            self._kernel.tell(f"person: answers for {len(answers)} at {event.rollout}")
            for machine, answer in answers.items():
                self._facts.said[event.rollout, event.serial, machine] = answer

    def _move_end(self, event: HookEvent, later: datetime) -> None:
        if self._operator.move_end(event, later, now=self._now()):
            self._facts.moved[event.rollout, event.serial] = later

    def _spare(self, machine: MachineId, flag: str) -> None:
        if self._is_present(machine):
            self._kernel.tell(f"person: {machine} is {flag} for a while")
            self._operator.change_machine(machine, now=self._now(), **{flag: True})
            wait_s = self._wary.uniform(0.1, 2) * DAY
            self._kernel.after(wait_s, lambda: self._release(machine, flag))

    def _release(self, machine: MachineId, flag: str) -> None:
        if self._is_present(machine):
            self._operator.change_machine(machine, now=self._now(), **{flag: False})

    def _is_present(self, machine: MachineId) -> bool:
        group = self._store.group_of.get(machine)
        row = self._store.groups[group].machines.get(machine) if group else None
        return row is not None and row.lifecycle is Lifecycle.PRESENT

    def _do(self, doing: str) -> None:
        getattr(self, f"_{doing}")(self._group())

    def _group(self) -> GroupId:
        return self._draws.choice(self._drawing.groups).group.id

    def _call(
        self,
        group: GroupId,
        verb: Verb,
        machines: tuple[MachineId, ...],
        *,
        force: bool = False,
        target: str = "",
    ) -> None:
        self._calls += 1
        call = OperatorCall(
            id=f"call_{self._calls:04d}",
            verb=verb,
            machines=machines,
            target=target,
            force=force,
            actor="person",
        )
        self._kernel.tell(f"person: {verb} {len(machines)} of {group}" + (" forced" * force))
        self._operator.add_call(group, call, now=self._now())

    def _some(self, group: GroupId, lifecycle: Lifecycle, most: int) -> tuple[MachineId, ...]:
        row = self._store.groups[group]
        found = [m.id for m in row.sorted_machines() if m.lifecycle is lifecycle]
        count = min(len(found), self._draws.randint(1, most))
        return tuple(sorted(self._draws.sample(found, count)))

    def _restart(self, group: GroupId) -> None:
        if chosen := self._some(group, Lifecycle.PRESENT, 5):
            self._call(group, Verb.RESTART, chosen)

    def _reimage(self, group: GroupId) -> None:
        agent_only = group in self._facts.world.restarted_by_agent
        if not agent_only and (chosen := self._some(group, Lifecycle.PRESENT, 3)):
            self._call(group, Verb.REIMAGE, chosen)

    def _forced_restart(self, group: GroupId) -> None:
        if chosen := self._some(group, Lifecycle.PRESENT, 3):
            self._call(group, Verb.RESTART, chosen, force=True)

    def _stop(self, group: GroupId) -> None:
        if chosen := self._some(group, Lifecycle.PRESENT, 2):
            self._call(group, Verb.STOP, chosen)
            self._kernel.after(
                self._draws.uniform(1, 24) * 3_600, lambda: self._start_stopped(group)
            )

    def _start_stopped(self, group: GroupId) -> None:
        if chosen := self._some(group, Lifecycle.STOPPED, 4):
            self._call(group, Verb.START, chosen)

    def _delete(self, group: GroupId) -> None:
        chosen = self._some(group, Lifecycle.PRESENT, 2)
        if chosen and len(self._store.groups[group].machines) > len(chosen):
            self._call(group, Verb.DELETE, chosen)

    def _start_rollout(self, group: GroupId) -> None:
        self._call(group, Verb.REPLACE_OS_DISK, (), force=self._draws.random() < 0.15)

    def _cancel(self, group: GroupId) -> None:
        self._when_rolling(group, self._cancel_one)

    def _cancel_one(self, group: GroupId) -> None:
        for rollout in list(self._store.groups[group].open.values()):
            if rollout.system is System.OS_IMAGE and rollout.state is RolloutState.RUNNING:
                self._kernel.tell(f"person: cancels {rollout.id}")
                self._facts.cancelled.add(rollout.id)
                self._operator.change_rollout(rollout.id, now=self._now(), cancel_requested=True)

    def _when_rolling(
        self, group: GroupId, then: Callable[[GroupId], None], tries: int = 60
    ) -> None:
        """People cancel and pause what is going on: wait a while for something to go on."""
        if self._is_done:
            return
        row = self._store.groups[group]
        if any(r.system is System.OS_IMAGE for r in row.open.values()):
            wait = self._draws.uniform(0, 900)
            self._kernel.after(wait, lambda: None if self._is_done else then(group))
        elif tries:
            self._kernel.after(1_800, lambda: self._when_rolling(group, then, tries - 1))

    def _pause_group(self, group: GroupId) -> None:
        self._when_rolling(group, self._pause_group_now)

    def _pause_group_now(self, group: GroupId) -> None:
        self._kernel.tell(f"person: pauses {group}")
        self._facts.paused.add(group)
        self._operator.change_group(group, now=self._now(), paused=True)
        self._kernel.after(self._draws.uniform(0.2, 8) * 3_600, lambda: self._resume_group(group))

    def _resume_group(self, group: GroupId) -> None:
        if group in self._facts.paused:
            self._kernel.tell(f"person: resumes {group}")
            self._facts.paused.discard(group)
            self._operator.change_group(group, now=self._now(), paused=False)

    def _pause_rollout(self, group: GroupId) -> None:
        self._when_rolling(group, self._pause_rollout_now)

    def _pause_rollout_now(self, group: GroupId) -> None:
        for rollout in list(self._store.groups[group].open):
            self._kernel.tell(f"person: pauses {rollout}")
            self._facts.paused.add(rollout)
            self._operator.change_rollout(rollout, now=self._now(), paused=True)
            wait = self._draws.uniform(0.2, 8) * 3_600
            self._kernel.after(wait, partial(self._resume_rollout, rollout))

    def _resume_rollout(self, rollout: RolloutId) -> None:
        if rollout in self._facts.paused:
            self._facts.paused.discard(rollout)
            self._operator.change_rollout(rollout, now=self._now(), paused=False)

    def _capacity(self, group: GroupId) -> None:
        row = self._store.groups[group]
        if row.group.kind is GroupKind.SCALE_SET:
            capacity = max(1, row.group.capacity + self._draws.choice((-3, -1, 1, 2, 5)))
            self._kernel.tell(f"person: {group} shall have {capacity} machines")
            if capacity < row.group.capacity and self._wary.random() < 0.5:
                # The newest would go first; somebody still needs it.
                newest = max(row.machines.values(), key=lambda m: (len(m.id), m.id)).id
                self._operator.change_machine(newest, now=self._now(), scale_in_protected=True)
            self._operator.change_group(group, now=self._now(), capacity=capacity)

    def _protect(self, group: GroupId) -> None:
        for machine in self._some(group, Lifecycle.PRESENT, 1):
            self._operator.change_machine(machine, now=self._now(), protected=True)

    def _look_at_clocks(self) -> None:
        """Somebody on duty: a step that lasts is looked at and accepted."""
        for replica in list(self._hosting.awake()):
            replica.guarded(partial(self._accept, replica))
        self._kernel.after(3 * 3_600, self._look_at_clocks)
        self._look_at_repairs()

    def _look_at_repairs(self) -> None:
        """Suspended ones are looked into, and go on the day after; now and then one suspends."""
        for group, row in self._store.groups.items():
            repairs = row.group.repairs
            if repairs is None:
                continue
            now = self._now()
            suspended = repairs.suspended_at
            if suspended is not None and (self._is_done or now - suspended > timedelta(days=1)):
                self._change_repairs(group, replace(repairs, suspended_at=None, resumed_at=now))
            elif suspended is None and not self._is_done and self._approvals.random() < 0.02:
                self._change_repairs(group, replace(repairs, suspended_at=now))

    def _change_repairs(self, group: GroupId, repairs: Repairs) -> None:
        word = "resumes" if repairs.suspended_at is None else "suspends"
        self._kernel.tell(f"person: {word} the repairs of {group}")
        self._operator.change_group(group, now=self._now(), repairs=repairs)
        suspended = self._facts.suspended
        (suspended.discard if repairs.suspended_at is None else suspended.add)(group)

    def _accept(self, replica: Replica, *, always: bool = False) -> None:
        assert replica.clock is not None
        if replica.clock.stepped() is not None and (always or self._draws.random() < 0.5):
            step = replica.accept_step()
            self._kernel.tell(f"person: accepts a clock step of {step.total_seconds():.0f} s")
            for group in self._store.groups:
                self._store.mark_group(group, now=replica.engine_now())

    def heal(self, *, cure: str) -> None:
        """Everything is resumed, restarted and cured; from now on nobody does anything."""
        self._is_done = True
        self._cure = cure
        for group in list(self._store.groups):
            self._resume_group(group)
            for rollout in list(self._store.groups[group].open):
                self._resume_rollout(rollout)
        for drawing in self._drawing.groups:
            if drawing.models:
                self._change_model(drawing.group.id, CURE_MODEL)
        for image in self._drawing.images:
            for entry in self._store.catalogue.of(image):
                if entry.floor:  # It may be a bad one, and nobody could get past it.
                    self._operator.publish(image, replace(entry, floor=False), now=self._now())
            self._operator.publish(image, ImageVersion(version=cure), now=self._now())
        self.put_right()

    def put_right(self) -> None:
        """What a person does every few hours: accept clocks, restart what hangs."""
        for replica in list(self._hosting.awake()):
            replica.guarded(partial(self._accept, replica, always=True))
        for group, row in self._store.groups.items():
            hung = tuple(m.id for m in row.sorted_machines() if self._hangs(m))
            if hung:
                self._call(group, Verb.RESTART, hung)
            if group in self._facts.world.restarted_by_agent:
                self._see_to(hung)
            # A bad model that machines got by the way had spoilt it, and is cured by now.
            spoilt = any(rollout.guilty and rollout.target == self._cure for rollout in row.past)
            if spoilt and not any(r.system is System.OS_IMAGE for r in row.open.values()):
                self._call(group, Verb.REPLACE_OS_DISK, (), target=self._cure)

    def _see_to(self, machines: tuple[MachineId, ...]) -> None:
        """Nobody else can: the agent hangs with its machine, which is set up anew by hand."""
        for machine in machines:
            truth = self._facts.truth(machine)
            if truth is not None and truth.platform.call is None:
                self._facts.world.set_up(truth, self._drawing.first_version)
                disk = {"image": truth.platform.image, "model": truth.platform.model}
                self._operator.change_machine(machine, now=self._now(), **disk)

    def _hangs(self, machine: Machine) -> bool:
        truth = self._facts.truth(machine.id)
        return (
            machine.lifecycle is Lifecycle.PRESENT
            and truth is not None
            and self._facts.known_down(truth)
            and machine.id not in self._facts.in_hand
        )
