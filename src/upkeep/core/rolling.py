"""A rollout's batches and its three gates (used by every system that rolls).

The life of a rollout, batch by batch:

1. *Gate before the first batch, and before every batch*: more unplanned unhealthy machines than
   the policy's ceiling stop the rollout, with no further machine touched.  A repair batch
   (unhealthy machines that the work would heal) passes, since it takes nobody down.
2. The batch is formed and admitted (admission.py).
3. *Gate after the batch*, once each of its tasks has ended: too many failures among the upgraded
   machines halt the rollout.  If they speak against the version (blame.py), the version is
   guilty: every machine on it goes back and it is not tried again unless a person asks.
4. Pause, and on to 1; with nobody left the rollout is complete.

All comparisons are of integers and strict: with 10 machines and 20 %, 2 unhealthy pass and 3 stop.
Source: sheet os-image §2.4; docs/adr/0004, 0005.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from upkeep.core.blame import control_group_suffers, speaks_against_version
from upkeep.core.draft import Draft, subject_of
from upkeep.core.model import (
    Failure,
    Health,
    Lifecycle,
    Machine,
    RollingPolicy,
    Rollout,
    RolloutCode,
    RolloutState,
    Task,
    Verb,
)
from upkeep.core.task import IN_HAND, TERMINAL, Signal, TaskState

BATCH_PERCENT = range(5, 101)
UNHEALTHY_PERCENT = range(5, 101)
UNHEALTHY_UPGRADED_PERCENT = range(101)
HEALTH_WAIT_MAX = timedelta(hours=4)
BAKE_TIME_MAX = timedelta(days=2)
PAUSE_MAX = timedelta(days=7)
NOTICE_MAX = timedelta(days=7)


def policy_errors(policy: RollingPolicy) -> list[str]:
    """What is wrong with a policy, a sentence each that says what to set instead.

    Source: sheet os-image §2.3 (ranges; batch must not exceed the unhealthy limit), §10.
    """
    errors = []
    for name, value, allowed in (
        ("max_batch_percent", policy.max_batch_percent, BATCH_PERCENT),
        ("max_unhealthy_percent", policy.max_unhealthy_percent, UNHEALTHY_PERCENT),
        (
            "max_unhealthy_upgraded_percent",
            policy.max_unhealthy_upgraded_percent,
            UNHEALTHY_UPGRADED_PERCENT,
        ),
    ):
        if value not in allowed:
            errors.append(f"{name} is {value}; set {allowed.start} to {allowed.stop - 1}")
    if policy.max_batch_percent > policy.max_unhealthy_percent:
        errors.append(
            f"max_batch_percent ({policy.max_batch_percent}) is above max_unhealthy_percent "
            f"({policy.max_unhealthy_percent}); lower the first or raise the second"
        )
    for name, length, longest in (
        ("health_wait", policy.health_wait, HEALTH_WAIT_MAX),
        ("bake_time", policy.bake_time, BAKE_TIME_MAX),
        ("pause_between_batches", policy.pause_between_batches, PAUSE_MAX),
        ("notice", policy.notice, NOTICE_MAX),
        ("drain_timeout", policy.drain_timeout, HEALTH_WAIT_MAX),
    ):
        if not timedelta(0) <= length <= longest:
            errors.append(f"{name} is {length}; set at least 0 and at most {longest}")
    if policy.health_wait == timedelta(0):
        errors.append("health_wait is 0; set how long a machine may take to become healthy")
    return errors


def batch_size(percent: int, *, size: int) -> int:
    """Machines upgraded together: rounded down, never below one.

    E.g. 20 % of 1, 5, 9, 10, 14, 100 is 1, 1, 1, 2, 2, 20.  Source: sheet os-image §10.
    """
    assert percent in BATCH_PERCENT
    return max(1, size * percent // 100)


def exceeds(count: int, percent: int, *, of: int) -> bool:
    """More than `percent` of `of`, strictly: 2 of 10 do not exceed 20 %, 3 do."""
    return 100 * count > percent * of


def unplanned_unhealthy(draft: Draft) -> list[Machine]:
    """Machines that are ill by themselves: not well, and in nobody's hands."""
    return [
        machine
        for machine in draft.present()
        if machine.health in (Health.UNHEALTHY, Health.UNKNOWN) and not _in_hand(draft, machine)
    ]


def _in_hand(draft: Draft, machine: Machine) -> bool:
    task = draft.in_hand.get(machine.id)
    return task is not None and task.state in IN_HAND


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
    if open_batch(draft, rollout):
        return
    if rollout.batch > 0 and rollout.batch_closed_at is None:
        rollout = draft.put_rollout(rollout, batch_closed_at=draft.now)
        rollout = _judge_batch(draft, rollout)
    if rollout.state is RolloutState.CANCELLING:
        _end(draft, rollout, RolloutState.CANCELLED, RolloutCode.OPERATOR_CANCELLED)
    elif rollout.state is RolloutState.RUNNING:
        _complete_if_done(draft, rollout)


def _begin_cancel(draft: Draft, rollout: Rollout) -> Rollout:
    """Finish the open batch, start none: what has not started is cancelled at once."""
    for task in draft.tasks_of(rollout):
        if task.state in (TaskState.HELD, TaskState.ANNOUNCED, TaskState.DRAINING):
            drop(draft, task, "the rollout was cancelled")
    draft.tell(f"rollout {rollout.id} is being cancelled: the open batch is finished")
    return draft.put_rollout(rollout, state=RolloutState.CANCELLING)


def drop(draft: Draft, task: Task, detail: str) -> None:
    draft.move(task, Signal.CANCEL, detail=detail)
    if task.state is not TaskState.HELD:
        # Announced and not begun: nothing was taken down, so its places are free again.  The
        # claims on the machine of a held task, if any, are those of other work.
        draft.release(task.machine)


def _judge_batch(draft: Draft, rollout: Rollout) -> Rollout:
    """The gate after a batch.  Work without a target is no version's fault and is not judged."""
    if not rollout.target:
        return rollout
    touched = [t for t in draft.tasks_of(rollout) if t.batch > 0 and t.state in TERMINAL]
    touched = [t for t in touched if t.state not in (TaskState.CANCELLED, TaskState.SKIPPED)]
    # A repair that did not heal proves nothing, for the version or against it.
    touched = [t for t in touched if not (t.repair and t.failure is not Failure.NONE)]
    failed = [t for t in touched if t.failure is not Failure.NONE]
    limit = rollout.policy.max_unhealthy_upgraded_percent
    unusable = [t for t in failed if t.failure is Failure.IMAGE_UNUSABLE]
    if unusable:
        return _halt(draft, rollout, RolloutCode.IMAGE_UNUSABLE, failed=unusable, guilty=True)
    if not failed or not exceeds(len(failed), limit, of=len(touched)):
        if rollout.verb is not Verb.CREATE:
            draft.tell(f"batch {rollout.batch} of {rollout.id} is done")
        return rollout
    accused = [t for t in failed if speaks_against_version(t)]
    if len(failed) > 1 and not accused:
        # One machine that is still ill on its previous version is ill by itself; several at
        # once are no coincidence: the new version may have harmed their data.
        accused = [t for t in failed if t.failure is not Failure.PLATFORM]
    if not accused:
        platform_failed = [t for t in failed if t.failure is Failure.PLATFORM]
        if exceeds(len(platform_failed), limit, of=len(touched)):
            return _halt(
                draft, rollout, RolloutCode.PLATFORM_FAILED, failed=platform_failed, guilty=False
            )
        return rollout  # The machines themselves are ill; the gate before a batch counts them.
    well = _well_on_target(draft, rollout)
    if not exceeds(len(accused), limit, of=len(accused) + well):
        return rollout
    guilty = not _control_suffers(draft, rollout, accused, len(accused) + well)
    return _halt(draft, rollout, RolloutCode.UNHEALTHY_UPGRADED, failed=accused, guilty=guilty)


def _well_on_target(draft: Draft, rollout: Rollout) -> int:
    """Machines that run the target and are well, of this rollout or an earlier one."""
    return sum(
        1
        for machine in draft.present()
        if machine.image == rollout.target and machine.health is Health.HEALTHY
    )


def _control_group(draft: Draft, rollout: Rollout, accused: list[Task]) -> list[Machine]:
    """Machines of the accused ones' zones that this rollout has not touched."""
    zones = {draft.machines[t.machine].zone for t in accused if t.machine in draft.machines}
    touched = {t.machine for t in draft.tasks_of(rollout) if t.batch > 0}
    return [
        machine
        for machine in draft.present()
        if machine.zone in zones
        and machine.id not in touched
        and machine.image != rollout.target
        and not _in_hand(draft, machine)
    ]


def _control_suffers(draft: Draft, rollout: Rollout, accused: list[Task], touched: int) -> bool:
    control = _control_group(draft, rollout, accused)
    return control_group_suffers(
        failed=len(accused),
        touched=touched,
        control_failed=len(_fallen_ill(control, rollout)),
        control=len(control),
    )


def _fallen_ill(control: list[Machine], rollout: Rollout) -> list[Machine]:
    """Those that became ill in the time of the rollout; who was ill before tells nothing."""
    return [
        machine
        for machine in control
        if machine.health in (Health.UNHEALTHY, Health.UNKNOWN)
        and machine.health_since >= rollout.started_at
    ]


def _halt(
    draft: Draft, rollout: Rollout, code: RolloutCode, *, failed: list[Task], guilty: bool
) -> Rollout:
    """Stop, name what is to blame, and show the evidence."""
    names = [draft.machines[t.machine].name for t in failed if t.machine in draft.machines]
    first = failed[0]
    back = sum(1 for t in failed if t.healed)
    control = _control_group(draft, rollout, failed)
    ill = len(_fallen_ill(control, rollout))
    evidence = (
        f"{len(failed)} failed in batch {rollout.batch} or before ({_some(names)}): "
        f"{first.detail}. Rolled back and well again: {back}. "
        f"Machines of the same zones without it: {ill} of {len(control)} fell ill."
    )
    verdict = f"version {rollout.target} is to blame" if guilty else "the version is not blamed"
    draft.tell(f"rollout {rollout.id} halted after batch {rollout.batch}: {verdict}. {evidence}")
    for task in draft.tasks_of(rollout):
        if task.state is TaskState.HELD:
            draft.move(task, Signal.CANCEL, detail="the rollout was halted")
    rollout = draft.put_rollout(rollout, code=code, evidence=evidence, guilty=guilty)
    if guilty and rollout.policy.rollback_on_breach and still_on_target(draft, rollout):
        return draft.put_rollout(rollout, state=RolloutState.ROLLING_BACK)
    return _end(draft, rollout, RolloutState.FAULTED, code)


def _some(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


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
        and machine.image == rollout.target
    ]


def _settle_rolling_back(draft: Draft, rollout: Rollout) -> None:
    moving = [t for t in draft.tasks_of(rollout) if t.state is TaskState.ROLLING_BACK]
    if not moving and not still_on_target(draft, rollout):
        _end(draft, rollout, RolloutState.FAULTED, rollout.code)


def _complete_if_done(draft: Draft, rollout: Rollout) -> None:
    tasks = draft.tasks_of(rollout)
    if any(t.state not in TERMINAL for t in tasks):
        return
    failed = [t for t in tasks if t.failure is not Failure.NONE]
    code = RolloutCode.FAILED_MACHINES if failed else RolloutCode.NONE
    if failed:
        names = [draft.machines[t.machine].name for t in failed if t.machine in draft.machines]
        rollout = replace(rollout, evidence=f"failed by themselves: {_some(names)}")
    done = any(t.state is TaskState.DONE for t in tasks)
    if rollout.target and done and (rollout.verb is not Verb.CREATE or not draft.group.baked):
        draft.group = replace(draft.group, baked=rollout.target)
    _end(draft, rollout, RolloutState.COMPLETED, code)


def _end(draft: Draft, rollout: Rollout, state: RolloutState, code: RolloutCode) -> Rollout:
    draft.tell(f"rollout {rollout.id} {state}" + (f": {code}" if code else ""))
    return draft.put_rollout(rollout, state=state, code=code, ended_at=draft.now)


def stop_rollout(draft: Draft, rollout: Rollout, code: RolloutCode, evidence: str) -> Rollout:
    """End a rollout between two batches: what is still held is cancelled."""
    for task in draft.tasks_of(rollout):
        if task.state in (TaskState.HELD, TaskState.ANNOUNCED, TaskState.DRAINING):
            drop(draft, task, evidence)
    state = (
        RolloutState.CANCELLED
        if code in (RolloutCode.SUPERSEDED, RolloutCode.IMAGE_EXCLUDED)
        else RolloutState.FAULTED
    )
    draft.tell(f"rollout {rollout.id} stops: {evidence}")
    return _end(draft, replace(rollout, evidence=evidence), state, code)


def time_needed(policy: RollingPolicy) -> timedelta:
    """The longest one machine may take: its drain, its health wait, and as long to go back."""
    return policy.drain_timeout + 2 * policy.health_wait


def pause_until(rollout: Rollout, *, now: datetime) -> datetime | None:
    """When the pause between two batches ends, if it is running."""
    if rollout.batch_closed_at is None:
        return None
    until = rollout.batch_closed_at + rollout.policy.pause_between_batches
    return until if until > now else None
