"""Lost domains, the four points of blame, and the half-open edges of windows and blackouts."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.core.story import START

from upkeep.core.blame import control_group_suffers, lost_domain, speaks_against_version
from upkeep.core.hold import HoldReason
from upkeep.core.model import Failure, MachineId, RolloutId, Task
from upkeep.core.snapshot import Domain, Interval
from upkeep.core.task import TaskState
from upkeep.core.window import time_refusal


def minute(number: float) -> timedelta:
    return timedelta(minutes=number)


def zone(size: int, *away: tuple[float, float | None]) -> Domain:
    """Machines that were lost so many minutes after START, and came back so many after it."""
    return Domain(
        kind="zone",
        name="a",
        size=size,
        away=tuple(
            (START + minute(lost), None if back is None else START + minute(back))
            for lost, back in away
        ),
    )


@pytest.mark.parametrize(
    ("domain", "now_min", "lost"),
    [
        (zone(6, (0, None), (0, None)), 1, False),  # Two are never a domain.
        (zone(6, (0, None), (0, None), (0, None)), 1, True),
        (zone(7, (0, None), (0, None), (0, None)), 1, False),  # Half of 7 is 4.
        (zone(3, (0, None), (1, None), (5, None)), 6, True),  # Exactly 5 minutes.
        (zone(3, (0, None), (1, None), (5.01, None)), 6, False),  # One after the other.
        (zone(6, (0, None), (90, None), (91, None), (92, None)), 93, True),
        (zone(6, (0, 5), (0, 5), (0, 5)), 14.9, True),  # Back, but not for ten minutes yet.
        (zone(6, (0, 5), (0, 5), (0, 5)), 15, False),
        (zone(6, (0, 5), (0, None), (0, None)), 14.9, True),
        (zone(6, (0, 5), (0, None), (0, None)), 15, False),
        (zone(6, (0, -5), (0, None), (0, None)), 3, True),  # Came back from an earlier loss.
        (zone(3, (0, 5), (0, None), (0, 7)), 8, True),  # Lost in one and the same moment.
    ],
)
def test_a_domain_is_lost_when_three_and_half_go_within_five_minutes(
    domain: Domain, now_min: float, lost: bool
) -> None:
    assert (lost_domain(domain, now=START + minute(now_min)) is not None) is lost


def test_a_lost_domain_says_when_work_goes_on() -> None:
    away = lost_domain(zone(6, (0, 5), (0, 7), (0, None)), now=START + minute(8))
    assert away is not None
    assert away.until == START + minute(15)  # With m1 back for ten minutes two are left.
    gone = lost_domain(zone(6, (0, None), (0, None), (0, None)), now=START + minute(8))
    assert gone is not None
    assert gone.until is None


FAILED = Task(
    rollout=RolloutId("ro_1"),
    machine=MachineId("m0"),
    state=TaskState.ROLLED_BACK,
    state_since=START,
    clock_from=START,
    failure=Failure.NOT_HEALTHY_IN_TIME,
    healed=True,
)


@pytest.mark.parametrize(
    ("task", "speaks"),
    [
        (FAILED, True),
        (replace(FAILED, repair=True), False),  # Point 1: it was ill before.
        (replace(FAILED, failure=Failure.PLATFORM), False),  # Point 2.
        (replace(FAILED, failure=Failure.NONE), False),
        (replace(FAILED, healed=False), False),  # Point 3: still ill on the version before.
        (replace(FAILED, state=TaskState.FAILED, attempt=1, healed=False), True),  # Left as it is.
        (
            replace(FAILED, state=TaskState.FAILED, attempt=2, healed=False),
            False,
        ),  # Stuck half-way.
        (replace(FAILED, failure=Failure.IMAGE_UNUSABLE), True),
    ],
)
def test_a_failure_speaks_against_the_version_unless_something_else_explains_it(
    task: Task, speaks: bool
) -> None:
    assert speaks_against_version(task) is speaks


@pytest.mark.parametrize(
    ("failed", "touched", "control_failed", "control", "suffers"),
    [
        (1, 1, 3, 5, True),
        (1, 1, 1, 5, False),
        (1, 1, 2, 4, True),  # Exactly half the rate.
        (2, 10, 1, 10, True),
        (4, 10, 1, 10, False),
        (1, 1, 2, 2, True),  # Of so few all must have fallen ill.
        (1, 1, 1, 2, False),
        (1, 1, 0, 0, False),  # Nobody to compare with.
        (0, 5, 5, 5, False),
    ],
)
def test_point_4_the_control_group(
    failed: int, touched: int, control_failed: int, control: int, suffers: bool
) -> None:
    assert (
        control_group_suffers(
            failed=failed, touched=touched, control_failed=control_failed, control=control
        )
        is suffers
    )


HOUR = Interval(opens=START, closes=START + minute(60), name="night")
NEXT_DAY = Interval(opens=START + timedelta(days=1), closes=START + timedelta(days=1, hours=1))
TEN = minute(10)


@pytest.mark.parametrize(
    ("now_min", "reason", "until"),
    [
        (-0.01, HoldReason.OUTSIDE_WINDOW, HOUR.opens),
        (0, None, None),
        (50, None, None),  # Just enough time is left.
        (50.01, HoldReason.WINDOW_TOO_SHORT, NEXT_DAY.opens),
        (59.99, HoldReason.WINDOW_TOO_SHORT, NEXT_DAY.opens),
        (60, HoldReason.OUTSIDE_WINDOW, NEXT_DAY.opens),
        (60 * 26, HoldReason.OUTSIDE_WINDOW, None),
    ],
)
def test_a_window_is_half_open(now_min: float, reason: object, until: object) -> None:
    answer = time_refusal([HOUR, NEXT_DAY], [], reserve=TEN, now=START + minute(now_min))
    assert (answer[:2] if answer else (None, None)) == (reason, until)


@pytest.mark.parametrize(
    ("now_min", "held"), [(-0.01, False), (0, True), (59.99, True), (60, False)]
)
def test_a_blackout_is_half_open(now_min: float, held: bool) -> None:
    answer = time_refusal(None, [HOUR], reserve=TEN, now=START + minute(now_min))
    assert (answer is not None) is held
    if answer:
        assert answer[:2] == (HoldReason.BLACKOUT, HOUR.closes)


def test_a_blackout_goes_before_an_open_window() -> None:
    answer = time_refusal([HOUR], [HOUR], reserve=TEN, now=START)
    assert answer is not None
    assert answer[0] is HoldReason.BLACKOUT


def test_no_window_set_is_any_time_and_none_coming_is_no_time() -> None:
    assert time_refusal(None, [], reserve=TEN, now=START) is None
    answer = time_refusal([], [], reserve=TEN, now=START)
    assert answer is not None
    assert answer[:2] == (HoldReason.OUTSIDE_WINDOW, None)
