"""The gate: which proposed work may begin now, and why the rest may not.

Order (DESIGN §5 step 3): rollouts by priority (forced, operator, repair, security, other); then
per machine one work at a time; then claims on every budget that selects the machine, all or none;
then batches and the gate before each batch; then time (windows, blackouts, the clock); then notice.

Whatever is not admitted leaves with a hold that says why, until when, and what would lift it.
"""

from collections.abc import Callable, Sequence

from upkeep.core.alarm_gate import refusal_by_alarm
from upkeep.core.availability import batch_order, may_share_batch
from upkeep.core.draft import Draft, subject_of
from upkeep.core.hold import HoldReason
from upkeep.core.lifecycle_hooks import LEFT_OUT as LEFT_OUT_AT_HOOK
from upkeep.core.lifecycle_hooks import let_go, refusal_at_start
from upkeep.core.model import (
    Health,
    Lifecycle,
    Machine,
    Rollout,
    RolloutCode,
    RolloutState,
    System,
    Task,
)
from upkeep.core.pacing import places
from upkeep.core.policy import share_of
from upkeep.core.refusals import (
    DISRUPTIVE,
    SOON,
    Refusal,
    hold,
    moot,
    needs_approval,
    other_work,
    priority_of,
    refusal_by_time,
    refusal_for_all,
    refusal_for_one,
    refusal_now,
    still_starting,
    take_claims,
)
from upkeep.core.rolling import (
    open_batch,
    pause_until,
    still_on_target,
    stop_rollout,
    too_ill_to_go_on,
)
from upkeep.core.settle import send_back
from upkeep.core.surge import is_old_leaving, may_surge
from upkeep.core.systems.scheduled_events import announce, start_announced
from upkeep.core.task import IN_HAND, Signal, TaskState

# A machine of which this is true is left out of the rollout; the next one may take it.
LEFT_OUT = frozenset(
    {HoldReason.PROTECTED, HoldReason.OPTED_OUT, HoldReason.MACHINE_STOPPED, HoldReason.FLOOR}
)


def admit(draft: Draft) -> None:
    """Step 3 of a tick, over all open rollouts of the group."""
    for rollout in sorted(
        draft.open_rollouts(), key=lambda r: (priority_of(r), r.started_at, r.id)
    ):
        if rollout.state is RolloutState.ROLLING_BACK:
            _admit_rollbacks(draft, rollout)
        elif rollout.state is RolloutState.RUNNING:
            start_announced(draft, rollout)
            _admit_held(draft, rollout)
        else:
            start_announced(draft, rollout)


def _held(draft: Draft, rollout: Rollout) -> list[Task]:
    return [t for t in draft.tasks_of(rollout) if t.state is TaskState.HELD]


def _admit_held(draft: Draft, rollout: Rollout) -> None:
    held = _held(draft, rollout)
    if not held:
        return
    refusal = (
        refusal_now(draft, rollout)
        or refusal_at_start(draft, rollout)
        or refusal_by_time(draft, rollout)
        or _refusal_between_batches(draft, rollout)
        or refusal_by_alarm(draft, rollout)
    )
    if refusal is not None:
        for task in held:
            hold(draft, rollout, draft.machines[task.machine], refusal)
        return
    ready = _fit_machines(draft, rollout, held)
    if not ready:
        _give_up_on_unreachable(draft, rollout)
        return
    if rollout.system is System.OS_IMAGE:
        _admit_batch(draft, rollout, ready)
    else:
        _admit_each(draft, rollout, ready)


def _refusal_between_batches(draft: Draft, rollout: Rollout) -> Refusal | None:
    if rollout.system is not System.OS_IMAGE:
        return None
    unfinished = open_batch(draft, rollout)
    if unfinished:
        text = f"batch {rollout.batch} ends: {len(unfinished)} of its machines are in hand"
        return HoldReason.BATCH_OPEN, None, text
    if rollout.batch > 0 and rollout.batch_closed_at is None:
        # The last of it was withdrawn a moment ago, in this plan: first its gate, then its pause.
        draft.wake_at(draft.now + SOON)
        return HoldReason.BATCH_OPEN, None, f"batch {rollout.batch} has ended and is judged"
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
        if detail := moot(rollout, machine):
            draft.move(task, Signal.SKIP, detail=detail)
            draft.wake_at(draft.now + SOON)
            continue
        refusal = (
            refusal_for_one(draft, rollout, machine)
            or still_starting(rollout, machine, now=draft.now)
            or needs_approval(rollout, task)
        )
        if refusal is None:
            ready.append(machine)
        elif refusal[0] in LEFT_OUT:
            draft.move(task, Signal.SKIP, detail=refusal[2])
            draft.wake_at(draft.now + SOON)
            hold(draft, rollout, machine, refusal)
        else:
            hold(draft, rollout, machine, refusal)
    return ready


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
    draft.wake_at(draft.now + SOON)


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
            hold(draft, rollout, machine, refusal)
        return
    more, too_soon = places(draft, rollout)
    if too_soon is not None:
        for machine in ready:
            hold(draft, rollout, machine, too_soon)
        return
    limit = min(more, share_of(policy.max_batch_percent, size=rollout.size))
    if policy.batch_hook_wait:
        next_batch = _may_go_together(ordered, limit, rollout, lambda machine: True)
        ordered, waiting = let_go(draft, rollout, ordered, next_batch)
        for machine in ready:
            if machine.id in waiting:
                hold(draft, rollout, machine, waiting[machine.id])
            elif not draft.is_held(rollout, machine.id):
                hold(draft, rollout, machine, LEFT_OUT_AT_HOOK)
        ready = [machine for machine in ready if draft.is_held(rollout, machine.id)]
    surge = may_surge(draft, rollout, min(limit, len(ordered)))
    batch = _may_go_together(
        ordered,
        limit,
        rollout,
        lambda machine: surge or take_claims(draft, rollout, machine),
    )
    if batch:
        number = rollout.batch + 1
        rollout = draft.put_rollout(rollout, batch=number, batch_closed_at=None)
        names = ", ".join(m.name for m in batch[:8]) + (" …" if len(batch) > 8 else "")
        draft.tell(f"batch {number} of {rollout.id}: {names}")
        for machine in batch:
            announce(draft, rollout, machine, batch=number, surge=surge)
    _hold_rest(draft, rollout, ready, batch)


def _may_go_together(
    ordered: Sequence[Machine],
    limit: int,
    rollout: Rollout,
    may_go: Callable[[Machine], bool],
) -> list[Machine]:
    """The first of them that may share a batch, so many at most."""
    batch: list[Machine] = []
    for machine in ordered:
        if len(batch) == limit:
            break
        if batch and not may_share_batch(batch[0], machine, cross_zone=rollout.policy.cross_zone):
            continue
        if may_go(machine):
            batch.append(machine)
    return batch


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
            hold(draft, rollout, machine, refusal)


def _stop_for_illness(draft: Draft, rollout: Rollout, ill: list[Machine]) -> None:
    names = ", ".join(m.name for m in ill[:5]) + (" …" if len(ill) > 5 else "")
    code = RolloutCode.UNHEALTHY_DURING if rollout.batch else RolloutCode.UNHEALTHY_BEFORE
    evidence = (
        f"{len(ill)} of {len(draft.present())} machines are unhealthy by themselves ({names}); "
        f"the limit is {rollout.policy.max_unhealthy_percent} %"
    )
    stop_rollout(draft, rollout, code, evidence)
    draft.wake_at(draft.now + SOON)


def _admit_each(draft: Draft, rollout: Rollout, ready: list[Machine]) -> None:
    """Operators' calls and scaling know no batches: whoever gets claims goes."""
    number = max(1, rollout.batch)
    begun = 0
    for machine in ready:
        needs_claim = rollout.verb in DISRUPTIVE and machine.lifecycle is Lifecycle.PRESENT
        if not needs_claim or take_claims(draft, rollout, machine):
            announce(draft, rollout, machine, batch=number)
            begun += 1
    if begun:
        draft.put_rollout(draft.rollouts[rollout.id], batch=number, batch_closed_at=None)


def _admit_rollbacks(draft: Draft, rollout: Rollout) -> None:
    """A guilty version leaves every machine: healthy ones too, with claims, a batch at a time."""
    refusal = refusal_for_all(draft, rollout)
    limit = share_of(rollout.policy.max_batch_percent, size=rollout.size)
    moving = sum(1 for t in draft.tasks_of(rollout) if t.state in IN_HAND)
    for task in still_on_target(draft, rollout):
        machine = draft.machines[subject_of(task)]
        if refusal is not None:
            hold(draft, rollout, machine, refusal)
        elif (other := draft.in_hand.get(machine.id)) is not None:
            hold(draft, rollout, machine, other_work(other))
        elif moving >= limit:
            text = "machines before it are back and healthy"
            hold(draft, rollout, machine, (HoldReason.HALTED, None, text))
        elif take_claims(draft, rollout, machine):
            send_back(draft, rollout, task, machine)
            moving += 1
