"""Deferral: a rollout that begins by itself takes a machine only once somebody has said so.

Source: sheet os-image §2.6 #3, §2.3 (`osRollingUpgradeDeferral`); docs/adr/0015.
"""

from dataclasses import replace
from datetime import timedelta

from tests.core.story import a_group, machines_of, one_version_newer, reasons

from upkeep.core.hold import HoldReason
from upkeep.core.model import GroupKind, Health, RolloutState, Verb
from upkeep.core.policy import RollingPolicy
from upkeep.core.task import TaskState

DEFERRED = RollingPolicy(needs_approval=True)


def test_nobody_is_taken_unasked_and_each_machine_says_what_it_waits_for() -> None:
    story = one_version_newer(machines_of(3), policy=DEFERRED).run(minutes=600)
    assert story.sent(Verb.REPLACE_OS_DISK) == []
    assert set(reasons(story).values()) == {HoldReason.NEEDS_APPROVAL}
    assert "upkeep rollout approve ro_g_1" in story.holds[0].lifted_by
    assert (story.rollout().state, story.claims) == (RolloutState.RUNNING, [])


def test_the_approved_are_taken_batch_by_batch_and_the_others_wait_on() -> None:
    story = one_version_newer(machines_of(4), policy=DEFERRED)
    story.at(10, lambda: story.approve("m1", "m3"))
    story.run(minutes=60)
    assert story.batches() == [["m1"], ["m3"]]
    assert reasons(story) == dict.fromkeys(("m0", "m2"), HoldReason.NEEDS_APPROVAL)
    story.at(70, story.approve)
    story.run_on(minutes=60)
    assert story.batches() == [["m1"], ["m3"], ["m0"], ["m2"]]
    assert story.rollout().state is RolloutState.COMPLETED


def test_what_keeps_a_machine_besides_is_said_first() -> None:
    """An approval would not help one that nobody reaches."""
    story = one_version_newer(machines_of(3), policy=DEFERRED)
    story.at(10, lambda: story.see("m2", Health.UNKNOWN))
    story.run(minutes=30)
    assert story.hold("m2") is HoldReason.UNREACHABLE
    assert story.hold("m0") is HoldReason.NEEDS_APPROVAL


def test_work_that_is_withdrawn_keeps_its_approval() -> None:
    policy = replace(DEFERRED, notice=timedelta(minutes=30))
    story = one_version_newer(machines_of(5), policy=policy)
    story.at(1, lambda: story.approve("m0"))
    story.at(10, lambda: story.see("m3", Health.UNKNOWN))
    story.at(50, lambda: story.see("m3", Health.HEALTHY))
    story.run(minutes=32)
    assert (story.task("m0").state, story.hold("m0")) == (TaskState.HELD, HoldReason.BUDGET_SPENT)
    story.run_on(minutes=60)
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m0"]


def test_a_newer_version_is_asked_for_anew() -> None:
    story = one_version_newer(machines_of(2), policy=DEFERRED)
    story.at(10, lambda: story.approve("m0"))
    story.at(20, lambda: story.publish("1.0.2"))
    story.run(minutes=60)
    assert story.task("m0", number=2).approved is False
    assert story.hold("m0") is HoldReason.NEEDS_APPROVAL


def test_who_starts_a_rollout_has_approved_it() -> None:
    by_hand = a_group(auto_upgrade=False, policy=DEFERRED)
    story = one_version_newer(machines_of(2), group=by_hand)
    story.call(Verb.REPLACE_OS_DISK)
    story.run(minutes=60)
    assert story.rollout().state is RolloutState.COMPLETED


def test_other_work_needs_no_approval() -> None:
    story = one_version_newer(machines_of(3), policy=DEFERRED)
    story.at(10, lambda: story.call(Verb.RESTART, "m1") and None)
    story.run(minutes=30)
    assert story.sent(Verb.RESTART) == ["m1"]
    assert story.hold("m1") is HoldReason.NEEDS_APPROVAL


def test_going_back_from_a_guilty_version_needs_no_approval() -> None:
    story = one_version_newer(machines_of(6), policy=DEFERRED)
    story.ill_on = {(machine.name, "1.0.1") for machine in story.machines.values()}
    story.at(1, lambda: story.approve("m0"))
    story.run(minutes=120)
    assert (story.rollout().state, story.rollout().guilty) == (RolloutState.FAULTED, True)
    assert set(story.images().values()) == {"1.0.0"}


def test_surge_makes_no_machine_for_one_that_is_not_approved() -> None:
    surging = a_group(
        kind=GroupKind.SCALE_SET, capacity=4, policy=replace(DEFERRED, max_surge=True)
    )
    story = one_version_newer(machines_of(4), group=surging)
    story.run(minutes=60)
    assert story.sent(Verb.CREATE) == []
