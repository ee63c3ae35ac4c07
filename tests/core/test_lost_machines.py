"""Machines and zones that nobody reaches: down, left alone, and never the version's fault."""

from datetime import timedelta

from tests.core.story import Story, machines_of, one_version_newer, reasons, share

from upkeep.core.hold import HoldReason
from upkeep.core.model import Health, RolloutState, Verb
from upkeep.core.policy import RollingPolicy
from upkeep.core.task import TaskState

MINUTE = timedelta(minutes=1)


def test_a_machine_that_nobody_reaches_is_left_alone_and_taken_when_it_is_back() -> None:
    story = one_version_newer(machines_of(3))
    story.see("m2", Health.UNKNOWN)
    story.at(100, lambda: story.see("m2", Health.HEALTHY))
    story.run(minutes=90)
    assert story.sent(Verb.REPLACE_OS_DISK) == []  # It is down, and a third of the group.
    story.run(minutes=200)
    assert set(story.images().values()) == {"1.0.1"}


def test_an_unreachable_machine_does_not_keep_a_rollout_open() -> None:
    story = one_version_newer(machines_of(10))
    story.see("m9", Health.UNKNOWN)
    story.run(minutes=60)
    assert story.rollout().state is RolloutState.COMPLETED
    assert reasons(story) == {"m9": HoldReason.UNREACHABLE}


def lose_zone(story: Story, zone: str, *, seconds_apart: float = 0) -> None:
    there = [m.name for m in story.machines.values() if m.zone == zone]
    for number, name in enumerate(there):
        story.after(number * seconds_apart / 60, lambda name=name: story.see(name, Health.UNKNOWN))


def test_a_lost_zone_pauses_the_rollout_and_nobody_is_blamed() -> None:
    story = one_version_newer(machines_of(12, zones="ab"))
    story.at(3, lambda: lose_zone(story, "a"))
    story.run(minutes=40)
    assert set(reasons(story).values()) >= {HoldReason.DOMAIN_LOST}
    sent = len(story.sent(Verb.REPLACE_OS_DISK))
    for name in [m.name for m in story.machines.values() if m.zone == "a"]:
        story.see(name, Health.HEALTHY)
    story.rest()
    story.run(minutes=49.9)
    assert len(story.sent(Verb.REPLACE_OS_DISK)) == sent
    story.run(minutes=200)
    assert set(story.images().values()) == {"1.0.1"}
    assert story.rollout().state is RolloutState.COMPLETED
    assert story.sent(Verb.SWITCH_BACK) == []


def test_a_zone_whose_machines_go_one_by_one_rolls_nobody_back_in_their_bake_time() -> None:
    policy = RollingPolicy(max_batch_percent=50, max_unhealthy_percent=50, bake_time=60 * MINUTE)
    story = one_version_newer(machines_of(8, zones="a"), policy=policy, budgets=(share(50),))
    story.at(10, lambda: lose_zone(story, "a", seconds_apart=10))
    story.run(minutes=30)
    assert story.sent(Verb.SWITCH_BACK) == []
    assert {story.task(f"m{n}").state for n in range(4)} == {TaskState.BAKING}


def test_two_unknown_in_their_bake_time_are_no_lost_zone_and_go_back() -> None:
    policy = RollingPolicy(max_batch_percent=50, max_unhealthy_percent=50, bake_time=60 * MINUTE)
    story = one_version_newer(machines_of(8, zones="a"), policy=policy, budgets=(share(50),))
    story.at(10, lambda: story.see("m0", Health.UNKNOWN))
    story.at(10, lambda: story.see("m1", Health.UNKNOWN))
    story.run(minutes=14.9)
    assert story.sent(Verb.SWITCH_BACK) == []
    story.run(minutes=15)
    assert story.sent(Verb.SWITCH_BACK) == ["m0", "m1"]


def test_an_action_that_fails_in_a_lost_zone_is_judged_when_the_zone_is_back() -> None:
    story = one_version_newer(machines_of(8, zones="a"))
    story.action_takes = 5 * MINUTE
    story.refused[("m0", Verb.REPLACE_OS_DISK)] = "unreachable"
    story.at(1, lambda: [story.see(f"m{n}", Health.UNKNOWN) for n in range(1, 8)])
    story.run(minutes=30)
    assert story.task("m0").state is TaskState.RUNNING
    assert story.sent(Verb.SWITCH_BACK) == []


def test_a_machine_lost_during_its_notice_is_let_go() -> None:
    story = one_version_newer(machines_of(5), policy=RollingPolicy(notice=30 * MINUTE))
    story.at(10, lambda: story.see("m0", Health.UNKNOWN))
    story.run(minutes=35)
    assert story.task("m0").state is TaskState.CANCELLED
    assert story.sent(Verb.REPLACE_OS_DISK) == []
    assert story.hold("m0") is HoldReason.UNREACHABLE


def test_a_machine_lost_while_it_drains_is_let_go() -> None:
    story = one_version_newer(machines_of(5), policy=RollingPolicy(drain_timeout=3 * MINUTE))
    story.action_takes = 10 * MINUTE
    story.at(1, lambda: story.see("m0", Health.UNKNOWN))
    story.run(minutes=9)
    assert "m0" not in story.sent(Verb.REPLACE_OS_DISK)
