"""Step 1 of a tick: outcomes and sightings move tasks.

Reads as the life of one task after it was admitted.  A task is *verified* when the platform shows
the wanted version on a machine that has started anew since the action was sent, and the machine
is then seen healthy.  Nothing is ever concluded from the action's success alone.
"""

from dataclasses import replace
from datetime import timedelta
from typing import assert_never

from upkeep.core.alarm_gate import alarm_against
from upkeep.core.blame import ILL_AFTER
from upkeep.core.budget import is_down
from upkeep.core.draft import MAKES_A_DISK, Draft, action_key, subject_of
from upkeep.core.model import (
    Failure,
    GroupKind,
    Health,
    Lifecycle,
    Machine,
    Outcome,
    Rollout,
    System,
    Task,
    Verb,
)
from upkeep.core.new_disk import model_for
from upkeep.core.refusals import refusal_by_owner
from upkeep.core.surge import give_up_stand_in, take_over, withdraw_stand_in
from upkeep.core.task import TERMINAL, Signal, TaskState

# Kinds of driver error that condemn the image itself rather than the hypervisor.
IMAGE_ERRORS = frozenset({"bad_image"})
# No budget counts a machine that has left, whether or not it could be removed yet.
_LEFT = frozenset({Lifecycle.DELETED, Lifecycle.DELETING, Lifecycle.STOPPED})
ROLLBACK_VERBS = (Verb.SWITCH_BACK, Verb.REPLACE_OS_DISK, Verb.REIMAGE)


def settle_tasks(draft: Draft) -> None:
    """Move every task of every open rollout as far as what has been seen allows."""
    for rollout in draft.open_rollouts():
        for task in draft.tasks_of(rollout):
            _settle_task(draft, rollout, task)
    _cancel_deleted(draft)
    _release_claims(draft)


def _cancel_deleted(draft: Draft) -> None:
    """Nothing is left to do for machines that are gone, also for those deleted just now."""
    for rollout in draft.open_rollouts():
        for task in draft.tasks_of(rollout):
            if task.state in TERMINAL:
                continue
            machine = draft.machines.get(subject_of(task))
            if machine is None or machine.lifecycle is Lifecycle.DELETED:
                draft.move(task, Signal.CANCEL, detail="the machine was deleted")


def _settle_task(draft: Draft, rollout: Rollout, task: Task) -> None:
    if task.state in TERMINAL:
        return
    machine = draft.machines.get(subject_of(task))
    if machine is None:
        return
    match task.state:
        case TaskState.RUNNING:
            _settle_running(draft, rollout, task, machine)
        case TaskState.VERIFYING:
            _settle_verifying(draft, rollout, task, machine)
        case TaskState.BAKING:
            _settle_baking(draft, rollout, task, machine)
        case TaskState.ROLLING_BACK:
            _settle_rolling_back(draft, rollout, task, machine)
        case (
            TaskState.HELD
            | TaskState.ANNOUNCED
            | TaskState.DRAINING
            | TaskState.DONE
            | TaskState.FAILED
            | TaskState.ROLLED_BACK
            | TaskState.SKIPPED
            | TaskState.CANCELLED
        ):
            pass  # The gate moves the first three; the others have ended.
        case _:
            assert_never(task.state)


def _settle_running(draft: Draft, rollout: Rollout, task: Task, machine: Machine) -> None:
    verb = Verb.CREATE if task.stand_in else rollout.verb
    outcome = draft.snapshot.outcomes.get(action_key(task, verb))
    if outcome is None:
        return
    if not outcome.succeeded:
        if _waits_for_domain(draft, task, machine):
            return  # It cannot be sent back now, and it may have failed for that reason.
        _fail_from_outcome(draft, rollout, task, machine, outcome)
        return
    task = draft.move(task, Signal.ACTED, clock_from=outcome.at, detail="")
    if rollout.verb is Verb.STOP:
        machine = draft.put_machine(machine, lifecycle=Lifecycle.STOPPED)
        _finish(draft, task)
    elif rollout.verb is Verb.DELETE:
        machine = draft.put_machine(machine, lifecycle=Lifecycle.DELETED)
        _finish(draft, task)
    else:
        # A stand-in joins the group when it takes over: until then nothing counts on it.
        if machine.lifecycle in (Lifecycle.CREATING, Lifecycle.STOPPED) and not task.stand_in:
            machine = draft.put_machine(machine, lifecycle=Lifecycle.PRESENT)
        _settle_verifying(draft, rollout, task, machine)


def _finish(draft: Draft, task: Task) -> None:
    """For work after which there is no machine to watch: straight to DONE."""
    draft.move(draft.move(task, Signal.SEEN_HEALTHY), Signal.BAKED)


def _fail_from_outcome(
    draft: Draft, rollout: Rollout, task: Task, machine: Machine, outcome: Outcome
) -> None:
    failure = Failure.IMAGE_UNUSABLE if outcome.kind in IMAGE_ERRORS else Failure.PLATFORM
    if rollout.verb is Verb.CREATE:
        machine = draft.put_machine(machine, lifecycle=Lifecycle.DELETING)
    elif rollout.verb is Verb.DELETE and draft.group.kind is GroupKind.SCALE_SET:
        # Somebody decided that this machine goes: scaling tries again, and takes no other for it.
        machine = draft.put_machine(machine, lifecycle=Lifecycle.DELETING)
    fail(draft, rollout, task, machine, failure, outcome.detail)


def _settle_verifying(draft: Draft, rollout: Rollout, task: Task, machine: Machine) -> None:
    restarted = machine.boots > task.boots_before
    at_target = not rollout.target or rollout.on_disk_of(machine) == rollout.target
    if machine.health is Health.HEALTHY and restarted and at_target:
        task = draft.move(task, Signal.SEEN_HEALTHY)
        draft.put_machine(machine, worked_at=draft.now)
        _settle_baking(draft, rollout, task, draft.machines[machine.id])
        return
    if _waits_for_domain(draft, task, machine):
        return
    deadline = draft.seen_from(task.clock_from) + rollout.policy.health_wait
    if draft.now < deadline:
        draft.wake_at(deadline)
        return
    if machine.health is Health.HEALTHY and not at_target:
        there = rollout.on_disk_of(machine) or "something unknown"
        text = f"it came up with {there}, not with {rollout.brings}"
        fail(draft, rollout, task, machine, Failure.WRONG_VERSION, text)
        return
    text = f"{machine.health} {rollout.policy.health_wait} after it was started"
    fail(draft, rollout, task, machine, Failure.NOT_HEALTHY_IN_TIME, text)


def _settle_baking(draft: Draft, rollout: Rollout, task: Task, machine: Machine) -> None:
    """It was seen healthy, and must stay so for the bake time.

    A blip is no failure; being ill for ILL_AFTER is.  After a blip the bake begins anew; but
    after the deadline, which leaves time for one, the next blip is a failure.
    """
    if machine.health is not Health.HEALTHY and _waits_for_domain(draft, task, machine):
        return
    bake_time = rollout.policy.bake_time if rollout.target else timedelta(0)
    begun = draft.seen_from(max(task.state_since, task.clock_from))
    deadline = begun + 2 * bake_time + rollout.policy.health_wait
    match machine.health:
        case Health.HEALTHY:
            due = max(task.state_since, machine.health_since) + bake_time
            looked_from = draft.seen_from(task.state_since)
            if looked_from > task.state_since:
                # It baked on while nobody looked; what it is now is seen within its health wait.
                due = max(due, looked_from + min(bake_time, rollout.policy.health_wait))
        case Health.UNHEALTHY | Health.UNKNOWN:
            due = min(machine.health_since + ILL_AFTER, deadline)
        case Health.INITIALIZING:
            due = deadline
        case _:
            assert_never(machine.health)
    if draft.now < due:
        draft.wake_at(due)
    elif machine.health is Health.HEALTHY:
        if task.stand_in and (detail := _why_not_take_over(draft, rollout, task)):
            withdraw_stand_in(draft, task, detail)
            return
        draft.move(task, Signal.BAKED)
        if task.stand_in:
            take_over(draft, task)
    else:
        text = f"{machine.health} {draft.now - task.state_since} after it was first healthy"
        fail(draft, rollout, task, machine, Failure.UNHEALTHY_IN_BAKE, text)


def _why_not_take_over(draft: Draft, rollout: Rollout, task: Task) -> str:
    """Why a stand-in that is well goes all the same; empty if it joins the group."""
    if alarm_against(draft, rollout) is not None:
        return "an alarm fired"
    old = draft.machines.get(task.machine)
    spared = refusal_by_owner(old) if old is not None else None
    return "" if spared is None else f"the machine it stands in for is {spared[0]}"


def _settle_rolling_back(draft: Draft, rollout: Rollout, task: Task, machine: Machine) -> None:
    # Whichever verb `send_back` chose then; the kept disk has changed places since.
    keys = [action_key(task, verb) for verb in ROLLBACK_VERBS]
    found = (draft.snapshot.outcomes.get(key) for key in keys)
    outcome = next((outcome for outcome in found if outcome is not None), None)
    if outcome is None:
        return
    if not outcome.succeeded:
        draft.move(task, Signal.FAIL, detail=f"the rollback failed: {outcome.detail}")
        draft.tell(f"{machine.name} could not be rolled back: {outcome.detail}")
        return
    back = rollout.on_disk_of(machine) == task.previous and machine.boots > task.boots_before
    if back and machine.health is Health.HEALTHY:
        draft.move(task, Signal.BACK, healed=True)
        draft.put_machine(machine, worked_at=draft.now)
        draft.tell(f"{machine.name} is back on {rollout.kind} {task.previous} and healthy")
        return
    if _waits_for_domain(draft, task, machine):
        return
    waits_from = draft.seen_from(max(outcome.at, task.clock_from))
    deadline = waits_from + rollout.policy.health_wait
    if draft.now < deadline:
        draft.wake_at(deadline)
        return
    draft.move(task, Signal.BACK, healed=False)
    draft.tell(f"{machine.name} is back on {rollout.kind} {task.previous}: {machine.health}")


def rollback_verb(rollout: Rollout, machine: Machine, task: Task) -> Verb:
    """A switch to the kept disk where it holds what was before, else a fresh disk of that."""
    if rollout.is_of_model:
        is_kept = machine.kept_model == task.previous and machine.kept == machine.image
        return Verb.SWITCH_BACK if is_kept else Verb.REIMAGE
    return Verb.SWITCH_BACK if machine.kept == task.previous else Verb.REPLACE_OS_DISK


def _waits_for_domain(draft: Draft, task: Task, machine: Machine) -> bool:
    """True while the machine's domain is lost: nothing is blamed, and the wait starts anew."""
    lost = draft.lost_domain_of(machine)
    if lost is None:
        return False
    restart_from = lost.until or draft.now
    if restart_from > task.clock_from:
        draft.put_task(replace(task, clock_from=restart_from))
    return True


def fail(
    draft: Draft, rollout: Rollout, task: Task, machine: Machine, failure: Failure, detail: str
) -> Task:
    """The machine is not well on the target: leave it FAILED, or send it back.

    A machine that runs its previous version and is well has nothing to go back to.
    """
    task = draft.move(task, Signal.FAIL, failure=failure, detail=detail)
    draft.put_machine(machine, worked_at=draft.now)
    draft.tell(f"{machine.name} failed: {detail}")
    if task.stand_in and task.state is TaskState.FAILED:
        return give_up_stand_in(draft, task)
    if rollout.on_disk_of(machine) == task.previous and machine.health is Health.HEALTHY:
        return task
    if rollout.system is System.OS_IMAGE and rollout.policy.auto_rollback and task.previous:
        task = send_back(draft, rollout, task, machine)
    return task


def send_back(draft: Draft, rollout: Rollout, task: Task, machine: Machine) -> Task:
    """Start the machine's rollback.  Whether it may be taken down is the caller's question."""
    verb = rollback_verb(rollout, machine, task)
    if machine.id not in draft.claims_of and is_down(machine):
        # It gave its claim back when it was well, or was ill before.  It is down, so it takes
        # nobody's place; the claim keeps it counted should it look well before the action begins.
        claims = draft.ledger.take(machine.id, task.rollout, overdraft=False, now=draft.now)
        draft.add_claims(claims)
    task = draft.move(
        task,
        Signal.ROLL_BACK,
        attempt=task.attempt + 1,
        boots_before=machine.boots,
        clock_from=draft.now,
    )
    version, model = task.previous, task.model_before
    if rollout.is_of_model:
        version, model = machine.image, task.previous
    elif not model and verb in MAKES_A_DISK:
        model = model_for(draft, machine)
    draft.act(task, verb, version=version, model=model)
    draft.tell(f"{machine.name} goes back to {rollout.kind} {task.previous}")
    return task


def _release_claims(draft: Draft) -> None:
    """A claim ends when its machine is seen healthy again, on whatever version, or has left.

    While a task is in hand its claim stays, healthy or not: the action may start any moment.
    """
    for machine_id in sorted(draft.claims_of):
        machine = draft.machines.get(machine_id)
        gone = machine is None or machine.lifecycle in _LEFT
        task = draft.in_hand.get(machine_id)
        if not gone and task is not None and task.state is not TaskState.BAKING:
            continue
        if gone or (machine is not None and machine.health is Health.HEALTHY):
            draft.release(machine_id)
