"""One task's states and legal moves, as a table.

A task is one machine in one rollout.  Every move in the product goes through `step`; a move that
is not in `NEXT` raises `IllegalTransition`, which halts that rollout and nothing else.  The
diagram in docs/task-states.md is generated from this table.
"""

from collections.abc import Mapping
from enum import StrEnum


class IllegalTransition(Exception):
    """Our own mistake: a move that the table does not have."""


class TaskState(StrEnum):
    HELD = "held"  # Waiting; a hold says why.
    ANNOUNCED = "announced"  # Claims taken, notice running.
    DRAINING = "draining"  # The machine moves its work away.
    RUNNING = "running"  # The action is on its way or under way.
    VERIFYING = "verifying"  # Done; not yet seen healthy.
    BAKING = "baking"  # Healthy; must stay so for the bake time.
    DONE = "done"  # At the target and well.
    FAILED = "failed"  # Not well, and left as it is.
    ROLLING_BACK = "rolling_back"  # Going back to the previous OS disk.
    ROLLED_BACK = "rolled_back"  # Back on the previous version.
    SKIPPED = "skipped"  # Nothing to do, or asked to be left out.
    CANCELLED = "cancelled"  # Never started, or the machine was deleted.


class Signal(StrEnum):
    ANNOUNCE = "announce"
    WITHDRAW = "withdraw"
    DRAIN = "drain"
    START = "start"
    ACTED = "acted"
    SEEN_HEALTHY = "seen_healthy"
    BAKED = "baked"
    FAIL = "fail"
    ROLL_BACK = "roll_back"
    BACK = "back"
    SKIP = "skip"
    CANCEL = "cancel"


_S = TaskState

NEXT: Mapping[tuple[TaskState, Signal], TaskState] = {
    (_S.HELD, Signal.ANNOUNCE): _S.ANNOUNCED,
    (_S.HELD, Signal.SKIP): _S.SKIPPED,
    (_S.HELD, Signal.CANCEL): _S.CANCELLED,
    (_S.ANNOUNCED, Signal.DRAIN): _S.DRAINING,
    (_S.ANNOUNCED, Signal.START): _S.RUNNING,
    (_S.ANNOUNCED, Signal.CANCEL): _S.CANCELLED,
    (_S.ANNOUNCED, Signal.WITHDRAW): _S.HELD,  # Its place in a budget is no longer sure.
    (_S.DRAINING, Signal.START): _S.RUNNING,
    (_S.DRAINING, Signal.CANCEL): _S.CANCELLED,
    (_S.RUNNING, Signal.ACTED): _S.VERIFYING,
    (_S.RUNNING, Signal.FAIL): _S.FAILED,
    (_S.RUNNING, Signal.CANCEL): _S.CANCELLED,
    (_S.VERIFYING, Signal.SEEN_HEALTHY): _S.BAKING,
    (_S.VERIFYING, Signal.FAIL): _S.FAILED,
    (_S.VERIFYING, Signal.CANCEL): _S.CANCELLED,
    (_S.BAKING, Signal.BAKED): _S.DONE,
    (_S.BAKING, Signal.FAIL): _S.FAILED,
    (_S.BAKING, Signal.CANCEL): _S.CANCELLED,
    (_S.FAILED, Signal.ROLL_BACK): _S.ROLLING_BACK,
    (_S.DONE, Signal.ROLL_BACK): _S.ROLLING_BACK,  # The version was found guilty later.
    (_S.ROLLING_BACK, Signal.BACK): _S.ROLLED_BACK,
    (_S.ROLLING_BACK, Signal.FAIL): _S.FAILED,
    (_S.ROLLING_BACK, Signal.CANCEL): _S.CANCELLED,
}

# From these a deleted machine is the only reason to move, and then only out of the count of
# what is open; DONE and FAILED may still be rolled back.
TERMINAL = frozenset({_S.DONE, _S.FAILED, _S.ROLLED_BACK, _S.SKIPPED, _S.CANCELLED})

# The machine is, or may be at any moment, down by our doing.
IN_HAND = frozenset({_S.ANNOUNCED, _S.DRAINING, _S.RUNNING, _S.VERIFYING, _S.ROLLING_BACK})


def step(state: TaskState, signal: Signal) -> TaskState:
    """The state after `signal`.

    Raises:
        IllegalTransition: the table has no such move.
    """
    after = NEXT.get((state, signal))
    if after is None:
        raise IllegalTransition(f"a task cannot {signal} while it is {state}")
    return after
