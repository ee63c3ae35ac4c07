"""A rollout's batches and its three gates (used by every system that rolls).

The life of a rollout, batch by batch:

1. *Gate before the first batch, and before every batch*: more unplanned unhealthy machines than
   the policy's ceiling stop the rollout, with no further machine touched.  A repair batch
   (unhealthy machines that the work would heal) passes, since it takes nobody down.
2. The batch is formed and admitted (admission.py).
3. *Gate after the batch*, once each of its tasks has ended: too many failures among the upgraded
   machines halt the rollout.  If they speak against the version (verdict.py), the version is
   guilty: every machine on it goes back and it is not tried again unless a person asks.
4. Pause, and on to 1; with nobody left the rollout is complete.

All comparisons are of integers and strict: with 10 machines and 20 %, 2 unhealthy pass and 3 stop.
Source: sheet os-image §2.4; docs/adr/0004, 0005.
"""

from collections import Counter
from dataclasses import replace
from datetime import datetime

from upkeep.core.alarm import Alarm
from upkeep.core.alarm_gate import alarm_against
from upkeep.core.draft import Draft, subject_of
from upkeep.core.model import (
    Failure,
    GroupKind,
    Health,
    Lifecycle,
    Machine,
    Rollout,
    RolloutCode,
    RolloutState,
    System,
    Task,
    Verb,
)
from upkeep.core.surge import withdraw_stand_in
from upkeep.core.task import TERMINAL, Signal, TaskState
from upkeep.core.verdict import Verdict, exceeds, judge_batch, some_of, witness_for

# A rollout that stops for one of these has not failed.
_CANCELLED = frozenset(
    {RolloutCode.SUPERSEDED, RolloutCode.IMAGE_EXCLUDED, RolloutCode.OPERATOR_CANCELLED}
)


def unplanned_unhealthy(draft: Draft) -> list[Machine]:
    """Machines that are ill by themselves: not well, and in nobody's hands."""
    return [
        machine
        for machine in draft.present()
        if machine.health in (Health.UNHEALTHY, Health.UNKNOWN) and not draft.is_in_hand(machine)
    ]


def too_ill_to_go_on(draft: Draft, rollout: Rollout) -> list[Machine]:
    """The gate before a batch: the ill machines if they are too many, else nobody.

    One ill machine never stops a rollout, however small the group: the budgets see to it that
    no other goes down beside it, and a repair can then heal it.  Source: sheet os-image §11 #1.
    """
    ill = unplanned_unhealthy(draft)
    limit = rollout.policy.max_unhealthy_percent
    if len(ill) > 1 and exceeds(len(ill), limit, of=len(draft.present())):
        return ill
    return []


def open_batch(draft: Draft, rollout: Rollout) -> list[Task]:
    """The tasks of the present batch that have not ended."""
    return [
        task
        for task in draft.tasks_of(rollout)
        if task.batch == rollout.batch and task.batch > 0 and task.state not in TERMINAL
    ]


def settle_rollouts(draft: Draft) -> None:
    """Step 1 of a tick, second half: ended tasks move their rollouts."""
    for rollout in draft.open_rollouts():
        _settle_rollout(draft, rollout)


def _settle_rollout(draft: Draft, rollout: Rollout) -> None:
    if rollout.state is RolloutState.ROLLING_BACK:
        _settle_rolling_back(draft, rollout)
        return
    if rollout.cancel_requested and rollout.state is RolloutState.RUNNING:
        rollout = _begin_cancel(draft, rollout)
    alarm = alarm_against(draft, rollout) if rollout.state is RolloutState.RUNNING else None
    if alarm is not None:
        _end_what_waits(draft, rollout)
    if open_batch(draft, rollout):
        return
    if rollout.batch > 0 and rollout.batch_closed_at is None:
        rollout = draft.put_rollout(rollout, batch_closed_at=draft.now)
        verdict = judge_batch(draft, rollout)
        if verdict is not None:
            rollout = _halt(draft, rollout, verdict)
        elif rollout.verb is not Verb.CREATE and rollout.target:
            draft.tell(f"batch {rollout.batch} of {rollout.id} is done")
    if alarm is not None and rollout.state is RolloutState.RUNNING:
        rollout = _halt(draft, rollout, _verdict_of(alarm))
    if rollout.state is RolloutState.CANCELLING:
        _end(draft, rollout, RolloutState.CANCELLED, RolloutCode.OPERATOR_CANCELLED)
    elif rollout.state is RolloutState.RUNNING:
        _complete_if_done(draft, rollout)


def _end_what_waits(draft: Draft, rollout: Rollout) -> None:
    """A rollout that an alarm has failed waits for no notice, no drain and no bake.

    A stand-in that still bakes has taken nobody's place yet: it goes, and the old machine stays.
    """
    for task in draft.tasks_of(rollout):
        if task.state in (TaskState.ANNOUNCED, TaskState.DRAINING):
            drop(draft, task, "an alarm fired")
        elif task.state is TaskState.BAKING and task.stand_in:
            withdraw_stand_in(draft, task, "an alarm fired")
        elif task.state is TaskState.BAKING:
            draft.move(task, Signal.BAKED, detail="an alarm fired")


def _verdict_of(alarm: Alarm) -> Verdict:
    when = f"{alarm.fired_at:%Y-%m-%d %H:%M:%SZ}"
    text = f"alarm {alarm.name} fired at {when}" + (f": {alarm.detail}" if alarm.detail else "")
    return Verdict(code=RolloutCode.ALARM, guilty=True, evidence=f"{text}.")


def _begin_cancel(draft: Draft, rollout: Rollout) -> Rollout:
    """Finish the open batch, start none: what has not started is cancelled at once."""
    for task in draft.tasks_of(rollout):
        if task.state in (TaskState.HELD, TaskState.ANNOUNCED, TaskState.DRAINING):
            drop(draft, task, "the rollout was cancelled")
    draft.close_hook_events(rollout)
    draft.tell(f"rollout {rollout.id} is being cancelled: the open batch is finished")
    return draft.put_rollout(rollout, state=RolloutState.CANCELLING)


def drop(draft: Draft, task: Task, detail: str) -> None:
    """Work that has not begun is not done, and what was written down for it is undone."""
    draft.move(task, Signal.CANCEL, detail=detail)
    rollout = draft.rollouts[task.rollout]
    machine = draft.machines.get(task.machine)
    if rollout.verb is Verb.CREATE and machine is not None:
        draft.put_machine(machine, lifecycle=Lifecycle.DELETING)
    makes_its_own = draft.group.kind is GroupKind.SCALE_SET
    if rollout.system is System.OPERATOR and rollout.verb is Verb.DELETE and makes_its_own:
        # The call had made the group smaller by this machine: another would go in its place.
        draft.group = replace(draft.group, capacity=draft.group.capacity + 1)
    if task.state is not TaskState.HELD:
        # Announced and not begun: nothing was taken down, so its places are free again.  The
        # claims on the machine of a held task, if any, are those of other work.
        draft.release(task.machine)


def _halt(draft: Draft, rollout: Rollout, verdict: Verdict) -> Rollout:
    """Stop, name what is to blame, and show the evidence."""
    blame = f"{rollout.brings} is to blame"
    if not verdict.guilty:
        blame = f"{rollout.brings} is not blamed"
    text = f"{blame}. {verdict.evidence}"
    draft.tell(f"rollout {rollout.id} halted after batch {rollout.batch}: {text}")
    for task in draft.tasks_of(rollout):
        if task.state is TaskState.HELD:
            draft.move(task, Signal.CANCEL, detail="the rollout was halted")
    rollout = draft.put_rollout(
        rollout, code=verdict.code, evidence=verdict.evidence, guilty=verdict.guilty
    )
    if verdict.guilty and rollout.policy.rollback_on_breach and still_on_target(draft, rollout):
        return draft.put_rollout(rollout, state=RolloutState.ROLLING_BACK)
    return _end(draft, rollout, RolloutState.FAULTED, verdict.code)


def still_on_target(draft: Draft, rollout: Rollout) -> list[Task]:
    """Upgraded machines that a guilty version must leave, also those that failed on it.

    A machine whose rollback failed is not sent back a second time.
    """
    return [
        task
        for task in draft.tasks_of(rollout)
        if task.state in (TaskState.DONE, TaskState.FAILED)
        and task.attempt == 1
        and task.previous
        and (machine := draft.machines.get(subject_of(task))) is not None
        and machine.lifecycle is Lifecycle.PRESENT
        and rollout.on_disk_of(machine) == rollout.target
    ]


def _settle_rolling_back(draft: Draft, rollout: Rollout) -> None:
    tasks = draft.tasks_of(rollout)
    moving = [t for t in tasks if t.state is TaskState.ROLLING_BACK]
    if moving or still_on_target(draft, rollout):
        return
    failed = [t for t in tasks if t.failure is not Failure.NONE]
    if (witness := witness_for(failed)) is not None:
        back = f"Back on {rollout.kind} {witness.previous}"
        text = f"{rollout.evidence} {back} it is ill too: it is the machine."
        draft.tell(f"rollout {rollout.id}: {rollout.brings} is not to blame. {text}")
        rollout = draft.put_rollout(rollout, guilty=False, evidence=text)
    _end(draft, rollout, RolloutState.FAULTED, rollout.code)


def _complete_if_done(draft: Draft, rollout: Rollout) -> None:
    tasks = draft.tasks_of(rollout)
    if any(t.state not in TERMINAL for t in tasks):
        return
    failed = [t for t in tasks if t.failure is not Failure.NONE]
    code = RolloutCode.FAILED_MACHINES if failed else RolloutCode.NONE
    if failed:
        names = [draft.machines[t.machine].name for t in failed if t.machine in draft.machines]
        rollout = replace(rollout, evidence=f"failed by themselves: {some_of(names)}")
    elif left_out := draft.rejected_at_hook(rollout):
        code = RolloutCode.REJECTED
        names = [draft.machines[m].name for m in left_out if m in draft.machines]
        text = f"left out at the lifecycle hook: {some_of(names)}"
        rollout = replace(rollout, evidence=text)
    done = sum(t.state is TaskState.DONE for t in tasks)
    if len(failed) > done:
        # Each may have had a reason of its own; a version that most machines left is not theirs.
        _end(draft, rollout, RolloutState.FAULTED, code)
        return
    if rollout.target and done:
        _note_what_baked(draft, rollout)
    _end(draft, rollout, RolloutState.COMPLETED, code)


def _note_what_baked(draft: Draft, rollout: Rollout) -> None:
    """The version and the model that its machines came up well with; for machines made later."""
    group = draft.group
    if rollout.is_of_model:
        draft.group = replace(group, baked_model=rollout.target)
        return
    if rollout.verb is not Verb.CREATE or not group.baked:
        group = replace(group, baked=rollout.target)
    models = Counter(
        task.model
        for task in draft.tasks_of(rollout)
        if task.state is TaskState.DONE and task.model
    )
    if models:
        group = replace(group, baked_model=min(models, key=lambda name: (-models[name], name)))
    draft.group = group


def _end(draft: Draft, rollout: Rollout, state: RolloutState, code: RolloutCode) -> Rollout:
    draft.close_hook_events(rollout)
    draft.tell(f"rollout {rollout.id} {state}" + (f": {code}" if code else ""))
    return draft.put_rollout(rollout, state=state, code=code, ended_at=draft.now)


def stop_rollout(draft: Draft, rollout: Rollout, code: RolloutCode, evidence: str) -> Rollout:
    """End a rollout between two batches: what is still held is cancelled."""
    for task in draft.tasks_of(rollout):
        if task.state in (TaskState.HELD, TaskState.ANNOUNCED, TaskState.DRAINING):
            drop(draft, task, evidence)
    state = RolloutState.CANCELLED if code in _CANCELLED else RolloutState.FAULTED
    draft.tell(f"rollout {rollout.id} stops: {evidence}")
    return _end(draft, replace(rollout, evidence=evidence), state, code)


def pause_until(rollout: Rollout, *, now: datetime) -> datetime | None:
    """When the pause between two batches ends, if it is running."""
    if rollout.batch_closed_at is None:
        return None
    until = rollout.batch_closed_at + rollout.policy.pause_between_batches
    return until if until > now else None
