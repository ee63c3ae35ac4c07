"""How many machines a rollout may have begun by now: its canary, its checkpoints, its ramp.

Each is a ceiling over the machines that have been given the version so far; the lowest one holds,
and a batch is cut there.  Budgets, windows and gates are asked besides, never instead.

- *Canary*: so many, until somebody promotes the rollout.
- *Checkpoint*: once that share has it and its last batch is closed, nobody else gets it for
  `checkpoint_bake`.  The gate before the next batch then sees whoever fell ill meanwhile.
- *Ramp*: evenly over its length, counted from when work on the first machine began; one at once.

Source: sheet os-image §12 (Google MIG: canary; AWS instance refresh: checkpoints; Fedora Zincati:
ramp); docs/adr/0018, 0019.
"""

from collections.abc import Iterator

from upkeep.core.draft import Draft
from upkeep.core.hold import HoldReason
from upkeep.core.model import Rollout
from upkeep.core.policy import share_of
from upkeep.core.refusals import Refusal, otherwise
from upkeep.core.task import TaskState


def places(draft: Draft, rollout: Rollout) -> tuple[int, Refusal | None]:
    """How many more may begin now, and if that is none, why and until when."""
    # Who was dropped or left before it had the version shows nothing, and gives its place back.
    begun = sum(
        1
        for task in draft.tasks_of(rollout)
        if task.batch > 0 and task.state is not TaskState.CANCELLED
    )
    lowest, why = len(draft.tasks_of(rollout)), None
    for ceiling, refusal in _ceilings(draft, rollout, begun):
        if ceiling < lowest:
            lowest, why = ceiling, refusal
    return max(0, lowest - begun), why if begun >= lowest else None


def _ceilings(draft: Draft, rollout: Rollout, begun: int) -> Iterator[tuple[int, Refusal]]:
    policy, size, now = rollout.policy, rollout.size, draft.now
    if policy.canary_percent and not rollout.promoted:
        text = f"promote it: upkeep rollout promote {rollout.id}, or {otherwise(rollout)}"
        yield share_of(policy.canary_percent, size=size), (HoldReason.CANARY, None, text)
    for percent in policy.checkpoints:
        ceiling = share_of(percent, size=size)
        until = (rollout.batch_closed_at or now) + policy.checkpoint_bake
        if begun < ceiling or (begun == ceiling and now < until):
            text = f"{ceiling} of {size} machines have it: the rest at {percent} % ends"
            yield ceiling, (HoldReason.CHECKPOINT, until, text)
    begun_at = rollout.begun_at or now
    if policy.ramp and (elapsed := now - begun_at) < policy.ramp:
        ceiling = max(1, size * elapsed // policy.ramp)
        # Rounded up: at that moment, and not before it, the next machine is there.
        until = begun_at - (-policy.ramp * (ceiling + 1)) // size
        text = f"its turn comes: {ceiling} of {size} machines may have it by now"
        yield ceiling, (HoldReason.RAMP, until, text)
