"""A canary: the first machines get the version, and nobody else until it is promoted.

Source: sheet os-image §12 (Google MIG); docs/adr/0018.
"""

from dataclasses import replace
from typing import Any

import pytest
from tests.core.story import Story, a_group, machines_of, one_version_newer, reasons, share

from upkeep.core.hold import HoldReason
from upkeep.core.model import RolloutCode, RolloutState, Verb
from upkeep.core.policy import RollingPolicy, policy_errors


def with_canary(size: int, percent: int, **policy: Any) -> Story:
    wanted = RollingPolicy(canary_percent=percent, **policy)
    return one_version_newer(machines_of(size), policy=wanted, budgets=(share(50),))


def promote(story: Story, number: int = 1) -> None:
    rollout = story.rollout(number)
    story.rollouts[rollout.id] = replace(rollout, promoted=True)


@pytest.mark.parametrize(
    ("size", "percent", "canary"), [(4, 1, 1), (10, 10, 1), (10, 20, 2), (10, 50, 5), (1, 50, 1)]
)
def test_so_many_get_the_version_and_the_others_wait(size: int, percent: int, canary: int) -> None:
    story = with_canary(size, percent).run(minutes=600)
    assert len(story.sent(Verb.REPLACE_OS_DISK)) == canary
    waiting = [m for m, image in story.images().items() if image == "1.0.0"]
    assert reasons(story) == dict.fromkeys(waiting, HoldReason.CANARY)
    assert story.claims == []


def test_a_batch_that_would_pass_the_canary_is_cut_there() -> None:
    story = with_canary(10, 30).run(minutes=60)
    assert [len(batch) for batch in story.batches()] == [2, 1]


def test_promoted_it_goes_on_to_its_end() -> None:
    story = with_canary(6, 20)
    story.at(60, lambda: promote(story))
    story.run(minutes=120)
    assert story.rollout().state is RolloutState.COMPLETED
    assert set(story.images().values()) == {"1.0.1"}


def test_a_bad_version_halts_at_its_canary() -> None:
    story = with_canary(6, 20)
    story.ill_on = {(machine.name, "1.0.1") for machine in story.machines.values()}
    story.run(minutes=120)
    assert (story.rollout().state, story.rollout().guilty) == (RolloutState.FAULTED, True)
    assert len(story.sent(Verb.REPLACE_OS_DISK)) == 1


def test_a_newer_version_begins_with_a_canary_of_its_own() -> None:
    story = with_canary(6, 20)
    story.at(60, lambda: story.publish("1.0.2"))
    story.run(minutes=120)
    assert story.rollout().code is RolloutCode.SUPERSEDED
    assert sorted(story.images().values()) == ["1.0.0"] * 5 + ["1.0.2"]


def test_a_rollout_that_a_person_starts_has_no_canary() -> None:
    policy = RollingPolicy(canary_percent=20)
    story = one_version_newer(machines_of(3), group=a_group(auto_upgrade=False, policy=policy))
    story.call(Verb.REPLACE_OS_DISK)
    story.run(minutes=60)
    assert story.rollout().state is RolloutState.COMPLETED


def test_a_canary_is_a_part_of_the_group() -> None:
    assert "canary_percent is 100; set 0 to 99" in policy_errors(RollingPolicy(canary_percent=100))
