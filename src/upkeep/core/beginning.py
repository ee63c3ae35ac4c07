"""How a rollout that gives machines new OS disks begins, by itself or by hand.

To which version or of which model is decided in systems/os_image.py and systems/machine_model.py.

By itself none begins again of what was found guilty here, or of what a person cancelled, and after
another stop it is tried again after 1 h, 6 h, 24 h and daily, five times in all.  Source: sheet
os-image §13.2 [DEC], docs/adr/0006.
"""

from datetime import timedelta

from upkeep.core.draft import Draft
from upkeep.core.hold import HoldReason
from upkeep.core.model import (
    Health,
    Machine,
    MachineId,
    Rollout,
    RolloutCode,
    StartedBy,
    System,
    Verb,
)
from upkeep.core.policy import RollingPolicy, policy_by_hand
from upkeep.core.refusals import Refusal, otherwise, refusal_by_owner
from upkeep.core.snapshot import OperatorCall

ONE_AT_A_TIME = "a rollout is running: wait for it, or cancel it first"

RETRY_AFTER = (
    timedelta(hours=1),
    timedelta(hours=6),
    timedelta(hours=24),
    timedelta(hours=24),
    timedelta(hours=24),
)


def why_not_again(draft: Draft, target: str, bad: HoldReason) -> Refusal | None:
    """Why its earlier attempts keep a target from being tried by itself.

    Args:
        bad: the reason if it was found guilty.
    """
    attempts = [r for r in draft.ended_rollouts() if r.target == target and _was_attempt(r)]
    if not attempts:
        return None
    newest = max(attempts, key=lambda r: (r.ended_at or r.started_at, r.id))
    if any(r.guilty for r in attempts):
        text = f"{otherwise(newest)}, or restart the rollout of {newest.brings}: {newest.evidence}"
        return bad, None, text
    if newest.code is RolloutCode.OPERATOR_CANCELLED:
        text = f"its rollout {newest.id} was cancelled: restart it, or {otherwise(newest)}"
        return HoldReason.ROLLOUT_CANCELLED, None, text
    if len(attempts) > len(RETRY_AFTER):
        text = f"{len(attempts)} attempts stopped; put the cause right and restart the rollout"
        return HoldReason.RETRIES_SPENT, None, text
    again = (newest.ended_at or newest.started_at) + RETRY_AFTER[len(attempts) - 1]
    if draft.now < again:
        text = f"attempt {len(attempts)} stopped ({newest.code}); it is tried again by itself"
        return HoldReason.RETRY_LATER, again, text
    return None


def _was_attempt(rollout: Rollout) -> bool:
    """True for an ended rollout that leaves a reason not to begin another at once."""
    return (
        rollout.system is System.OS_IMAGE
        and rollout.code not in (RolloutCode.NONE, RolloutCode.SUPERSEDED)
        and rollout.code is not RolloutCode.IMAGE_EXCLUDED
    )


def why_not_machine(machine: Machine) -> Refusal | None:
    """Why one machine is left out when a rollout is frozen."""
    refusal = refusal_by_owner(machine)
    if refusal is None and machine.skip:
        text = "its application stops asking to be skipped"
        return HoldReason.SKIP_REQUESTED, None, text
    return refusal


def may_begin_with(machine: Machine) -> bool:
    """Whether a rollout begins for this machine's sake; one that is there takes others as well."""
    return machine.health is not Health.UNKNOWN and why_not_machine(machine) is None


def wanted_of(machines: list[Machine], wanted: set[MachineId]) -> list[Machine]:
    return [m for m in machines if not m.protected and (not wanted or m.id in wanted)]


def begin_by_itself(
    draft: Draft, verb: Verb, target: str, machines: list[Machine], policy: RollingPolicy
) -> None:
    """A rollout of those that it may take, if there is one for whose sake it begins."""
    if any(may_begin_with(machine) for machine in machines):
        candidates = [m for m in machines if why_not_machine(m) is None]
        _begin(draft, verb, target, candidates, policy, StartedBy.PLATFORM)


def begin_by_hand(
    draft: Draft, verb: Verb, target: str, candidates: list[Machine], call: OperatorCall
) -> None:
    policy = policy_by_hand(draft.group.policy, named=bool(call.machines))
    _begin(draft, verb, target, candidates, policy, StartedBy.USER, force=call.force)


def _begin(
    draft: Draft,
    verb: Verb,
    target: str,
    candidates: list[Machine],
    policy: RollingPolicy,
    started_by: StartedBy,
    *,
    force: bool = False,
) -> None:
    """Freeze target, candidates and policy into a new rollout."""
    rollout = draft.begin_rollout(
        System.OS_IMAGE,
        verb,
        candidates,
        target=target,
        policy=policy,
        size=len(draft.present()),
        started_by=started_by,
        force=force,
    )
    what = f"of {rollout.brings}" if rollout.is_of_model else f"to {target}"
    draft.tell(f"rollout {rollout.id} {what} begins: {len(candidates)} machines")
