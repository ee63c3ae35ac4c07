"""S1: the group's model reaches machines whose OS disk was made with another one.

Reads beside the sheet os-image §1 and §2.3 (`mode`); docs/adr/0022.  The model is what a new OS
disk is told at its first boot: custom data and scripts.  Its name is a digest of them, so who goes
back to an earlier model finds the machines that have it up to date.

How it reaches them is the group's mode:
- manual: with the next OS disk, whatever that is made for; a person can ask for one,
- rolling: in a rollout of its own, of the version that each machine runs, with the batches, gates,
  rollback and blame of a rollout to a new version, and only so: see core/new_disk.py,
- automatic: the same without its waits (pause, canary, checkpoints, ramp, approval, hooks).
A rollout to a new version goes first, and takes over between two batches.
"""

from upkeep.core.beginning import (
    ONE_AT_A_TIME,
    begin_by_hand,
    begin_by_itself,
    wanted_of,
    why_not_again,
)
from upkeep.core.draft import Draft
from upkeep.core.hold import HoldReason
from upkeep.core.model import Machine, System, UpgradeMode, Verb
from upkeep.core.policy import policy_without_waits
from upkeep.core.refusals import Refusal
from upkeep.core.snapshot import GROUPS_MODEL, OperatorCall
from upkeep.core.systems import os_image


def propose(draft: Draft) -> None:
    """Begin or explain: after this each machine that is behind is in a rollout or held."""
    model = draft.group.model
    behind = _behind(draft)
    running = draft.open_rollouts(System.OS_IMAGE)
    if behind and running:
        os_image.explain_outsiders(draft, running[0], {model: behind}, _why_not)
    elif behind and (refusal := _why_not(draft, model)) is not None:
        os_image.hold_all(draft, behind, refusal)
    elif behind:
        policy = draft.group.policy
        if draft.group.upgrade_mode is UpgradeMode.AUTOMATIC:
            policy = policy_without_waits(policy)
        begin_by_itself(draft, Verb.REIMAGE, model, behind, policy)
        os_image.explain(draft, behind)


def start_by_hand(draft: Draft, call: OperatorCall) -> str:
    """A person asks for a rollout now: to a version, of the model, or of whichever is needed, the
    version first.  Answers an empty string, or why it was refused.
    """
    if call.target == GROUPS_MODEL:
        refusal = f"no unprotected machine has another model than {draft.group.model}"
    else:
        refusal = os_image.start_by_hand(draft, call)
        if not refusal or call.target or os_image.needs_a_version(draft, call):
            return refusal
    if draft.open_rollouts(System.OS_IMAGE):
        return ONE_AT_A_TIME
    candidates = wanted_of(_behind(draft), set(call.machines))
    if not candidates:
        return refusal
    begin_by_hand(draft, Verb.REIMAGE, draft.group.model, candidates, call)
    return ""


def _behind(draft: Draft) -> list[Machine]:
    """In id order; of a machine whose model nobody knows it is not said that it is behind."""
    model = draft.group.model
    behind = [m for m in draft.present() if m.image and m.model and m.model != model]
    return sorted(behind, key=lambda machine: machine.id) if model else []


def _why_not(draft: Draft, model: str) -> Refusal | None:
    """Why no rollout of the model begins by itself in this group."""
    refusal = why_not_again(draft, model, HoldReason.MODEL_BAD)
    if draft.group.upgrade_mode is not UpgradeMode.MANUAL:
        return refusal
    if refusal is not None and refusal[0] is HoldReason.MODEL_BAD:
        return refusal
    text = "start a rollout by hand, or set the group's upgrade mode to rolling"
    return HoldReason.MODEL_BY_HAND, None, text
