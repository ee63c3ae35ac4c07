"""Repairs: machines that stay unhealthy are restarted, reimaged or replaced by themselves.

Reads beside the sheet os-image §7.  This file *proposes*: which ill machine is repaired, and why
the others are not.  Whether a machine may be touched now is decided by the gate like for any other
work; what is ill is down already, so its repair costs nobody a place.

- A machine must have been unhealthy for the grace period, counted anew after each work on it.
- At most 5 % of the machines at once, at least one.
- One that other work has in hand is left to it, and so is one that failed in a batch that has yet
  to be judged; protected ones and those that nobody reaches are left to people: unknown is not ill
  (DESIGN §5).
- Three repairs in a row that healed nobody suspend the group's repairs until a person resumes
  them.  A replacement is judged by the machine that was made instead.

Source: sheet os-image §7, §10 (repairs: share, grace); docs/adr/0017.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from upkeep.core.draft import Draft
from upkeep.core.hold import HoldReason
from upkeep.core.model import (
    Health,
    Machine,
    MachineId,
    Priority,
    RepairAction,
    Repairs,
    Rollout,
    RolloutState,
    System,
    Verb,
)
from upkeep.core.policy import share_of
from upkeep.core.refusals import SOON, Refusal, hold_for, is_spared
from upkeep.core.rolling import open_batch
from upkeep.core.task import TERMINAL, Signal, TaskState

SHARE_PERCENT = 5
GRACE_MIN, GRACE_MAX = timedelta(minutes=10), timedelta(minutes=90)
USELESS_MAX = 3
# Older repairs are no evidence about what is wrong now.
REMEMBERED = timedelta(hours=24)

VERBS = {
    RepairAction.RESTART: Verb.RESTART,
    RepairAction.REIMAGE: Verb.REIMAGE,
    # The group then has one too few, and makes it again.
    RepairAction.REPLACE: Verb.DELETE,
}


def grace_errors(grace: timedelta) -> list[str]:
    """Source: sheet os-image §10 (repairs: grace)."""
    if GRACE_MIN <= grace <= GRACE_MAX:
        return []
    return [f"the grace period is {grace}; set 10 to 90 minutes"]


def propose(draft: Draft) -> None:
    """After this each ill machine of a group that repairs has a repair, other work, or a hold."""
    repairs = draft.group.repairs
    if repairs is not None and repairs.suspended_at is None and _are_useless(draft, repairs):
        repairs = replace(repairs, suspended_at=draft.now)
        draft.group = replace(draft.group, repairs=repairs)
        draft.tell(f"{USELESS_MAX} repairs in a row healed nobody: repairs are suspended")
    _drop_held(draft, repairs)
    ill = [m for m in draft.present() if m.health is Health.UNHEALTHY]
    if repairs is None or not ill:
        return
    under_way = _under_way(draft)
    places = share_of(SHARE_PERCENT, size=len(draft.present())) - len(under_way)
    chosen: list[Machine] = []
    for machine in sorted(ill, key=lambda m: (m.health_since, m.id)):
        if machine.id in under_way:
            continue  # The gate says what it waits for.
        refusal = _why_not(draft, repairs, machine)
        if refusal is None and len(chosen) >= places:
            text = f"a repair ends: {SHARE_PERCENT} %, at least one, are in repair at a time"
            refusal = HoldReason.REPAIRS_BUSY, None, text
        if refusal is None:
            chosen.append(machine)
        else:
            hold_for(draft, System.REPAIR, machine, refusal, Priority.REPAIR)
    if chosen:
        _begin(draft, repairs, chosen)


def _why_not(draft: Draft, repairs: Repairs, machine: Machine) -> Refusal | None:
    if is_spared(machine):
        return HoldReason.PROTECTED, None, "remove its protection, or see to it yourself"
    if repairs.suspended_at is not None:
        text = "see why repairs do not heal, then: upkeep group resume-repairs"
        return HoldReason.REPAIRS_SUSPENDED, None, text
    if (rollout := _owner(draft, machine.id)) is not None:
        return HoldReason.OTHER_WORK, None, f"{rollout} is done with this machine"
    until = _ill_since(machine) + repairs.grace
    if draft.now < until:
        return HoldReason.REPAIR_GRACE, until, "it is well again, or its grace period ends"
    if repairs.action is RepairAction.REIMAGE and not machine.image:
        return HoldReason.REPAIR_GRACE, None, "it is seen which version the machine runs"
    return None


def _ill_since(machine: Machine) -> datetime:
    """From when the grace period counts: it begins anew after work on the machine."""
    return max(machine.health_since, machine.worked_at or machine.health_since)


def _owner(draft: Draft, machine: MachineId) -> str | None:
    """The rollout that has the machine in hand, or that has yet to judge the batch it failed in."""
    if (task := draft.in_hand.get(machine)) is not None:
        return task.rollout
    for rollout in draft.open_rollouts(System.OS_IMAGE):
        task = draft.tasks[rollout.id].get(machine)
        if task is None or task.state is not TaskState.FAILED or task.batch != rollout.batch:
            continue
        if open_batch(draft, rollout):
            return rollout.id
    return None


def _under_way(draft: Draft) -> set[MachineId]:
    return {
        task.machine
        for rollout in draft.open_rollouts(System.REPAIR)
        for task in draft.tasks_of(rollout)
        if task.state not in TERMINAL
    }


def _drop_held(draft: Draft, repairs: Repairs | None) -> None:
    """Repairs that wait (for a blackout's end, say) never begin once nobody wants any, once a
    person protects the machine, or once it was well in between: its grace period counts anew."""
    for rollout in draft.open_rollouts(System.REPAIR):
        for task in draft.tasks_of(rollout):
            machine = draft.machines.get(task.machine)
            if task.state is not TaskState.HELD or machine is None:
                continue
            if repairs is None or repairs.suspended_at is not None:
                draft.move(task, Signal.CANCEL, detail="repairs were suspended")
            elif is_spared(machine):
                draft.move(task, Signal.CANCEL, detail="it is protected now")
            elif draft.now < _ill_since(machine) + repairs.grace:
                draft.move(task, Signal.SKIP, detail="it was well in between")
            else:
                continue
            draft.wake_at(draft.now + SOON)


def _are_useless(draft: Draft, repairs: Repairs) -> bool:
    """The last three in a row, since a person resumed them and within a day, healed nobody."""
    since = max(draft.now - REMEMBERED, repairs.resumed_at or draft.now - REMEMBERED)
    in_a_row = 0
    for rollout in draft.ended_rollouts():  # Newest first.
        if not _judges(rollout, repairs.action) or (rollout.ended_at or since) <= since:
            continue
        if rollout.state is not RolloutState.FAULTED:
            return False
        in_a_row += 1
        if in_a_row == USELESS_MAX:
            return True
    return False


def _judges(rollout: Rollout, action: RepairAction) -> bool:
    if action is RepairAction.REPLACE:
        return rollout.system is System.SCALE and rollout.verb is Verb.CREATE
    return rollout.system is System.REPAIR and rollout.verb is VERBS[action]


def _begin(draft: Draft, repairs: Repairs, machines: list[Machine]) -> None:
    verb = VERBS[repairs.action]
    # Nobody serves on them, so there is nothing to announce to and nothing to drain.
    policy = replace(draft.group.policy, notice=timedelta(0), drain_timeout=timedelta(0))
    rollout = draft.begin_rollout(System.REPAIR, verb, machines, policy=policy, size=len(machines))
    names = ", ".join(machine.name for machine in machines)
    draft.tell(f"{names}: unhealthy for {repairs.grace}, {repairs.action} ({rollout.id})")
