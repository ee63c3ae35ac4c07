"""Lifecycle hooks: somebody is asked before a rollout begins, and before each of its batches.

A question is a `HookEvent`.  It is put when the rollout, or its next batch, could begin; it is
closed when everybody in it has been answered for, or when its time is over: silence means what the
policy says.  Whom the answer lets go goes through the gate like anybody else, and the answer stays
good until it has begun.  Who is rejected is left out of this rollout; a rejected beginning ends it.

Rollouts that a person starts ask nobody.  Source: sheet os-image §2.6 #4, §13.5 [DEC];
docs/adr/0016.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

from upkeep.core.draft import Draft
from upkeep.core.hold import HoldReason
from upkeep.core.hook_event import THE_GROUP, Answer, HookEvent, HookKind
from upkeep.core.model import (
    Machine,
    MachineId,
    Rollout,
    RolloutCode,
    System,
)
from upkeep.core.refusals import SOON, Refusal, otherwise
from upkeep.core.rolling import stop_rollout
from upkeep.core.task import Signal

# Of a task; the next rollout asks about its machine again.
REJECTED = "rejected at the lifecycle hook"
LEFT_OUT: Refusal = (
    HoldReason.HOOK,
    None,
    "it was rejected at the lifecycle hook: the next rollout asks again, or start one by hand",
)


def refusal_at_start(draft: Draft, rollout: Rollout) -> Refusal | None:
    """What keeps the whole rollout from beginning: nobody has answered yet, or somebody said no."""
    if rollout.system is not System.OS_IMAGE or not rollout.policy.start_hook_wait:
        return None
    event = draft.newest_hook_event(rollout, HookKind.START)
    if event is None:
        event = _ask(draft, rollout, HookKind.START, [THE_GROUP], rollout.policy.start_hook_wait)
    event = _closed_if_over(draft, event)
    if not event.closed:
        return _waits(event, f"the beginning of {rollout.id}")
    if event.answers[THE_GROUP] is Answer.APPROVED:
        return None
    text = f"rollout {rollout.id} was rejected at its lifecycle hook"
    stop_rollout(draft, rollout, RolloutCode.OPERATOR_CANCELLED, text)
    draft.wake_at(draft.now + SOON)
    return HoldReason.ROLLOUT_CANCELLED, None, f"{text}: restart it, or {otherwise(rollout)}"


def let_go(
    draft: Draft, rollout: Rollout, ready: Sequence[Machine], next_batch: Sequence[Machine]
) -> tuple[list[Machine], dict[MachineId, Refusal]]:
    """Who of the ready may go, in their order, and what those wait for who are asked about.

    Args:
        next_batch: who is asked about if nobody of the ready has been let go.
    """
    event = draft.newest_hook_event(rollout, HookKind.BATCH)
    if event is not None:
        event = _closed_if_over(draft, event)
    if event is None or (event.closed and not _of(ready, event)):
        asked = [m.id for m in next_batch if draft.is_held(rollout, m.id)]
        if not asked:
            return [], {}
        event = _ask(draft, rollout, HookKind.BATCH, asked, rollout.policy.batch_hook_wait)
    if not event.closed:
        refusal = _waits(event, f"{len(event.answers)} machines of {rollout.id}")
        return [], dict.fromkeys(event.answers, refusal)
    return _of(ready, event), {}


def _of(ready: Sequence[Machine], event: HookEvent) -> list[Machine]:
    """Whom the answer lets go."""
    return [m for m in ready if event.answers.get(m.id) is Answer.APPROVED]


def _ask(
    draft: Draft,
    rollout: Rollout,
    kind: HookKind,
    targets: Iterable[MachineId],
    wait: timedelta,
) -> HookEvent:
    policy = rollout.policy
    is_start = kind is HookKind.START
    event = HookEvent(
        rollout=rollout.id,
        serial=draft.next_hook_serial(rollout),
        kind=kind,
        created_at=draft.now,
        wait_until=draft.now + wait,
        approves=policy.start_hook_approves if is_start else policy.batch_hook_approves,
        answers=dict.fromkeys(targets, Answer.WAITING),
    )
    what = "its beginning" if is_start else f"{len(event.answers)} machines"
    draft.tell(f"{rollout.id} asks at its lifecycle hook about {what}")
    return draft.put_hook_event(event)


def _closed_if_over(draft: Draft, event: HookEvent) -> HookEvent:
    """Everybody has been answered for, or silence counts as the policy says."""
    if event.closed:
        return event
    is_answered = Answer.WAITING not in event.answers.values()
    if not is_answered and draft.now < event.wait_until:
        draft.wake_at(event.wait_until)
        return event
    silence = Answer.APPROVED if event.approves else Answer.REJECTED
    answers = {
        machine: silence if answer is Answer.WAITING else answer
        for machine, answer in event.answers.items()
    }
    if not is_answered:
        draft.tell(f"{event.rollout}: nobody answered at its lifecycle hook in time: {silence}")
    event = draft.put_hook_event(replace(event, answers=answers, closed=True))
    if event.kind is HookKind.BATCH:
        _skip_rejected(draft, event)
    return event


def _skip_rejected(draft: Draft, event: HookEvent) -> None:
    rollout = draft.rollouts[event.rollout]
    for machine, answer in sorted(event.answers.items()):
        if answer is Answer.REJECTED and draft.is_held(rollout, machine):
            task = draft.tasks[rollout.id][machine]
            draft.move(task, Signal.SKIP, detail=REJECTED)
            draft.wake_at(draft.now + SOON)


def _waits(event: HookEvent, what: str) -> Refusal:
    silence = "approved" if event.approves else "rejected"
    text = f"somebody answers for {what}: upkeep hook list; without an answer it is {silence}"
    return HoldReason.HOOK, event.wait_until, text
