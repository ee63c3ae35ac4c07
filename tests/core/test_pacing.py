"""Checkpoints and ramps: how many of a rollout may have the version by when.

Source: sheet os-image §12 (AWS instance refresh, Fedora Zincati); docs/adr/0019.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.core.story import Story, a_group, machines_of, one_version_newer, reasons, share

from upkeep.core.hold import HoldReason
from upkeep.core.model import Health, RolloutCode, RolloutState, Verb
from upkeep.core.policy import RollingPolicy, policy_errors

HOUR = timedelta(hours=1)


def paced(size: int, **policy: Any) -> Story:
    wanted = RollingPolicy(**policy)
    return one_version_newer(machines_of(size), policy=wanted, budgets=(share(50),))


def begun(story: Story) -> int:
    return len(story.sent(Verb.REPLACE_OS_DISK))


def test_a_rollout_rests_at_each_checkpoint_and_goes_on_by_itself() -> None:
    story = paced(10, checkpoints=(20, 50), checkpoint_bake=2 * HOUR)
    story.run(minutes=100)
    assert begun(story) == 2
    waiting = [m for m, image in story.images().items() if image == "1.0.0"]
    assert reasons(story) == dict.fromkeys(waiting, HoldReason.CHECKPOINT)
    until = story.rollout().batch_closed_at
    assert until is not None
    assert {hold.until for hold in story.holds} == {until + 2 * HOUR}
    story.run_on(minutes=60)
    assert begun(story) == 5
    story.run_on(minutes=240)
    assert story.rollout().state is RolloutState.COMPLETED


def test_a_batch_is_cut_at_the_checkpoint() -> None:
    story = paced(10, max_batch_percent=20, checkpoints=(30,)).run(minutes=60)
    assert [len(batch) for batch in story.batches()] == [2, 1]


def test_whoever_falls_ill_during_the_rest_stops_the_rollout() -> None:
    story = paced(10, checkpoints=(30,), checkpoint_bake=2 * HOUR)

    def new_ones_fall_ill() -> None:
        for machine in [m for m in story.machines.values() if m.image == "1.0.1"]:
            story.see(machine.id, Health.UNHEALTHY)

    story.at(60, new_ones_fall_ill)
    story.run(minutes=300)
    assert story.rollout().code is RolloutCode.UNHEALTHY_DURING
    assert begun(story) == 3


@pytest.mark.parametrize(
    ("after_minutes", "share_begun"), [(5, 1), (59, 1), (130, 2), (250, 4), (310, 5), (700, 10)]
)
def test_a_ramp_begins_its_machines_evenly(after_minutes: int, share_begun: int) -> None:
    story = paced(10, max_batch_percent=20, ramp=10 * HOUR).run(minutes=after_minutes)
    assert begun(story) == share_begun


def test_who_waits_for_the_ramp_is_told_until_when() -> None:
    story = paced(10, ramp=10 * HOUR).run(minutes=150)
    assert set(reasons(story).values()) == {HoldReason.RAMP}
    assert {hold.until for hold in story.holds} == {story.rollout().started_at + 3 * HOUR}


def test_the_moment_of_the_next_machine_is_rounded_up_and_true() -> None:
    story = paced(7, max_batch_percent=20, ramp=timedelta(hours=1, microseconds=1))
    story.run(minutes=30)
    (until,) = {hold.until for hold in story.holds}
    assert until is not None
    started = story.rollout().started_at
    assert 7 * (until - started) // story.rollout().policy.ramp == begun(story) + 1
    just_before = until - timedelta(microseconds=1) - started
    assert 7 * just_before // story.rollout().policy.ramp == begun(story)


def test_canary_checkpoint_and_ramp_hold_together_and_the_lowest_is_named() -> None:
    def promote() -> None:
        story.rollouts[story.rollout().id] = replace(story.rollout(), promoted=True)

    story = paced(10, canary_percent=10, checkpoints=(20,), ramp=HOUR)
    story.at(120, promote)
    story.run(minutes=119)
    assert (begun(story), set(reasons(story).values())) == (1, {HoldReason.CANARY})
    story.run_on(minutes=30)
    assert (begun(story), set(reasons(story).values())) == (2, {HoldReason.CHECKPOINT})


@pytest.mark.parametrize("size", [1, 2])
def test_a_small_group_comes_to_its_end(size: int) -> None:
    story = paced(size, checkpoints=(1, 50, 99), checkpoint_bake=HOUR, ramp=2 * HOUR)
    story.run(minutes=600)
    assert story.rollout().state is RolloutState.COMPLETED


def test_a_rollout_by_hand_keeps_the_pace_and_named_machines_do_not() -> None:
    policy = RollingPolicy(checkpoints=(20,))
    story = one_version_newer(machines_of(10), group=a_group(auto_upgrade=False, policy=policy))
    story.call(Verb.REPLACE_OS_DISK)
    story.run(minutes=40)
    assert begun(story) == 2
    story = one_version_newer(machines_of(10), group=a_group(auto_upgrade=False, policy=policy))
    story.call(Verb.REPLACE_OS_DISK, *sorted(story.machines)[:4])
    story.run(minutes=40)
    assert begun(story) == 4


@pytest.mark.parametrize(
    ("policy", "wrong"),
    [
        ({"checkpoints": (0, 50)}, "checkpoints are 0, 50; set each to 1 to 99"),
        ({"checkpoints": (50, 100)}, "checkpoints are 50, 100; set each to 1 to 99"),
        (
            {"checkpoints": (50, 20)},
            "checkpoints are 50, 20; write them in ascending order, each once",
        ),
        ({"checkpoints": (20, 20)}, "checkpoints are 20, 20; write them in ascending order"),
        ({"checkpoint_bake": timedelta(days=3)}, "checkpoint_bake is 3 days"),
        ({"ramp": timedelta(days=31)}, "ramp is 31 days"),
    ],
)
def test_a_pace_that_is_none_is_refused(policy: dict[str, Any], wrong: str) -> None:
    (error,) = policy_errors(RollingPolicy(**policy))
    assert error.startswith(wrong)
