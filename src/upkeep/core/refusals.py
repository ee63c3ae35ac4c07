"""Why work may not begin now: the answers of the gate, and the claims that let it begin.

A refusal is a reason, until when if that is known, and what would lift it; `hold` writes one down
for a machine.  Asked in this order: what stops the whole rollout (a person's pause, the clock, a
lost domain, then windows and blackouts), what stops one machine, and last the budgets.
"""

from datetime import datetime, timedelta

from upkeep.core.budget import RESERVED_LOOK, is_down
from upkeep.core.draft import Draft
from upkeep.core.hold import Hold, HoldReason
from upkeep.core.model import (
    Health,
    Lifecycle,
    Machine,
    Priority,
    Rollout,
    RolloutState,
    System,
    Task,
    Verb,
)
from upkeep.core.policy import time_needed
from upkeep.core.window import time_refusal

# These take a serving machine down; the others bring one up.
DISRUPTIVE = frozenset({Verb.STOP, Verb.RESTART, Verb.REPLACE_OS_DISK, Verb.REIMAGE, Verb.DELETE})

# What ended in the last step of a plan (a rollout, a task) is settled in the next one.
SOON = timedelta(milliseconds=1)

Refusal = tuple[HoldReason, datetime | None, str]

UNREACHABLE: Refusal = (
    HoldReason.UNREACHABLE,
    None,
    "the agent or the prober reaches the machine again",
)


def priority_of(rollout: Rollout) -> Priority:
    if rollout.system in (System.OPERATOR, System.SCALE):
        return Priority.OPERATOR
    if rollout.system is System.REPAIR or rollout.state is RolloutState.ROLLING_BACK:
        return Priority.REPAIR
    return Priority.OTHER


def otherwise(rollout: Rollout) -> str:
    """What a person can do about a rollout beside letting it go on, or starting it again."""
    return "change the model" if rollout.is_of_model else "publish a newer version"


def refusal_for_all(draft: Draft, rollout: Rollout) -> Refusal | None:
    """What stops every start of the rollout at this moment."""
    return refusal_now(draft, rollout) or refusal_by_time(draft, rollout)


def refusal_by_time(draft: Draft, rollout: Rollout) -> Refusal | None:
    """A blackout, or no window with enough time left."""
    if rollout.verb not in DISRUPTIVE or rollout.force:
        return None
    windows = draft.snapshot.windows if rollout.system is System.OS_IMAGE else None
    return time_refusal(
        windows, draft.snapshot.blackouts, reserve=time_needed(rollout.policy), now=draft.now
    )


def refusal_now(draft: Draft, rollout: Rollout) -> Refusal | None:
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


def moot(rollout: Rollout, machine: Machine) -> str:
    """Why there is nothing left to do about it; empty while there is."""
    if rollout.system is System.OS_IMAGE and rollout.on_disk_of(machine) == rollout.target:
        return f"it has {rollout.brings} already"
    if machine.lifecycle is Lifecycle.DELETING and rollout.verb is not Verb.DELETE:
        return "the machine is being removed"
    if rollout.system is not System.REPAIR or machine.lifecycle is not Lifecycle.PRESENT:
        return ""
    return "" if machine.health is Health.UNHEALTHY else "it is not unhealthy any more"


def refusal_for_one(draft: Draft, rollout: Rollout, machine: Machine) -> Refusal | None:
    other = draft.in_hand.get(machine.id)
    if other is not None and other.rollout != rollout.id:
        return other_work(other)
    if rollout.system is not System.OS_IMAGE:
        return None
    if machine.lifecycle is not Lifecycle.PRESENT:
        return HoldReason.MACHINE_STOPPED, None, "start the machine"
    floor = None if rollout.is_of_model else draft.floor_before(machine, rollout.target)
    if floor is not None:
        return HoldReason.FLOOR, None, f"it goes through {floor} first"
    refusal = refusal_by_owner(machine)
    if refusal is None and machine.health is Health.UNKNOWN:
        return UNREACHABLE
    return refusal


def still_starting(rollout: Rollout, machine: Machine, *, now: datetime) -> Refusal | None:
    """A machine that is still starting is neither well nor ill.

    What came of an upgrade would be no evidence for or against its version; it says which within
    its grace period.  To budgets it is down, so any other work would cost no place, although it
    may serve already: that waits as well, but no longer than a start may take.
    """
    if machine.health is not Health.INITIALIZING:
        return None
    text = "it has started: it is seen healthy, or unhealthy"
    if rollout.system is System.OS_IMAGE:
        return HoldReason.INITIALIZING, None, text
    takes_down = rollout.verb in DISRUPTIVE and machine.lifecycle is Lifecycle.PRESENT
    if rollout.force or not takes_down:
        return None
    began_at = max(machine.health_since, machine.worked_at or machine.health_since)
    until = began_at + rollout.policy.health_wait
    return (HoldReason.INITIALIZING, until, text) if now < until else None


def needs_approval(rollout: Rollout, task: Task) -> Refusal | None:
    """Nobody has said yet that the machine may be upgraded.  Source: sheet os-image §2.6 #3."""
    is_asked_for = rollout.system is System.OS_IMAGE and rollout.policy.needs_approval
    if not is_asked_for or task.approved:
        return None
    text = (
        f"approve it: upkeep rollout approve {rollout.id} --machine NAME, or all without --machine"
    )
    return HoldReason.NEEDS_APPROVAL, None, text


def is_spared(machine: Machine) -> bool:
    """A person wants it to stay as it is: no scale-in and no repair takes it."""
    return machine.protected or machine.scale_in_protected


def refusal_by_owner(machine: Machine) -> Refusal | None:
    """What the machine's owner has set against every rollout."""
    if machine.protected:
        return HoldReason.PROTECTED, None, "remove its protection"
    if machine.opted_out:
        return HoldReason.OPTED_OUT, None, "opt the machine in again"
    return None


def other_work(task: Task) -> Refusal:
    """One work per machine at a time: another rollout's task has it."""
    return HoldReason.OTHER_WORK, None, f"{task.rollout} is done with this machine"


def hold(draft: Draft, rollout: Rollout, machine: Machine, refusal: Refusal) -> None:
    hold_for(draft, rollout.system, machine, refusal, priority_of(rollout))


def hold_for(
    draft: Draft, system: System, machine: Machine, refusal: Refusal, priority: Priority
) -> None:
    """For work that is in no rollout yet."""
    reason, until, text = refusal
    draft.wake_at(until)
    draft.holds.append(
        Hold(
            machine=machine.id,
            system=system,
            reason=reason,
            until=until,
            lifted_by=text,
            priority=priority,
        )
    )


def take_claims(draft: Draft, rollout: Rollout, machine: Machine) -> bool:
    """Claims on all the machine's budgets, or a hold that names the one that is spent.

    A machine that is down already counts, so its claims cost nobody a place.  It takes them all
    the same: should it look well between the start and the action, it goes on counting.
    """
    if machine.id in draft.claims_of:
        return True  # It still holds those of the work before, and has not been seen healthy.
    spent = draft.ledger.refusal(
        machine.id,
        system=rollout.system,
        priority=priority_of(rollout),
        waiting_since=rollout.started_at,
        now=draft.now,
    )
    if spent is not None and not rollout.force:
        draft.wake_at(spent.until)
        if spent.reason is HoldReason.BUDGET_RESERVED:
            draft.wake_at(draft.now + RESERVED_LOOK)
        draft.holds.append(spent)
        return False
    overdraft = spent is not None
    draft.add_claims(draft.ledger.take(machine.id, rollout.id, overdraft=overdraft, now=draft.now))
    if overdraft:
        draft.tell(f"{machine.name} is taken over budget: the call was forced")
    return True


def no_place_now(draft: Draft, rollout: Rollout, machine: Machine) -> Hold | None:
    """Why a machine that has its claims must not be taken down after all, or None.

    While its notice ran others may have fallen ill by themselves, a budget may have become
    smaller, or the machine itself, ill when it was announced, may be well again.
    """
    if rollout.force or machine.lifecycle is not Lifecycle.PRESENT or is_down(machine):
        return None
    return draft.ledger.overdrawn(machine.id, system=rollout.system, priority=priority_of(rollout))
