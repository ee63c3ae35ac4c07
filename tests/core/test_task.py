"""The table of a task's moves, as a table: what is not here is illegal."""

import pytest

from upkeep.core.task import IN_HAND, NEXT, TERMINAL, IllegalTransition, Signal, TaskState, step

LEGAL = {
    "held": {"announce": "announced", "skip": "skipped", "cancel": "cancelled"},
    "announced": {
        "drain": "draining",
        "start": "running",
        "cancel": "cancelled",
        "withdraw": "held",
    },
    "draining": {"start": "running", "cancel": "cancelled"},
    "running": {"acted": "verifying", "fail": "failed", "cancel": "cancelled"},
    "verifying": {"seen_healthy": "baking", "fail": "failed", "cancel": "cancelled"},
    "baking": {"baked": "done", "fail": "failed", "cancel": "cancelled"},
    "done": {"roll_back": "rolling_back"},
    "failed": {"roll_back": "rolling_back"},
    "rolling_back": {"back": "rolled_back", "fail": "failed", "cancel": "cancelled"},
    "rolled_back": {},
    "skipped": {},
    "cancelled": {},
}


@pytest.mark.parametrize("state", list(TaskState))
@pytest.mark.parametrize("signal", list(Signal))
def test_every_pair_is_legal_or_refused(state: TaskState, signal: Signal) -> None:
    after = LEGAL[state].get(signal)
    if after is None:
        with pytest.raises(IllegalTransition, match=str(signal)):
            step(state, signal)
    else:
        assert step(state, signal) == after


def test_terminal_states_have_no_exit_but_a_rollback() -> None:
    for (state, signal), after in NEXT.items():
        if state in TERMINAL:
            assert (signal, after) == (Signal.ROLL_BACK, TaskState.ROLLING_BACK)


def test_every_state_is_reached_from_held_and_every_open_one_can_end() -> None:
    def reached(start: TaskState) -> set[TaskState]:
        found = {start}
        while more := {a for (s, _), a in NEXT.items() if s in found} - found:
            found |= more
        return found

    assert reached(TaskState.HELD) == set(TaskState)
    for state in TaskState:
        assert reached(state) & TERMINAL


def test_a_task_is_waiting_in_hand_or_ended() -> None:
    assert TERMINAL | IN_HAND | {TaskState.HELD, TaskState.BAKING} == set(TaskState)
    assert not TERMINAL & IN_HAND
