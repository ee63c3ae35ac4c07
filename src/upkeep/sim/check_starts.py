"""Nothing begins that must not begin, or not now.

Watches each written plan for actions that take a machine down, and for new rollouts and batches.
A rollback of a machine that has failed is the end of its work, not a beginning.
"""

from datetime import datetime, timedelta

from upkeep.core.model import (
    Failure,
    GroupId,
    Lifecycle,
    MachineId,
    Rollout,
    RolloutCode,
    RolloutState,
    StartedBy,
    System,
    Task,
    Verb,
)
from upkeep.core.snapshot import Action, Interval
from upkeep.core.task import TERMINAL, TaskState
from upkeep.core.version import is_older
from upkeep.sim.checkers import (
    OURS,
    TAKES_DOWN,
    BlindChecker,
    Commit,
    Facts,
    RuleBroken,
    has,
    waits_as_agreed,
)
from upkeep.sim.drawing import BAD
from upkeep.sim.world import Truth

STEP_MAX = timedelta(seconds=30)
LOST_WITHIN = timedelta(minutes=5)

# What ends from these has been worked on; what was only announced leaves no trace.
_WORKED_ON = (
    TaskState.RUNNING,
    TaskState.VERIFYING,
    TaskState.BAKING,
    TaskState.ROLLING_BACK,
)

# A rollout whose version fails on every machine may take so many batches: one to see it, one
# in case the first machine's own state explains it.
BATCHES_OF_A_BAD_VERSION = 3


def inside(interval: Interval, now: datetime) -> bool:
    return interval.opens <= now < interval.closes


class StartChecker(BlindChecker):
    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._announced_at: dict[tuple[str, str], datetime] = {}
        self._drained_at: dict[tuple[str, str], datetime] = {}
        self._known: set[str] = set()
        # (group, target) → why it must not begin again by itself.
        self._barred: dict[tuple[str, str], str] = {}
        self._times = {str(g.group.id): (g.blackouts, g.windows) for g in facts.drawing.groups}
        self._deferred = {g.group.id for g in facts.drawing.groups if g.group.policy.needs_approval}

    def committed(self, commit: Commit) -> None:
        for one, other in self.facts.overlaps:
            raise RuleBroken(
                "ONE_WORK",
                f"{other.machine}: {one.rollout} has it {one.state}, {other.rollout} takes it",
            )
        before_of = {}
        for task, before in commit.moved:
            before_of[(task.rollout, task.machine)] = before
            if before in (None, TaskState.HELD) and task.state in OURS:
                self._announced_at[(task.rollout, task.machine)] = commit.now
                self._spared(task)
                self._approved(task)
            if task.state is TaskState.DONE and before is not TaskState.DONE and task.stand_in:
                self._took_over(task)
            if task.state is TaskState.DRAINING:
                self._drained_at[(task.rollout, task.machine)] = commit.now
        for rollout in commit.plan.rollouts:
            self._rollout(rollout)
        for action in commit.plan.actions:
            if action.verb not in TAKES_DOWN:
                continue
            task = self.facts.tasks[(action.rollout, action.machine)]
            before = before_of.get((action.rollout, action.machine))
            if task.state is TaskState.ROLLING_BACK and before is not TaskState.DONE:
                continue
            self._start(commit, action, task)

    def _spared(self, task: Task) -> None:
        """A scale-in removes nobody who is protected; who has left the group is on the way out."""
        rollout = self.facts.rollouts[task.rollout]
        if rollout.system is not System.SCALE or rollout.verb is not Verb.DELETE:
            return
        machine = self.facts.store.groups[rollout.group].machines.get(task.machine)
        if machine is None:
            return
        is_spared = machine.protected or machine.scale_in_protected
        if is_spared and machine.lifecycle is Lifecycle.PRESENT:
            raise RuleBroken("SPARED", f"{rollout.id} removes {task.machine}, which is protected")

    def _took_over(self, task: Task) -> None:
        """Nobody who is protected by now is replaced by its stand-in."""
        rollout = self.facts.rollouts[task.rollout]
        old = self.facts.store.groups[rollout.group].machines.get(task.machine)
        if old is not None and (old.protected or old.opted_out):
            raise RuleBroken("SPARED", f"{task.stand_in} takes over from {task.machine}: {old}")

    def _approved(self, task: Task) -> None:
        """What begins by itself takes nobody whom no person has let it take, on surge neither."""
        rollout = self.facts.rollouts[task.rollout]
        if rollout.group not in self._deferred or not waits_as_agreed(self.facts, rollout):
            return
        if (rollout.id, task.machine) not in self.facts.approved:
            raise RuleBroken("UNAPPROVED", f"{rollout.id} takes {task.machine} unasked")

    def _rollout(self, rollout: Rollout) -> None:
        key = (str(rollout.group), rollout.target)
        if rollout.id not in self._known:
            self._known.add(rollout.id)
            automatic = rollout.started_by is StartedBy.PLATFORM
            if not automatic and not self._barred.get(key, "").endswith("guilty"):
                self._barred.pop(key, None)  # People may change their minds.
            if automatic and rollout.system is System.OS_IMAGE and key in self._barred:
                raise RuleBroken(
                    "BEGUN_AGAIN", f"{rollout.id} to {rollout.target}: {self._barred[key]}"
                )
        if rollout.system is not System.OS_IMAGE or rollout.ended_at is None:
            return
        if rollout.guilty:
            self._barred[key] = f"{rollout.id} found it guilty"
        elif rollout.code is RolloutCode.OPERATOR_CANCELLED:
            self._barred[key] = f"{rollout.id} was cancelled by a person"

    def _start(self, commit: Commit, action: Action, task: Task) -> None:
        rollout = self.facts.rollouts[action.rollout]
        key = (str(action.rollout), str(action.machine))
        what = f"{action.key} at {commit.now:%m-%d %H:%M:%S}"
        self._held_by_people(rollout, task, what)
        self._state(rollout, task, what)
        self._spared(task)  # By now, too: people react to what is announced.
        if action.verb is Verb.REPLACE_OS_DISK and task.state is not TaskState.ROLLING_BACK:
            self._no_floor_between(rollout, action, what)
        if abs(self.facts.wall_differs) > STEP_MAX + timedelta(seconds=1):
            raise RuleBroken("CLOCK", f"{what}: the wall clock differs by an unaccepted step")
        # What is repaired is ill: there is nobody to tell.
        if task.state is not TaskState.ROLLING_BACK and rollout.system is not System.REPAIR:
            self._notice(rollout, task, commit.now, what)
        if not rollout.force:
            # Work that was drained in good time is not stopped by the end of a window.
            self._time(rollout, self._drained_at.get(key, commit.now), what)
            self._lost(rollout, what)

    def _no_floor_between(self, rollout: Rollout, action: Action, what: str) -> None:
        row = self.facts.store.groups[rollout.group]
        image = row.machines[action.machine].image
        for entry in self.facts.store.catalogue.of(row.group.image_name):
            is_between = is_older(image, entry.version) and is_older(entry.version, action.version)
            if image and entry.floor and not entry.excluded and is_between:
                raise RuleBroken("FLOOR", f"{what} takes it from {image} past {entry.version}")

    def _held_by_people(self, rollout: Rollout, task: Task, what: str) -> None:
        for name in (str(rollout.group), str(rollout.id)):
            if name in self.facts.paused:
                raise RuleBroken("PAUSED", f"{what}: a person has paused {name}")
        if rollout.id in self.facts.cancelled and task.state is not TaskState.ROLLING_BACK:
            raise RuleBroken("CANCELLED", f"{what}: a person has cancelled {rollout.id}")

    def _state(self, rollout: Rollout, task: Task, what: str) -> None:
        allowed = (RolloutState.RUNNING,)
        if task.state is TaskState.ROLLING_BACK:
            allowed = (RolloutState.ROLLING_BACK,)
        if rollout.state not in allowed:
            raise RuleBroken("HALTED", f"{what}: {rollout.id} is {rollout.state}")

    def _notice(self, rollout: Rollout, task: Task, now: datetime, what: str) -> None:
        announced = self._announced_at[(task.rollout, task.machine)]
        notice = self._policy_notice(rollout)
        if now - announced < notice:
            raise RuleBroken("NOTICE", f"{what}: announced {announced:%H:%M:%S}, notice {notice}")

    def _policy_notice(self, rollout: Rollout) -> timedelta:
        for group in self.facts.drawing.groups:
            if group.group.id == rollout.group:
                return group.group.policy.notice
        raise AssertionError(f"{rollout.group} was not drawn")

    def _time(self, rollout: Rollout, now: datetime, what: str) -> None:
        blackouts, windows = self._times[str(rollout.group)]
        for blackout in blackouts:
            if inside(blackout, now):
                raise RuleBroken("BLACKOUT", f"{what}: {blackout.name} is on")
        if rollout.system is not System.OS_IMAGE or windows is None:
            return
        if not any(inside(window, now) for window in windows):
            raise RuleBroken("WINDOW", f"{what}: no window is open")

    def _lost(self, rollout: Rollout, what: str) -> None:
        """A place that has been away for long, with many machines, some of them this group's."""
        if rollout.system is not System.OS_IMAGE:
            return
        facts = self.facts
        for (kind, name), until in facts.world.lost.items():
            if until <= facts.kernel.now:
                continue
            there = facts.world.in_domain(kind, name)
            if not any(truth.group == rollout.group for truth in there):
                continue
            away = [self._lost_at(t) for t in there if self._idle_and_away(t)]
            if len(away) >= max(3, len(there)) and max(away) - min(away) <= LOST_WITHIN:
                raise RuleBroken("DOMAIN_LOST", f"{what}: {kind} {name} has been away for long")

    def _lost_at(self, truth: Truth) -> datetime:
        """When it was noticed: a process that died meanwhile sees some of them later."""
        lost_at = self.facts.store.groups[truth.group].machines[truth.id].lost_at
        assert lost_at is not None
        return lost_at

    def _idle_and_away(self, truth: Truth) -> bool:
        facts = self.facts
        row = facts.store.groups[truth.group].machines.get(truth.id)
        return (
            facts.known_down(truth)
            and truth.id not in facts.in_hand
            and row is not None
            and row.lost_at is not None
        )


class BatchChecker(BlindChecker):
    """A batch is within one zone and update domain, within its size, one after the other."""

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self._batches: dict[tuple[str, int], list[Task]] = {}
        self._ended_at: dict[str, datetime] = {}  # When a task of the rollout ended last.
        self._judged: dict[str, int] = {}  # Rollout → its last batch that a row called closed.

    def committed(self, commit: Commit) -> None:
        begun: dict[str, list[Task]] = {}
        for task, before in commit.moved:
            rollout = self.facts.rollouts[task.rollout]
            if rollout.system is not System.OS_IMAGE:
                continue
            if before in (None, TaskState.HELD) and task.state in OURS:
                begun.setdefault(task.rollout, []).append(task)
            elif task.state in TERMINAL and before in _WORKED_ON:
                self._ended_at[rollout.id] = commit.now
        for rollout_id, tasks in begun.items():
            rollout = self.facts.rollouts[tasks[0].rollout]
            self._batch(rollout, tasks)
            self._unfinished(rollout, tasks, commit.now)
            self._too_ill(rollout, tasks)
            self._spread(rollout, tasks)
            self._too_many_failed(rollout, commit.now)
            self._newer(rollout, tasks)
            self._batches[(rollout_id, tasks[0].batch)] = tasks
        for rollout in commit.plan.rollouts:
            if rollout.batch_closed_at is not None:
                self._judged[rollout.id] = rollout.batch

    def _batch(self, rollout: Rollout, tasks: list[Task]) -> None:
        policy = rollout.policy
        if len({task.batch for task in tasks}) != 1:
            raise RuleBroken("BATCH", f"{rollout.id} begins two batches at once")
        if (rollout.id, tasks[0].batch) in self._batches:
            raise RuleBroken("BATCH", f"{rollout.id} adds to batch {tasks[0].batch}")
        most = max(1, rollout.size * policy.max_batch_percent // 100)
        if len(tasks) > most:
            raise RuleBroken("BATCH_SIZE", f"{rollout.id}: {len(tasks)} together, allowed {most}")
        rows = self.facts.store.groups[rollout.group].machines
        machines = [rows[task.machine] for task in tasks]
        if len({m.zone for m in machines}) > 1 and not policy.cross_zone:
            raise RuleBroken("ZONES", f"{rollout.id}: batch {tasks[0].batch} crosses zones")
        if len({m.update_domain for m in machines}) > 1:
            raise RuleBroken("UPDATE_DOMAINS", f"{rollout.id}: batch {tasks[0].batch}")

    def _unfinished(self, rollout: Rollout, tasks: list[Task], now: datetime) -> None:
        for earlier in self._batches.get((rollout.id, tasks[0].batch - 1), ()):
            task = self.facts.tasks[(earlier.rollout, earlier.machine)]
            if task.batch != earlier.batch:
                continue  # It was withdrawn, and is in this batch or waits for a later one.
            if task.state in OURS or task.state is TaskState.BAKING:
                raise RuleBroken("BATCH_OPEN", f"{rollout.id}: {task.machine} is {task.state}")
        pause = rollout.policy.pause_between_batches
        closed = self._ended_at.get(rollout.id)
        if closed is not None and now - closed < pause:
            raise RuleBroken("PAUSE", f"{rollout.id}: the last batch ended at {closed:%H:%M:%S}")
        # Without a pause a batch is judged and the next one begun in one plan.
        if pause and self._judged.get(rollout.id, 0) < tasks[0].batch - 1:
            raise RuleBroken("JUDGED", f"{rollout.id}: batch {tasks[0].batch - 1} was never judged")

    def _too_ill(self, rollout: Rollout, tasks: list[Task]) -> None:
        """The gate before a batch, from the truth: machines long ill by themselves.

        A batch of ill machines passes: it repairs, by surge too.
        """
        if all(task.repair or self._is_ill(task.machine) for task in tasks):
            return
        taken = {task.machine for task in tasks}
        present = [t for t in self.facts.world.machines.values() if t.group == rollout.group]
        ill = [
            truth
            for truth in present
            if self.facts.known_down(truth)
            and truth.id not in self.facts.in_hand
            and truth.id not in taken
            and self._is_present(truth.group, truth.id)
        ]
        percent = rollout.policy.max_unhealthy_percent
        if len(ill) > 1 and 100 * len(ill) > percent * len(present):
            names = [truth.name for truth in ill]
            raise RuleBroken("TOO_ILL", f"{rollout.id} goes on although {names} are ill")

    def _is_ill(self, machine: MachineId) -> bool:
        truth = self.facts.truth(machine)
        return truth is not None and (not truth.serves or self.facts.looks_ill(truth))

    def _is_present(self, group: GroupId, machine: MachineId) -> bool:
        row = self.facts.store.groups[group].machines.get(machine)
        return row is not None and row.lifecycle is Lifecycle.PRESENT

    def _spread(self, rollout: Rollout, tasks: list[Task]) -> None:
        """A version that fails on every machine must not get far."""
        if all(task.repair for task in tasks):
            return
        ended = [
            task
            for batch in self._batches_now(rollout)
            if not all(t.repair for t in batch)
            for task in batch
        ]
        batches = {task.batch for task in ended}
        if len(batches) < BATCHES_OF_A_BAD_VERSION:
            return
        failed = [
            t
            for t in ended
            if t.state in (TaskState.FAILED, TaskState.ROLLED_BACK) and self._is_bad_for(rollout, t)
        ]
        if len(failed) == len(ended) and len(failed) > 2:
            raise RuleBroken("SPREAD", f"{rollout.id}: {rollout.target} failed on all it touched")

    def _batches_now(self, rollout: Rollout) -> list[list[Task]]:
        """Who was taken together, as they are now: one that fell ill in its notice is a repair."""
        return [
            [self.facts.tasks[(t.rollout, t.machine)] for t in batch]
            for (key, _), batch in self._batches.items()
            if key == rollout.id
        ]

    def _is_bad_for(self, rollout: Rollout, task: Task) -> bool:
        name = self.facts.names.get(task.machine, "")
        return self.facts.world.behaviour(rollout.group, rollout.target, name) in BAD

    def _too_many_failed(self, rollout: Rollout, now: datetime) -> None:
        """The gate after a batch: machines that in truth the version broke, and that were well
        again without it, against all that run it."""
        taken = {t.machine: t for batch in self._batches_now(rollout) for t in batch}
        broken = [
            task
            for task in taken.values()
            if task.state is TaskState.ROLLED_BACK
            and task.healed
            and not task.repair
            and task.failure not in (Failure.NONE, Failure.PLATFORM)
            and not task.stand_in
            and self._is_bad_for(rollout, task)
        ]
        on_it = sum(
            truth.group == rollout.group and has(rollout, truth) == rollout.target
            for truth in self.facts.world.machines.values()
        )
        percent = rollout.policy.max_unhealthy_upgraded_percent
        if 100 * len(broken) > percent * (len(broken) + on_it):
            names = [self.facts.names[task.machine] for task in broken]
            raise RuleBroken("GATE_AFTER", f"{rollout.id} goes on after {names} at {now:%H:%M:%S}")

    def _newer(self, rollout: Rollout, tasks: list[Task]) -> None:
        rows = self.facts.store.groups[rollout.group].machines
        for task in tasks:
            machine = rows[task.machine]
            has_it = rollout.on_disk_of(machine) == rollout.target
            if not rollout.is_of_model:
                has_it = bool(machine.image) and not is_older(machine.image, rollout.target)
            if has_it:
                raise RuleBroken("OLDER", f"{task.machine} has {rollout.brings} already")
            if machine.protected or machine.opted_out:
                raise RuleBroken("PROTECTED", f"{rollout.id} takes {task.machine}")
