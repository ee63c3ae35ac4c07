"""Who is to blame: stories in which something else explains the failure, and some in which not."""

from dataclasses import replace
from datetime import timedelta

from tests.core.story import Story, a_group, machines_of, one_version_newer, reasons, share

from upkeep.core.hold import HoldReason
from upkeep.core.model import (
    Budget,
    BudgetId,
    GroupKind,
    Health,
    Machine,
    RolloutCode,
    RolloutState,
    Verb,
)
from upkeep.core.policy import RollingPolicy

MINUTE = timedelta(minutes=1)


def ill_on_newer(story: Story, *machines: str) -> Story:
    story.ill_on = {(machine, "1.0.1") for machine in machines}
    return story


def on_hosts(count: int, hosts: str) -> list[Machine]:
    """m0, m1, …, on the host that the letter at its place names."""
    return [replace(m, host=h) for m, h in zip(machines_of(count), hosts, strict=True)]


def test_a_rollout_that_has_upgraded_nobody_did_not_complete() -> None:
    story = one_version_newer(machines_of(1))
    story.ill_on = {("m0", "1.0.1"), ("m0", "1.0.0")}
    story.run(minutes=30)
    assert story.rollout().state is RolloutState.FAULTED
    assert story.rollout().code is RolloutCode.FAILED_MACHINES
    assert not story.rollout().guilty


def test_a_rollout_in_which_more_failed_than_were_done_did_not_complete() -> None:
    """They were ill before they were touched, so nobody is to blame; new machines get 1.0.0."""
    group = a_group(baked="1.0.0")
    policy = RollingPolicy(max_unhealthy_percent=100)
    story = one_version_newer(machines_of(5), group=group, policy=policy)
    story.budgets = (share(100),)
    story.ill_on = {(m, v) for m in ("m2", "m3", "m4") for v in ("1.0.0", "1.0.1")}
    for name in ("m2", "m3", "m4"):
        story.see(name, Health.UNHEALTHY)
    story.run(minutes=120)
    assert story.images()["m0"] == story.images()["m1"] == "1.0.1"
    assert story.rollout().state is RolloutState.FAULTED
    assert story.rollout().code is RolloutCode.FAILED_MACHINES
    assert not story.rollout().guilty
    assert story.group.baked == "1.0.0"


def test_who_falls_ill_during_its_notice_is_a_repair() -> None:
    policy = RollingPolicy(notice=10 * MINUTE)
    story = ill_on_newer(one_version_newer(machines_of(1), policy=policy), "m0")
    story.at(5, lambda: story.see("m0", Health.UNHEALTHY))
    story.run(minutes=30)
    assert story.task("m0").repair
    assert not story.rollout().guilty


def test_a_stand_in_testifies_though_the_old_machine_is_ill() -> None:
    group = a_group(kind=GroupKind.SCALE_SET, capacity=1, next_ordinal=1, baked="1.0.0")
    policy = RollingPolicy(max_surge=True)
    story = one_version_newer(machines_of(1), group=group, policy=policy)
    story.ill_on = {("web-1", "1.0.1")}
    story.at(1, lambda: story.see("m0", Health.UNHEALTHY))
    story.run(minutes=30)
    assert story.rollout().guilty


def test_the_control_group_counts_who_is_well_again_when_the_batch_is_judged() -> None:
    story = ill_on_newer(one_version_newer(machines_of(6)), "m0")
    for name in ("m1", "m2", "m3"):
        story.at(3, lambda name=name: story.see(name, Health.UNHEALTHY))
        story.at(6, lambda name=name: story.see(name, Health.HEALTHY))
    story.run(minutes=30)
    assert story.rollout().code is RolloutCode.UNHEALTHY_UPGRADED
    assert not story.rollout().guilty


def test_who_became_healthy_by_our_own_work_has_not_fallen_ill() -> None:
    story = ill_on_newer(one_version_newer(machines_of(6)), "m0")
    story.call(Verb.RESTART, "m1", "m2", "m3", "m4", "m5")
    story.budgets = (share(100),)
    story.run(minutes=30)
    assert story.sent(Verb.RESTART) == ["m1", "m2", "m3", "m4", "m5"]
    assert story.rollout(2).guilty


def test_its_neighbours_on_the_host_explain_a_failure() -> None:
    story = ill_on_newer(one_version_newer(on_hosts(5, "aabbc")), "m0")
    story.at(3, lambda: story.see("m1", Health.UNHEALTHY))
    story.run(minutes=30)
    assert story.task("m0").healed
    assert story.rollout().code is RolloutCode.UNHEALTHY_UPGRADED
    assert not story.rollout().guilty


def test_neighbours_that_stay_well_explain_nothing() -> None:
    story = ill_on_newer(one_version_newer(on_hosts(5, "aabbc")), "m0")
    story.at(3, lambda: story.see("m2", Health.UNHEALTHY))
    story.run(minutes=30)
    assert story.rollout().guilty


def test_the_rollback_after_the_verdict_can_exonerate_the_version() -> None:
    policy = RollingPolicy(auto_rollback=False, rollback_on_breach=True)
    story = one_version_newer(machines_of(5), policy=policy)
    story.ill_on = {("m0", "1.0.1"), ("m0", "1.0.0")}
    story.run(minutes=8)
    assert story.rollout().state is RolloutState.ROLLING_BACK
    assert story.rollout().guilty
    story.run_on(minutes=30)
    assert story.rollout().state is RolloutState.FAULTED
    assert not story.rollout().guilty
    assert "it is the machine" in story.rollout().evidence


def test_the_rollback_after_the_verdict_confirms_it_when_the_machine_is_well_again() -> None:
    policy = RollingPolicy(auto_rollback=False, rollback_on_breach=True)
    story = ill_on_newer(one_version_newer(machines_of(5), policy=policy), "m0")
    story.run(minutes=38)
    assert story.rollout().state is RolloutState.FAULTED
    assert story.rollout().guilty


def test_who_waits_to_go_back_is_held_by_what_it_waits_for() -> None:
    """A hold that names no budget would not be looked at again when the budget has a place."""
    story = ill_on_newer(one_version_newer(machines_of(10)), "m2", "m3")
    story.run(minutes=7)
    assert story.rollout().state is RolloutState.RUNNING
    story.budgets = (Budget(id=BudgetId("bu_group"), name="group", max_down=0, size={}),)
    story.run_on(minutes=20)
    story.publish("1.0.2")
    story.rest()
    assert story.rollout().state is RolloutState.ROLLING_BACK
    assert reasons(story)["m0"] == HoldReason.BUDGET_SPENT
    assert reasons(story)["m1"] == HoldReason.BUDGET_SPENT


def test_a_rollback_after_the_verdict_that_failed_half_way_shows_nothing() -> None:
    policy = RollingPolicy(auto_rollback=False, rollback_on_breach=True)
    story = ill_on_newer(one_version_newer(machines_of(5), policy=policy), "m0")
    story.refused[("m0", Verb.SWITCH_BACK)] = "no_space"
    story.refused[("m0", Verb.REPLACE_OS_DISK)] = ""
    story.run(minutes=38)
    assert story.rollout().state is RolloutState.FAULTED
    assert story.rollout().guilty


def test_a_lone_failure_whose_rollback_failed_halts_the_rollout_and_blames_nobody() -> None:
    story = ill_on_newer(one_version_newer(machines_of(3)), "m1")
    story.refused[("m1", Verb.SWITCH_BACK)] = "no_space"
    story.refused[("m1", Verb.REPLACE_OS_DISK)] = ""
    story.run(minutes=40)
    assert story.batches() == [["m0"], ["m1"]]
    assert story.rollout().state is RolloutState.FAULTED
    assert story.rollout().code is RolloutCode.UNHEALTHY_UPGRADED
    assert not story.rollout().guilty
    assert "the rollback failed" in story.rollout().evidence
    assert story.images()["m2"] == "1.0.0"


def test_among_enough_that_are_well_on_it_one_such_failure_does_not_halt() -> None:
    story = ill_on_newer(one_version_newer(machines_of(6)), "m5")
    story.refused[("m5", Verb.SWITCH_BACK)] = "no_space"
    story.refused[("m5", Verb.REPLACE_OS_DISK)] = ""
    story.run(minutes=60)
    assert story.rollout().state is RolloutState.COMPLETED
    assert story.rollout().code is RolloutCode.FAILED_MACHINES
