"""What a rollout asks at a lifecycle hook, and the answers.

lifecycle_hooks.py puts and closes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from upkeep.core.model import MachineId, RolloutId

# The question about a rollout's beginning is about no machine.
THE_GROUP = MachineId("")


class HookKind(StrEnum):
    START = "start"  # Azure: UpgradeAutoOSScheduling.
    BATCH = "batch"  # Azure: UpgradeAutoOSRollingBatchStarting.


class Answer(StrEnum):
    WAITING = "waiting"
    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class HookEvent:
    """A question that a rollout has put at one of its lifecycle hooks.

    Attributes:
        serial: counts the questions of the rollout.
        wait_until: silence is an answer from then on; people may move it.
        approves: what silence means.
        answers: by machine; the one question about the whole rollout has an empty id.
        closed: nothing changes any more; a plan closes it, after the last answer or in the end.
    """

    rollout: RolloutId
    serial: int
    kind: HookKind
    created_at: datetime
    wait_until: datetime
    approves: bool
    answers: Mapping[MachineId, Answer]
    closed: bool = False
