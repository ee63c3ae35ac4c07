"""The gate: which proposed work may begin now, and why the rest may not.

Order (DESIGN §5 step 3): rollouts by priority (forced, operator, repair, security, other); then
per machine one work at a time; then claims on every budget that selects the machine, all or none;
then batches and the gate before each batch; then time (windows, blackouts, the clock); then notice.

Whatever is not admitted leaves with a hold that says why, until when, and what would lift it.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from upkeep.core.availability import batch_order, may_share_batch
from upkeep.core.draft import Draft, action_key, subject_of
from upkeep.core.model import (
    Health,
    Hold,
    HoldReason,
    Lifecycle,
    Machine,
    Priority,
    Rollout,
    RolloutCode,
    RolloutState,
    System,
    Task,
    Verb,
)
from upkeep.core.rolling import (
    batch_size,
    drop,
    open_batch,
    pause_until,
    still_on_target,
    stop_rollout,
    time_needed,
    too_ill_to_go_on,
)
from upkeep.core.settle import send_back
from upkeep.core.surge import begin_stand_in, is_old_leaving, may_surge
from upkeep.core.task import IN_HAND, Signal, TaskState
from upkeep.core.window import time_refusal

# These take a serving machine down; the others bring one up.
DISRUPTIVE = frozenset({Verb.STOP, Verb.RESTART, Verb.REPLACE_OS_DISK, Verb.DELETE})

# A machine of which this is true is left out of the rollout; the next one may take it.
LEFT_OUT = frozenset({HoldReason.PROTECTED, HoldReason.OPTED_OUT, HoldReason.MACHINE_STOPPED})

# What ended in the last step of a plan (a rollout, a task) is settled in the next one.
_SOON = timedelta(milliseconds=1)

_Refusal = tuple[HoldReason, datetime | None, str]


def admit(draft: Draft) -> None:
    """Step 3 of a tick, over all open rollouts of the group."""
    for rollout in sorted(draft.open_rollouts(), key=lambda r: (_priority(r), r.started_at, r.id)):
        if rollout.state is RolloutState.ROLLING_BACK:
            _admit_rollbacks(draft, rollout)
        elif rollout.state is RolloutState.RUNNING:
            _start_announced(draft, rollout)
            _admit_held(draft, rollout)
        else:
            _start_announced(draft, rollout)


def _priority(rollout: Rollout) -> Priority:
    if rollout.system in (System.OPERATOR, System.SCALE):
        return Priority.OPERATOR
    if rollout.state is RolloutState.ROLLING_BACK:
        return Priority.REPAIR
    return Priority.OTHER


def _refusal_for_all(draft: Draft, rollout: Rollout) -> _Refusal | None:
    """What stops every start of the rollout at this moment."""
    refusal = _refusal_now(draft, rollout)
    if refusal is not None or rollout.verb not in DISRUPTIVE or rollout.force:
        return refusal
    windows = draft.snapshot.windows if rollout.system is System.OS_IMAGE else None
    return time_refusal(
        windows, draft.snapshot.blackouts, reserve=time_needed(rollout.policy), now=draft.now
    )


def _refusal_now(draft: Draft, rollout: Rollout) -> _Refusal | None:
    """What stops also a machine that has been drained in good time."""
    if draft.group.paused:
        return HoldReason.PAUSED, None, "resume the group"
    if rollout.paused:
        return HoldReason.PAUSED, None, "resume the rollout"
    if rollout.verb not in DISRUPTIVE:
        return None
    if draft.snapshot.clock_stepped:
        text = "the clock and the server's own time agree again, or an operator accepts the step"
        return HoldReason.CLOCK_STEPPED, None, text
    if not rollout.force and rollout.system is not System.OPERATOR and draft.lost:
        lost = draft.lost[0]
        text = f"{lost.kind} {lost.name} is lost; 10 minutes after its machines are back"
        return HoldReason.DOMAIN_LOST, lost.until, text
    return None


def _hold(
    draft: Draft, rollout: Rollout, machine: Machine, refusal: _Refusal, priority: Priority
) -> None:
    reason, until, text = refusal
    draft.wake_at(until)
    draft.holds.append(
        Hold(
            machine=machine.id,
            system=rollout.system,
            reason=reason,
            until=until,
            lifted_by=text,
            priority=priority,
        )
    )


def _held(draft: Draft, rollout: Rollout) -> list[Task]:
    return [t for t in draft.tasks_of(rollout) if t.state is TaskState.HELD]


def _admit_held(draft: Draft, rollout: Rollout) -> None:
    held = _held(draft, rollout)
    if not held:
        return
    priority = _priority(rollout)
    refusal = _refusal_for_all(draft, rollout) or _refusal_between_batches(draft, rollout)
    if refusal is not None:
        for task in held:
            _hold(draft, rollout, draft.machines[task.machine], refusal, priority)
        return
    ready = _fit_machines(draft, rollout, held)
    if not ready:
        _give_up_on_unreachable(draft, rollout)
        return
    if rollout.system is System.OS_IMAGE:
        _admit_batch(draft, rollout, ready)
    else:
        _admit_each(draft, rollout, ready)


def _refusal_between_batches(draft: Draft, rollout: Rollout) -> _Refusal | None:
    if rollout.system is not System.OS_IMAGE:
        return None
    unfinished = open_batch(draft, rollout)
    if unfinished:
        text = f"batch {rollout.batch} ends: {len(unfinished)} of its machines are in hand"
        return HoldReason.BATCH_OPEN, None, text
    until = pause_until(rollout, now=draft.now)
    if is_old_leaving(draft, rollout):
        text = "the machines that the last batch replaced are removed"
        return HoldReason.BATCH_OPEN, None, text
    if until is not None:
        return HoldReason.PAUSE_BETWEEN_BATCHES, until, "the pause between batches ends"
    return None


def _fit_machines(draft: Draft, rollout: Rollout, held: Sequence[Task]) -> list[Machine]:
    """The held machines that could be taken now; the others get their own hold, or are skipped."""
    ready = []
    for task in held:
        machine = draft.machines[task.machine]
        if machine.image == rollout.target and rollout.verb is Verb.REPLACE_OS_DISK:
            draft.move(task, Signal.SKIP, detail="it runs the version already")
            continue
        refusal = _refusal_for_one(draft, rollout, machine)
        if refusal is None:
            ready.append(machine)
        elif refusal[0] in LEFT_OUT:
            draft.move(task, Signal.SKIP, detail=refusal[2])
            draft.wake_at(draft.now + _SOON)
            _hold(draft, rollout, machine, refusal, _priority(rollout))
        else:
            _hold(draft, rollout, machine, refusal, _priority(rollout))
    return ready


def _refusal_for_one(draft: Draft, rollout: Rollout, machine: Machine) -> _Refusal | None:
    other = draft.in_hand.get(machine.id)
    if other is not None and other.rollout != rollout.id:
        return HoldReason.OTHER_WORK, None, f"{other.rollout} is done with this machine"
    if rollout.system is not System.OS_IMAGE:
        return None
    if machine.lifecycle is not Lifecycle.PRESENT:
        return HoldReason.MACHINE_STOPPED, None, "start the machine"
    if machine.protected:
        return HoldReason.PROTECTED, None, "remove its protection"
    if machine.opted_out:
        return HoldReason.OPTED_OUT, None, "opt the machine in again"
    if machine.health is Health.UNKNOWN:
        return HoldReason.UNREACHABLE, None, "the agent or the prober reaches the machine again"
    return None


def _give_up_on_unreachable(draft: Draft, rollout: Rollout) -> None:
    """With nobody else left, unreachable machines do not keep a rollout open for ever.

    They are skipped; when one is reached again it is outdated, and a new rollout takes it.
    """
    held = _held(draft, rollout)
    if rollout.system is not System.OS_IMAGE or open_batch(draft, rollout):
        return
    for task in held:
        if draft.machines[task.machine].health is not Health.UNKNOWN:
            return
    for task in held:
        draft.move(task, Signal.SKIP, detail="nobody could reach the machine")
    draft.wake_at(draft.now + _SOON)


def _admit_batch(draft: Draft, rollout: Rollout, ready: list[Machine]) -> None:
    """Form the next batch, in availability order, from machines that get their claims."""
    policy = rollout.policy
    ordered = batch_order(ready, unhealthy_first=policy.prioritize_unhealthy)
    if ordered[0].health is not Health.HEALTHY:
        ordered = [m for m in ordered if m.health is not Health.HEALTHY]
    elif ill := too_ill_to_go_on(draft, rollout):
        _stop_for_illness(draft, rollout, ill)
        for machine in ready:
            refusal = HoldReason.HALTED, None, "the rollout was halted; see the next attempt"
            _hold(draft, rollout, machine, refusal, _priority(rollout))
        return
    limit = batch_size(policy.max_batch_percent, size=rollout.size)
    surge = may_surge(draft, rollout, min(limit, len(ordered)))
    batch: list[Machine] = []
    for machine in ordered:
        if len(batch) == limit:
            break
        if batch and not may_share_batch(batch[0], machine, cross_zone=policy.cross_zone):
            continue
        takes_nobody = surge or machine.health is not Health.HEALTHY
        if takes_nobody or _take_claims(draft, rollout, machine):
            batch.append(machine)
    if batch:
        number = rollout.batch + 1
        rollout = draft.put_rollout(rollout, batch=number, batch_closed_at=None)
        names = ", ".join(m.name for m in batch[:8]) + (" …" if len(batch) > 8 else "")
        draft.tell(f"batch {number} of {rollout.id}: {names}")
        for machine in batch:
            _announce(draft, rollout, machine, batch=number, surge=surge)
    _hold_rest(draft, rollout, ready, batch)


def _hold_rest(draft: Draft, rollout: Rollout, ready: list[Machine], batch: list[Machine]) -> None:
    """Everybody who was ready and is not in the batch waits for it, or for a budget."""
    taken = {m.id for m in batch}
    held_by_budget = {h.machine for h in draft.holds if h.system is rollout.system}
    if batch:
        text = f"batch {rollout.batch} ends: {len(batch)} of its machines are in hand"
    else:
        text = "machines before it in the order get their places in the budgets"
    for machine in ready:
        if machine.id not in taken and machine.id not in held_by_budget:
            refusal = HoldReason.BATCH_OPEN, None, text
            _hold(draft, rollout, machine, refusal, _priority(rollout))


def _stop_for_illness(draft: Draft, rollout: Rollout, ill: list[Machine]) -> None:
    names = ", ".join(m.name for m in ill[:5]) + (" …" if len(ill) > 5 else "")
    code = RolloutCode.UNHEALTHY_DURING if rollout.batch else RolloutCode.UNHEALTHY_BEFORE
    evidence = (
        f"{len(ill)} of {len(draft.present())} machines are unhealthy by themselves ({names}); "
        f"the limit is {rollout.policy.max_unhealthy_percent} %"
    )
    stop_rollout(draft, rollout, code, evidence)
    draft.wake_at(draft.now + _SOON)


def _admit_each(draft: Draft, rollout: Rollout, ready: list[Machine]) -> None:
    """Operators' calls and scaling know no batches: whoever gets claims goes."""
    number = max(1, rollout.batch)
    begun = 0
    for machine in ready:
        needs_claim = rollout.verb in DISRUPTIVE and machine.lifecycle is Lifecycle.PRESENT
        if not needs_claim or _take_claims(draft, rollout, machine):
            _announce(draft, rollout, machine, batch=number)
            begun += 1
    if begun:
        draft.put_rollout(draft.rollouts[rollout.id], batch=number, batch_closed_at=None)


def _take_claims(draft: Draft, rollout: Rollout, machine: Machine) -> bool:
    """Claims on all the machine's budgets, or a hold that names the one that is spent."""
    if machine.id in draft.claims_of:
        return True  # It still holds those of the work before, and has not been seen healthy.
    hold = draft.ledger.refusal(
        machine.id,
        system=rollout.system,
        priority=_priority(rollout),
        waiting_since=rollout.started_at,
        now=draft.now,
    )
    if hold is not None and not rollout.force:
        draft.wake_at(hold.until)
        draft.holds.append(hold)
        return False
    overdraft = hold is not None
    draft.add_claims(draft.ledger.take(machine.id, rollout.id, overdraft=overdraft, now=draft.now))
    if overdraft:
        draft.tell(f"{machine.name} is taken over budget: the call was forced")
    return True


def _announce(
    draft: Draft, rollout: Rollout, machine: Machine, *, batch: int, surge: bool = False
) -> None:
    """The gate's last step: notice, then the start."""
    task = draft.tasks[rollout.id][machine.id]
    repair = rollout.system is System.OS_IMAGE and machine.health is not Health.HEALTHY
    not_before = draft.now + rollout.policy.notice
    task = draft.move(
        task,
        Signal.ANNOUNCE,
        batch=batch,
        repair=repair and not surge,
        surge=surge,
        not_before=not_before,
    )
    if not_before <= draft.now or rollout.verb not in DISRUPTIVE:
        _drain_or_start(draft, rollout, task)
    else:
        refusal = HoldReason.NOTICE, not_before, "the notice runs out"
        _hold(draft, rollout, machine, refusal, _priority(rollout))


def _start_announced(draft: Draft, rollout: Rollout) -> None:
    """Announced work starts when notice and drain are over, unless it has become wrong."""
    for task in draft.tasks_of(rollout):
        if task.state not in (TaskState.ANNOUNCED, TaskState.DRAINING):
            continue
        machine = draft.machines[task.machine]
        if (refusal := _refusal_for_one(draft, rollout, machine)) is not None:
            drop(draft, task, f"announced, then: {refusal[0]}")
            draft.wake_at(draft.now + _SOON)
        elif task.state is TaskState.DRAINING:
            refusal = _start_drained(draft, rollout, task)
        else:
            refusal = _start_noticed(draft, rollout, task, machine)
        if refusal is not None:
            _hold(draft, rollout, machine, refusal, _priority(rollout))


def _start_noticed(draft: Draft, rollout: Rollout, task: Task, machine: Machine) -> _Refusal | None:
    assert task.not_before is not None
    if task.not_before > draft.now:
        return HoldReason.NOTICE, task.not_before, "the notice runs out"
    if (refusal := _refusal_for_all(draft, rollout)) is not None:
        return refusal
    if not task.repair or machine.health is not Health.HEALTHY:
        _drain_or_start(draft, rollout, task)
    elif _take_claims(draft, rollout, machine):
        # It was ill when it was announced and is well now: like any other from here on.
        _drain_or_start(draft, rollout, draft.put_task(replace(task, repair=False)))
    return None


def _drain_or_start(draft: Draft, rollout: Rollout, task: Task) -> None:
    drains = rollout.verb in DISRUPTIVE and not task.repair and not task.surge
    if rollout.policy.drain_timeout and drains:
        until = draft.now + rollout.policy.drain_timeout
        task = draft.move(task, Signal.DRAIN, clock_from=until)
        draft.act(task, Verb.DRAIN)
        draft.wake_at(until)
    else:
        _start(draft, rollout, task)


def _start_drained(draft: Draft, rollout: Rollout, task: Task) -> _Refusal | None:
    """Draining ends when the machine says so, or when its time is up."""
    drained = action_key(task, Verb.DRAIN) in draft.snapshot.outcomes
    if not drained and draft.now < task.clock_from:
        draft.wake_at(task.clock_from)
        return None
    refusal = _refusal_now(draft, rollout)
    if refusal is None:
        _start(draft, rollout, task)
    return refusal


def _start(draft: Draft, rollout: Rollout, task: Task) -> None:
    if task.surge:
        begin_stand_in(draft, rollout, task)
        return
    machine = draft.machines[task.machine]
    task = draft.move(
        task,
        Signal.START,
        attempt=task.attempt + 1,
        boots_before=machine.boots,
        previous=machine.image,
        clock_from=draft.now,
    )
    draft.act(task, rollout.verb, version=rollout.target)


def _admit_rollbacks(draft: Draft, rollout: Rollout) -> None:
    """A guilty version leaves every machine: healthy ones too, with claims, a batch at a time."""
    refusal = _refusal_for_all(draft, rollout)
    limit = batch_size(rollout.policy.max_batch_percent, size=rollout.size)
    moving = sum(1 for t in draft.tasks_of(rollout) if t.state in IN_HAND)
    for task in still_on_target(draft, rollout):
        machine = draft.machines[subject_of(task)]
        if refusal is not None:
            _hold(draft, rollout, machine, refusal, Priority.REPAIR)
        elif (other := draft.in_hand.get(machine.id)) is not None:
            text = f"{other.rollout} is done with this machine"
            held = HoldReason.OTHER_WORK, None, text
            _hold(draft, rollout, machine, held, Priority.REPAIR)
        elif moving >= limit:
            text = "machines before it are back and healthy"
            _hold(draft, rollout, machine, (HoldReason.HALTED, None, text), Priority.REPAIR)
        elif machine.health is not Health.HEALTHY or _take_claims(draft, rollout, machine):
            send_back(draft, task, machine)
            moving += 1
