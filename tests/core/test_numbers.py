"""The numbers of the sheet os-image §10 that belong to the engine of batches and gates."""

from datetime import timedelta

import pytest

from upkeep.core.beginning import RETRY_AFTER
from upkeep.core.policy import RollingPolicy, policy_errors, share_of, time_needed
from upkeep.core.verdict import exceeds


@pytest.mark.parametrize(
    ("percent", "size", "batch"),
    [
        (20, 1, 1),
        (20, 5, 1),
        (20, 9, 1),
        (20, 10, 2),
        (20, 14, 2),
        (20, 100, 20),
        (5, 1, 1),
        (5, 19, 1),
        (5, 40, 2),
        (100, 7, 7),
        (50, 5_000, 2_500),
    ],
)
@pytest.mark.number("os-image", "batch share")
@pytest.mark.number("os-image", "batch sizes")
def test_a_batch_is_rounded_down_and_never_empty(percent: int, size: int, batch: int) -> None:
    assert share_of(percent, size=size) == batch


@pytest.mark.parametrize(
    ("count", "percent", "of", "too_many"),
    [
        (2, 20, 10, False),
        (3, 20, 10, True),
        (1, 20, 5, False),
        (1, 20, 4, True),
        (0, 0, 10, False),
        (1, 0, 5_000, True),
        (10, 100, 10, False),
        (33, 33, 100, False),
        (34, 33, 100, True),
        (0, 20, 0, False),
    ],
)
@pytest.mark.number("os-image", "strict threshold")
def test_thresholds_are_strict(count: int, percent: int, of: int, too_many: bool) -> None:
    assert exceeds(count, percent, of=of) is too_many


@pytest.mark.number("os-image", "defaults")
@pytest.mark.number("os-image", "health wait")
def test_the_defaults_of_a_policy_are_those_of_the_sheet() -> None:
    policy = RollingPolicy()
    assert (
        policy.max_batch_percent,
        policy.max_unhealthy_percent,
        policy.max_unhealthy_upgraded_percent,
    ) == (20, 20, 20)
    assert policy.pause_between_batches == timedelta(0)
    assert policy.health_wait == timedelta(minutes=5)
    assert policy.auto_rollback
    assert not policy.max_surge
    assert not policy.cross_zone
    assert policy_errors(policy) == []


@pytest.mark.parametrize(
    ("policy", "wrong"),
    [
        (RollingPolicy(max_batch_percent=4), ["max_batch_percent"]),
        (RollingPolicy(max_batch_percent=5), []),
        (RollingPolicy(max_batch_percent=100, max_unhealthy_percent=100), []),
        (
            RollingPolicy(max_batch_percent=101, max_unhealthy_percent=100),
            ["max_batch_percent", "max_batch_percent"],
        ),
        (RollingPolicy(max_batch_percent=21, max_unhealthy_percent=20), ["max_batch_percent"]),
        (RollingPolicy(max_batch_percent=20, max_unhealthy_percent=20), []),
        (
            RollingPolicy(max_batch_percent=5, max_unhealthy_percent=4),
            ["max_unhealthy_percent", "max_batch_percent"],
        ),
        (RollingPolicy(max_unhealthy_upgraded_percent=0), []),
        (RollingPolicy(max_unhealthy_upgraded_percent=100), []),
        (RollingPolicy(max_unhealthy_upgraded_percent=-1), ["max_unhealthy_upgraded_percent"]),
        (RollingPolicy(max_unhealthy_upgraded_percent=101), ["max_unhealthy_upgraded_percent"]),
        (RollingPolicy(health_wait=timedelta(0)), ["health_wait"]),
        (RollingPolicy(health_wait=timedelta(hours=4, seconds=1)), ["health_wait"]),
        (RollingPolicy(pause_between_batches=timedelta(seconds=-1)), ["pause_between_batches"]),
        (RollingPolicy(bake_time=timedelta(days=2)), []),
        (RollingPolicy(notice=timedelta(days=8)), ["notice"]),
    ],
)
@pytest.mark.number("os-image", "batch range")
@pytest.mark.number("os-image", "unhealthy range")
@pytest.mark.number("os-image", "unhealthy-upgraded range")
@pytest.mark.number("os-image", "cross rule")
def test_a_policy_out_of_range_is_refused_with_what_to_set(
    policy: RollingPolicy, wrong: list[str]
) -> None:
    assert [error.split(" ")[0] for error in policy_errors(policy)] == wrong


def test_a_window_must_leave_time_to_drain_to_be_healthy_and_to_go_back() -> None:
    assert time_needed(RollingPolicy()) == timedelta(minutes=10)
    assert time_needed(RollingPolicy(drain_timeout=timedelta(minutes=3))) == timedelta(minutes=13)


def test_an_attempt_that_stopped_is_tried_again_five_times() -> None:
    hours = [wait.total_seconds() / 3600 for wait in RETRY_AFTER]
    assert hours == [1, 6, 24, 24, 24]
