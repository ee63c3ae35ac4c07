"""S7, the gate's last step: notice, then the machine's own drain, then the start.

Work that was announced holds its claims.  When its notice and its drain are over it is asked once
more whether it may begin; a machine that must not be touched any more is dropped, and its places
are free again.  Source: DESIGN §5 (notice).
"""

from dataclasses import replace

from upkeep.core.alarm_gate import refusal_by_alarm
from upkeep.core.draft import MAKES_A_DISK, Draft, action_key
from upkeep.core.hold import HoldReason
from upkeep.core.model import Health, Machine, Rollout, System, Task, Verb
from upkeep.core.new_disk import model_for
from upkeep.core.refusals import (
    DISRUPTIVE,
    SOON,
    Refusal,
    hold,
    no_place_now,
    refusal_by_time,
    refusal_for_one,
    refusal_now,
)
from upkeep.core.rolling import drop
from upkeep.core.surge import begin_stand_in
from upkeep.core.task import Signal, TaskState


def announce(
    draft: Draft, rollout: Rollout, machine: Machine, *, batch: int, surge: bool = False
) -> None:
    """The gate's last step: notice, then the start."""
    task = draft.tasks[rollout.id][machine.id]
    repair = _is_repair(rollout, machine)
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
        hold(draft, rollout, machine, refusal)


def _is_repair(rollout: Rollout, machine: Machine) -> bool:
    """The machine is ill by itself, so what comes of the work is no evidence."""
    repairs = rollout.system in (System.OS_IMAGE, System.REPAIR)
    return repairs and machine.health is Health.UNHEALTHY


def start_announced(draft: Draft, rollout: Rollout) -> None:
    """Announced work starts when notice and drain are over, unless it has become wrong."""
    for task in draft.tasks_of(rollout):
        if task.state not in (TaskState.ANNOUNCED, TaskState.DRAINING):
            continue
        machine = draft.machines[task.machine]
        if (refusal := refusal_for_one(draft, rollout, machine)) is not None:
            drop(draft, task, f"announced, then: {refusal[0]}")
            draft.wake_at(draft.now + SOON)
        elif task.state is TaskState.DRAINING:
            refusal = _start_drained(draft, rollout, task)
        else:
            refusal = _start_noticed(draft, rollout, task, machine)
        if refusal is not None:
            hold(draft, rollout, machine, refusal)


def _start_noticed(draft: Draft, rollout: Rollout, task: Task, machine: Machine) -> Refusal | None:
    assert task.not_before is not None
    if task.not_before > draft.now:
        return HoldReason.NOTICE, task.not_before, "the notice runs out"
    refusal = refusal_now(draft, rollout) or refusal_by_alarm(draft, rollout)
    if refusal is not None:
        # Nobody knows for how long, and others may need its places: it is announced anew.
        _withdraw(draft, task)
        return refusal
    if (refusal := refusal_by_time(draft, rollout)) is not None:
        return refusal
    if not task.surge:
        if (spent := no_place_now(draft, rollout, machine)) is not None:
            _withdraw(draft, task)
            draft.holds.append(spent)
            return None
        # It may have fallen ill or become well during its notice, before it was touched.
        task = draft.put_task(replace(task, repair=_is_repair(rollout, machine)))
    _drain_or_start(draft, rollout, task)
    return None


def _withdraw(draft: Draft, task: Task) -> None:
    draft.release(task.machine)
    draft.move(task, Signal.WITHDRAW, batch=0, repair=False, surge=False, not_before=None)
    draft.wake_at(draft.now + SOON)


def _drain_or_start(draft: Draft, rollout: Rollout, task: Task) -> None:
    drains = rollout.verb in DISRUPTIVE and not task.repair and not task.surge
    if rollout.policy.drain_timeout and drains:
        until = draft.now + rollout.policy.drain_timeout
        task = draft.move(task, Signal.DRAIN, clock_from=until)
        draft.act(task, Verb.DRAIN)
        draft.wake_at(until)
    else:
        _start(draft, rollout, task)


def _start_drained(draft: Draft, rollout: Rollout, task: Task) -> Refusal | None:
    """Draining ends when the machine says so, or when its time is up."""
    drained = action_key(task, Verb.DRAIN) in draft.snapshot.outcomes
    if not drained and draft.now < task.clock_from:
        draft.wake_at(task.clock_from)
        return None
    refusal = refusal_now(draft, rollout)
    if refusal is None:
        _start(draft, rollout, task)
    return refusal


def _start(draft: Draft, rollout: Rollout, task: Task) -> None:
    if rollout.begun_at is None:
        rollout = draft.put_rollout(draft.rollouts[rollout.id], begun_at=draft.now)
    if task.surge:
        begin_stand_in(draft, rollout, task)
        return
    machine = draft.machines[task.machine]
    task = draft.move(
        task,
        Signal.START,
        attempt=task.attempt + 1,
        boots_before=machine.boots,
        previous=rollout.on_disk_of(machine),
        clock_from=draft.now,
    )
    version = machine.image if rollout.verb is Verb.REIMAGE else rollout.target
    model = ""
    if rollout.is_of_model:
        model = rollout.target
    elif rollout.verb in MAKES_A_DISK:
        model = model_for(draft, machine)
    draft.act(task, rollout.verb, version=version, model=model)
