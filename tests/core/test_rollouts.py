"""Rollouts of an image as stories: what happens to a group, told in a few literal lines."""

from datetime import timedelta

import pytest
from tests.core.story import START, Story, a_group, machines_of, one_version_newer, reasons, share

from upkeep.core.hold import HoldReason
from upkeep.core.model import Failure, Health, Outcome, RolloutCode, RolloutState, Verb
from upkeep.core.policy import RollingPolicy
from upkeep.core.snapshot import Action, Interval
from upkeep.core.task import TaskState
from upkeep.core.version import ReplicationState

MINUTE = timedelta(minutes=1)


def all_ill_on(story: Story, version: str) -> Story:
    story.ill_on = {(machine.name, version) for machine in story.machines.values()}
    return story


# Batches.


@pytest.mark.parametrize(
    ("size", "batches"), [(1, [1]), (2, [1, 1]), (5, [1] * 5), (10, [2] * 5), (14, [2] * 7)]
)
def test_a_group_is_rolled_at_20_percent_with_one_plan_per_cause(
    size: int, batches: list[int]
) -> None:
    story = one_version_newer(machines_of(size)).run(minutes=60)
    assert [len(batch) for batch in story.batches()] == batches
    assert set(story.images().values()) == {"1.0.1"}
    assert story.rollout().state is RolloutState.COMPLETED
    assert (story.claims, story.holds) == ([], ())
    assert story.group.baked == "1.0.1"


def test_a_policy_that_does_not_govern_automatic_rollouts_leaves_them_the_defaults() -> None:
    """Source: sheet os-image §2.3, useRollingUpgradePolicy; a person's own goes by the policy."""
    own = RollingPolicy(
        max_batch_percent=10,
        max_unhealthy_percent=30,
        bake_time=MINUTE,
        governs_automatic=False,
    )
    story = one_version_newer(machines_of(20), policy=own, budgets=(share(50),)).run(minutes=90)
    assert [len(batch) for batch in story.batches()] == [4] * 5
    frozen = story.rollout().policy
    assert (frozen.max_unhealthy_percent, frozen.bake_time) == (20, MINUTE)


def test_5000_machines_are_rolled_in_five_batches() -> None:
    story = one_version_newer(machines_of(5_000)).run(minutes=60)
    assert [len(batch) for batch in story.batches()] == [1_000] * 5
    assert story.rollout().state is RolloutState.COMPLETED


def test_a_batch_stays_in_one_zone_and_one_update_domain() -> None:
    machines = machines_of(12, zones="ab", update_domains=2)
    policy = RollingPolicy(max_batch_percent=50, max_unhealthy_percent=50)
    story = one_version_newer(machines, policy=policy, budgets=(share(50),)).run(minutes=60)
    for batch in story.batches():
        assert len({(story.machines[m].zone, story.machines[m].update_domain) for m in batch}) == 1
    assert [story.machines[batch[0]].zone for batch in story.batches()] == ["a", "a", "b", "b"]


def test_crossing_zones_is_a_choice() -> None:
    policy = RollingPolicy(max_batch_percent=50, max_unhealthy_percent=50, cross_zone=True)
    story = one_version_newer(machines_of(4, zones="ab"), policy=policy, budgets=(share(50),))
    assert story.run(minutes=60).batches() == [["m0", "m2"], ["m1", "m3"]]


@pytest.mark.number("os-image", "phases")
def test_a_phase_is_finished_before_the_next_begins() -> None:
    story = one_version_newer(machines_of(4))
    story.change("m3", phase=0)
    story.change("m2", phase=1)
    assert story.run(minutes=60).batches() == [["m3"], ["m2"], ["m0"], ["m1"]]


def test_the_pause_between_batches_is_kept() -> None:
    story = one_version_newer(
        machines_of(2), policy=RollingPolicy(pause_between_batches=30 * MINUTE)
    ).run(minutes=10)
    assert reasons(story) == {"m1": HoldReason.PAUSE_BETWEEN_BATCHES}
    assert story.holds[0].until == START + 32 * MINUTE  # The batch ended after two minutes.
    assert story.run(minutes=40).rollout().state is RolloutState.COMPLETED


def test_a_budget_smaller_than_a_batch_wins() -> None:
    policy = RollingPolicy(max_batch_percent=50, max_unhealthy_percent=50)
    story = one_version_newer(machines_of(10), policy=policy, budgets=(share(50), share(20, "db")))
    assert [len(batch) for batch in story.run(minutes=60).batches()] == [2] * 5


# Health, bake, rollback.


@pytest.mark.number("os-image", "health wait")
def test_a_machine_that_is_not_healthy_in_five_minutes_goes_back() -> None:
    story = all_ill_on(one_version_newer(machines_of(6)), "1.0.1")
    story.run(minutes=5.9)  # One minute of work, five of waiting.
    assert story.task("m0").state is TaskState.VERIFYING
    story.run(minutes=9)
    assert story.images()["m0"] == "1.0.0"
    assert story.task("m0").failure is Failure.NOT_HEALTHY_IN_TIME
    assert story.task("m0").healed


def test_the_health_wait_counts_from_the_end_of_the_action() -> None:
    story = all_ill_on(one_version_newer(machines_of(6)), "1.0.1")
    story.action_takes = 10 * MINUTE
    story.run(minutes=14.9)
    assert story.task("m0").state is TaskState.VERIFYING
    story.run(minutes=15)
    assert story.task("m0").state is TaskState.ROLLING_BACK


def test_a_bad_version_halts_after_the_first_batch_and_is_not_tried_again() -> None:
    story = all_ill_on(one_version_newer(machines_of(20)), "1.0.1").run(minutes=60 * 24 * 10)
    rollout = story.rollout()
    assert (rollout.state, rollout.guilty) == (RolloutState.FAULTED, True)
    assert rollout.code is RolloutCode.UNHEALTHY_UPGRADED
    assert len(story.sent(Verb.REPLACE_OS_DISK)) == 4
    assert set(story.images().values()) == {"1.0.0"}
    assert set(reasons(story).values()) == {HoldReason.VERSION_BAD}
    assert story.claims == []


def test_a_newer_version_is_tried_after_a_bad_one() -> None:
    story = all_ill_on(one_version_newer(machines_of(5)), "1.0.1")
    story.at(60, lambda: story.publish("1.0.2"))
    story.run(minutes=120)
    assert set(story.images().values()) == {"1.0.2"}


def test_a_guilty_version_leaves_the_machines_that_had_been_well_on_it() -> None:
    policy = RollingPolicy(max_batch_percent=20, max_unhealthy_upgraded_percent=20)
    story = one_version_newer(machines_of(10), policy=policy)
    story.ill_on = {("m2", "1.0.1"), ("m3", "1.0.1")}
    story.run(minutes=60)
    assert story.rollout().guilty
    assert set(story.images().values()) == {"1.0.0"}
    assert {t.state for t in story.tasks.values()} == {TaskState.ROLLED_BACK, TaskState.CANCELLED}


@pytest.mark.parametrize(("limit", "state"), [(0, "faulted"), (50, "completed")])
def test_zero_percent_means_that_the_first_failure_aborts(limit: int, state: str) -> None:
    policy = RollingPolicy(max_unhealthy_upgraded_percent=limit)
    story = one_version_newer(machines_of(10), policy=policy)
    story.ill_on = {("m8", "1.0.1")}
    assert story.run(minutes=60).rollout().state == state


def test_one_machine_that_is_ill_on_both_versions_does_not_condemn_the_version() -> None:
    story = one_version_newer(machines_of(10))
    story.ill_on = {("m0", "1.0.0"), ("m0", "1.0.1")}
    story.run(minutes=50)
    assert (story.rollout().state, story.rollout().guilty) == (RolloutState.COMPLETED, False)
    assert story.rollout().code is RolloutCode.FAILED_MACHINES
    assert [m for m, image in story.images().items() if image == "1.0.0"] == ["m0"]
    assert reasons(story) == {"m0": HoldReason.RETRY_LATER}


def test_failures_while_untouched_machines_fall_ill_too_do_not_condemn_the_version() -> None:
    policy = RollingPolicy(max_batch_percent=50, max_unhealthy_percent=100)
    story = one_version_newer(machines_of(10), policy=policy, budgets=(share(100),))
    story.ill_on = {(f"m{n}", "1.0.1") for n in range(5)}
    for number in (5, 6, 7):
        story.at(1.5, lambda number=number: story.see(f"m{number}", Health.UNHEALTHY))
    story.run(minutes=30)
    assert (story.rollout().state, story.rollout().guilty) == (RolloutState.FAULTED, False)
    assert "3 of 5 fell ill" in story.rollout().evidence


def test_machines_that_were_ill_before_are_no_witnesses_for_the_version() -> None:
    policy = RollingPolicy(
        max_batch_percent=50, max_unhealthy_percent=100, prioritize_unhealthy=False
    )
    story = one_version_newer(machines_of(10), policy=policy, budgets=(share(100),))
    story.ill_on = {(f"m{n}", "1.0.1") for n in range(5)}
    for number in (5, 6, 7):
        story.change(f"m{number}", health=Health.UNHEALTHY)
    assert story.run(minutes=30).rollout().guilty


def test_without_automatic_rollback_a_breach_takes_the_failed_machine_back() -> None:
    policy = RollingPolicy(auto_rollback=False, rollback_on_breach=True)
    story = all_ill_on(one_version_newer(machines_of(5), policy=policy), "1.0.1").run(minutes=60)
    assert story.rollout().guilty
    assert set(story.images().values()) == {"1.0.0"}


def test_without_any_rollback_the_failed_machine_is_left_as_it_is_and_keeps_its_claim() -> None:
    policy = RollingPolicy(auto_rollback=False, rollback_on_breach=False)
    story = all_ill_on(one_version_newer(machines_of(5), policy=policy), "1.0.1").run(minutes=60)
    assert story.rollout().guilty
    assert story.images()["m0"] == "1.0.1"
    assert [c.machine for c in story.claims] == ["m0"]


def test_a_machine_that_never_left_its_version_and_is_well_is_not_rolled_back() -> None:
    story = one_version_newer(machines_of(5))
    story.at(0.5, lambda: story.change("m0", image="0.9.9"))
    story.run(minutes=0.6)
    # The platform says that it did it, and did not.
    story.end = lambda action: pretend(story, action)  # type: ignore[method-assign]
    story.run(minutes=10)
    assert story.task("m0").failure is Failure.WRONG_VERSION
    assert story.sent(Verb.SWITCH_BACK) == []


def pretend(story: Story, action: Action) -> None:
    story.outcomes[action.key] = Outcome(key=action.key, succeeded=True, at=story.now)
    machine = story.machines[action.machine]
    story.change(machine.id, image="1.0.0", boots=machine.boots + 1)
    story.see(machine.id, Health.HEALTHY)


def test_a_driver_that_refuses_the_image_condemns_it() -> None:
    story = one_version_newer(machines_of(6))
    story.refused[("m0", Verb.REPLACE_OS_DISK)] = "bad_image"
    story.run(minutes=30)
    assert (story.rollout().code, story.rollout().guilty) == (RolloutCode.IMAGE_UNUSABLE, True)


def test_a_platform_that_fails_does_not_condemn_the_version_and_is_tried_again() -> None:
    story = one_version_newer(machines_of(6))
    for number in range(6):
        story.refused[(f"m{number}", Verb.REPLACE_OS_DISK)] = "no_space"
    story.run(minutes=30)
    assert (story.rollout().code, story.rollout().guilty) == (RolloutCode.PLATFORM_FAILED, False)
    assert set(reasons(story).values()) == {HoldReason.RETRY_LATER}
    story.refused.clear()
    for machine in list(story.machines):
        story.see(machine, Health.HEALTHY)
    story.run(minutes=120)
    assert set(story.images().values()) == {"1.0.1"}


def test_retries_back_off_and_end() -> None:
    story = one_version_newer(machines_of(1))
    story.refused = {("m0", v): "failed" for v in (Verb.REPLACE_OS_DISK, Verb.SWITCH_BACK)}
    story.run(minutes=60 * 24 * 8)
    begun = [round((r.started_at - START) / timedelta(hours=1)) for r in story.rollouts.values()]
    assert begun == [0, 1, 7, 31, 55, 79]
    assert reasons(story) == {"m0": HoldReason.RETRIES_SPENT}


# The gate before a batch, and repair.


@pytest.mark.parametrize(("ill", "stops"), [(1, False), (2, False), (3, True)])
def test_of_ten_at_20_percent_two_ill_pass_and_three_stop(ill: int, stops: bool) -> None:
    # The ill ones are protected, so that no repair takes them first.
    story = one_version_newer(machines_of(10), budgets=(share(100),))
    for number in range(ill):
        story.change(f"m{number}", health=Health.UNHEALTHY, protected=True)
    story.run(minutes=30)
    expected = RolloutCode.UNHEALTHY_BEFORE if stops else RolloutCode.NONE
    assert story.rollout().code is expected
    assert bool(story.sent(Verb.REPLACE_OS_DISK)) is not stops


def test_illness_during_the_rollout_stops_it_at_the_end_of_the_batch() -> None:
    story = one_version_newer(machines_of(10), budgets=(share(100),))
    for number in (6, 7, 8):
        story.change(f"m{number}", protected=True)
        story.at(1, lambda number=number: story.see(f"m{number}", Health.UNHEALTHY))
    story.run(minutes=30)
    assert story.rollout().code is RolloutCode.UNHEALTHY_DURING
    assert story.rollout().batch == 1
    assert [story.images()[m] for m in ("m0", "m1", "m2")] == ["1.0.1", "1.0.1", "1.0.0"]


def test_one_ill_machine_never_stops_a_small_group() -> None:
    story = one_version_newer(machines_of(3))
    story.change("m2", health=Health.UNHEALTHY, protected=True)
    story.run(minutes=30)
    assert story.rollout().code is not RolloutCode.UNHEALTHY_BEFORE
    assert reasons(story)["m0"] == HoldReason.BUDGET_SPENT


def test_a_repair_roll_heals_a_set_of_two_with_one_broken_machine() -> None:
    story = one_version_newer(machines_of(2))
    story.change("m1", health=Health.UNHEALTHY)
    story.run(minutes=30)
    assert story.batches() == [["m1"], ["m0"]]
    assert story.task("m1").repair
    assert not story.task("m0").repair
    assert set(story.images().values()) == {"1.0.1"}


def test_a_repair_that_does_not_heal_proves_nothing_and_the_well_one_is_left_alone() -> None:
    story = one_version_newer(machines_of(2))
    story.change("m1", health=Health.UNHEALTHY)
    story.ill_on = {("m1", "1.0.0"), ("m1", "1.0.1")}
    story.run(minutes=30)
    assert not story.rollout().guilty
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m1"]
    assert story.hold("m0") is HoldReason.BUDGET_SPENT


def test_a_machine_that_heals_by_itself_during_its_notice_needs_a_place_after_all() -> None:
    story = one_version_newer(machines_of(5), policy=RollingPolicy(notice=30 * MINUTE))
    for name in ("m0", "m1"):
        story.change(name, health=Health.UNHEALTHY)
    story.at(10, lambda: story.see("m0", Health.HEALTHY))
    story.run(minutes=31)
    # m1 is ill and has the only place: m0 is held again, and the next batch is announced.
    assert story.sent(Verb.REPLACE_OS_DISK) == []
    assert story.task("m0").state is TaskState.HELD
    assert story.hold("m0") is HoldReason.BATCH_OPEN
    story.run(minutes=120)
    assert story.batches() == [["m1"], ["m0"], ["m2"]]
    assert story.task("m1").repair
    assert not story.task("m0").repair


def test_one_that_heals_during_its_notice_goes_on_if_there_is_a_place() -> None:
    story = one_version_newer(machines_of(5), policy=RollingPolicy(notice=30 * MINUTE))
    story.change("m0", health=Health.UNHEALTHY)
    story.at(10, lambda: story.see("m0", Health.HEALTHY))
    story.run(minutes=31)
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m0"]
    assert not story.task("m0").repair


def test_a_repair_that_looks_well_before_its_action_begins_goes_on_counting() -> None:
    """Between the intent and the moment at which somebody takes it from the journal."""
    story = one_version_newer(machines_of(5))
    story.change("m0", health=Health.UNHEALTHY)
    story.rest()
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m0"]
    story.change("m0", health=Health.HEALTHY)
    story.call(Verb.RESTART, "m1")
    story.rest()
    assert story.sent(Verb.RESTART) == []
    assert story.hold("m1") is HoldReason.BUDGET_SPENT


def test_a_machine_that_is_still_starting_waits_until_it_is_well_or_ill() -> None:
    story = one_version_newer(machines_of(1))
    story.change("m0", health=Health.INITIALIZING)
    story.rest()
    assert story.sent(Verb.REPLACE_OS_DISK) == []
    assert story.hold("m0") is HoldReason.INITIALIZING
    story.see("m0", Health.UNHEALTHY)
    story.rest()
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m0"]
    assert story.task("m0").repair


def test_an_ill_machine_in_a_mixed_batch_is_no_evidence() -> None:
    policy = RollingPolicy(
        max_batch_percent=50, max_unhealthy_percent=50, prioritize_unhealthy=False
    )
    story = one_version_newer(machines_of(4), policy=policy, budgets=(share(50),))
    story.change("m1", health=Health.UNHEALTHY)
    story.ill_on = {("m1", "1.0.0"), ("m1", "1.0.1")}
    story.rest()
    assert [story.task(m).repair for m in ("m0", "m1")] == [False, True]


# Time.


def test_a_blackout_holds_and_lets_go() -> None:
    story = one_version_newer(machines_of(1))
    story.blackouts = (Interval(opens=START, closes=START + 60 * MINUTE, name="fair"),)
    story.run(minutes=59)
    assert (story.hold("m0"), story.holds[0].until) == (
        HoldReason.BLACKOUT,
        START + 60 * MINUTE,
    )
    assert story.run(minutes=70).images() == {"m0": "1.0.1"}


def test_work_waits_for_its_window() -> None:
    story = one_version_newer(machines_of(1))
    story.windows = (Interval(opens=START + 60 * MINUTE, closes=START + 360 * MINUTE),)
    assert story.run(minutes=59).hold("m0") is HoldReason.OUTSIDE_WINDOW
    assert story.run(minutes=70).images() == {"m0": "1.0.1"}


def test_notice_is_given_in_full_and_shown_as_a_hold_at_once() -> None:
    story = one_version_newer(machines_of(5), policy=RollingPolicy(notice=30 * MINUTE))
    story.rest()
    assert (story.hold("m0"), story.holds[0].until) == (HoldReason.NOTICE, START + 30 * MINUTE)
    assert [c.machine for c in story.claims] == ["m0"]  # Announcing takes the claims.
    story.run(minutes=29.9)
    assert story.sent(Verb.REPLACE_OS_DISK) == []
    assert story.run(minutes=30).sent(Verb.REPLACE_OS_DISK) == ["m0"]


def test_draining_ends_when_the_machine_says_so_or_when_its_time_is_up() -> None:
    policy = RollingPolicy(drain_timeout=10 * MINUTE)
    quick = one_version_newer(machines_of(5), policy=policy).run(minutes=1)
    assert quick.sent(Verb.REPLACE_OS_DISK) == ["m0"]
    slow = one_version_newer(machines_of(5), policy=policy)
    slow.action_takes = 60 * MINUTE
    assert slow.run(minutes=9.9).sent(Verb.REPLACE_OS_DISK) == []
    assert slow.run(minutes=10).sent(Verb.REPLACE_OS_DISK) == ["m0"]


@pytest.mark.parametrize("drain", [timedelta(0), 2 * MINUTE])
def test_while_the_clock_is_stepped_nothing_disruptive_starts(drain: timedelta) -> None:
    story = one_version_newer(machines_of(5), policy=RollingPolicy(drain_timeout=drain))
    if drain:
        story.rest()
    story.clock_stepped = True
    story.run(minutes=30)
    assert story.sent(Verb.REPLACE_OS_DISK) == []
    assert story.hold("m0") is HoldReason.CLOCK_STEPPED
    story.clock_stepped = False
    assert story.run(minutes=60).images()["m0"] == "1.0.1"


# What people and catalogues change on the way.


def test_cancel_finishes_the_open_batch_and_starts_none() -> None:
    story = one_version_newer(machines_of(10))
    story.at(1, story.cancel)
    story.run(minutes=1.5)
    assert reasons(story)["m2"] == HoldReason.CANCELLING
    story.run(minutes=60 * 24 * 10)
    assert (story.rollout().state, story.rollout().code) == (
        RolloutState.CANCELLED,
        RolloutCode.OPERATOR_CANCELLED,
    )
    assert [m for m, v in story.images().items() if v == "1.0.1"] == ["m0", "m1"]
    assert set(reasons(story).values()) == {HoldReason.ROLLOUT_CANCELLED}
    assert story.claims == []


def test_cancel_during_the_notice_gives_the_places_back() -> None:
    story = one_version_newer(machines_of(5), policy=RollingPolicy(notice=30 * MINUTE))
    story.at(5, story.cancel)
    story.run(minutes=60)
    assert (story.claims, story.sent(Verb.REPLACE_OS_DISK)) == ([], [])
    assert story.rollout().state is RolloutState.CANCELLED


def test_cancel_does_not_give_back_the_claims_of_other_work() -> None:
    story = one_version_newer(machines_of(10))
    story.call(Verb.RESTART, "m9")
    story.rest()
    story.cancel(2)
    story.rest()
    assert "m9" in [c.machine for c in story.claims]


def test_a_newer_version_takes_over_between_two_batches() -> None:
    story = one_version_newer(machines_of(10))
    story.at(1, lambda: story.publish("1.0.2"))
    story.run(minutes=60)
    assert (story.rollout(1).state, story.rollout(1).code) == (
        RolloutState.CANCELLED,
        RolloutCode.SUPERSEDED,
    )
    assert len(story.batches(1)) == 1
    assert set(story.images().values()) == {"1.0.2"}


@pytest.mark.parametrize("change", ["excluded", "replication"])
def test_only_a_usable_newer_version_takes_over(change: str) -> None:
    story = one_version_newer(machines_of(5))
    unusable = {"excluded": True, "replication": ReplicationState.REPLICATING}[change]
    story.at(1, lambda: story.publish("1.0.2", **{change: unusable}))
    story.run(minutes=60)
    assert set(story.images().values()) == {"1.0.1"}


def test_a_version_excluded_on_the_way_stops_after_the_batch() -> None:
    story = one_version_newer(machines_of(10))
    story.at(1, lambda: story.publish("1.0.1", excluded=True))
    story.run(minutes=60)
    assert story.rollout().code is RolloutCode.IMAGE_EXCLUDED
    assert [m for m, v in story.images().items() if v == "1.0.1"] == ["m0", "m1"]
    assert story.holds == ()  # With 1.0.0 as latest nobody is outdated.


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("protected", HoldReason.PROTECTED),
        ("opted_out", HoldReason.OPTED_OUT),
        ("skip", HoldReason.SKIP_REQUESTED),
    ],
)
def test_who_is_left_out_is_told_why(field: str, reason: HoldReason) -> None:
    story = one_version_newer(machines_of(5))
    story.change("m1", **{field: True})
    story.run(minutes=60)
    assert reasons(story) == {"m1": reason}
    assert story.rollout().state is RolloutState.COMPLETED
    story.change("m1", **{field: False})
    story.rest()
    assert story.run(minutes=120).images()["m1"] == "1.0.1"


@pytest.mark.parametrize(
    ("field", "taken"), [("protected", False), ("opted_out", False), ("skip", True)]
)
@pytest.mark.number("os-image", "phases")
def test_protection_and_opting_out_are_live_and_skip_is_read_at_the_start(
    field: str, taken: bool
) -> None:
    story = one_version_newer(machines_of(5))
    story.at(1, lambda: story.change("m4", **{field: True}))
    story.run(minutes=60)
    assert (story.images()["m4"] == "1.0.1") is taken


def test_a_machine_stopped_on_the_way_does_not_keep_the_rollout_open() -> None:
    story = one_version_newer(machines_of(3))
    story.at(1, lambda: story.call(Verb.STOP, "m2"))
    story.run(minutes=60)
    assert story.rollout(1).state is RolloutState.COMPLETED
    story.call(Verb.START, "m2")
    assert story.run(minutes=120).images()["m2"] == "1.0.1"


def test_a_deleted_machine_is_cancelled_and_still_counted() -> None:
    story = one_version_newer(machines_of(5))
    story.at(1, lambda: story.remove("m4"))
    story.run(minutes=60)
    assert story.task("m4").state is TaskState.CANCELLED
    assert len(story.tasks) == 5
    assert story.rollout().state is RolloutState.COMPLETED


def test_a_paused_group_holds_and_goes_on() -> None:
    story = one_version_newer(machines_of(5), group=a_group(paused=True)).run(minutes=60)
    assert set(reasons(story).values()) == {HoldReason.PAUSED}
    story.group = a_group()
    story.rest()
    assert set(story.run(minutes=120).images().values()) == {"1.0.1"}


def test_a_group_that_opted_out_is_told_so_and_can_be_started_by_hand() -> None:
    story = one_version_newer(machines_of(5), group=a_group(auto_upgrade=False)).run(minutes=60)
    assert set(reasons(story).values()) == {HoldReason.AUTO_UPGRADE_OFF}
    call = story.call(Verb.REPLACE_OS_DISK)
    assert set(story.run(minutes=120).images().values()) == {"1.0.1"}
    assert story.answers[call.id] == ""


@pytest.mark.number("os-image", "first start")
def test_a_group_that_is_opted_in_again_begins_at_once() -> None:
    """Azure may take three hours."""
    story = one_version_newer(machines_of(5), group=a_group(auto_upgrade=False)).run(minutes=60)
    assert story.batches() == []
    story.group = a_group()
    story.rest()
    assert [len(batch) for batch in story.batches()] == [1]


def test_a_rollout_begun_by_a_person_does_not_roll_back_by_itself() -> None:
    story = one_version_newer(machines_of(5), group=a_group(auto_upgrade=False))
    all_ill_on(story, "1.0.1").call(Verb.REPLACE_OS_DISK)
    story.run(minutes=60)
    assert story.images()["m0"] == "1.0.1"
    assert story.rollout().state is RolloutState.FAULTED


@pytest.mark.parametrize(
    ("target", "fields", "words"),
    [
        ("9.9.9", None, "there is no version 9.9.9"),
        ("1.0.1", {"excluded": True}, "is excluded"),
        ("1.0.1", {"replication": ReplicationState.FAILED}, "is failed in this region"),
        ("1.0.0", None, "no unprotected machine is older"),
    ],
)
def test_a_start_by_hand_is_refused_with_a_reason(
    target: str, fields: dict[str, object] | None, words: str
) -> None:
    story = one_version_newer(machines_of(2), group=a_group(auto_upgrade=False))
    if fields is not None:
        story.publish("1.0.1", **fields)
    call = story.call(Verb.REPLACE_OS_DISK, target=target)
    story.run(minutes=10)
    assert words in story.answers[call.id]
    assert story.rollouts == {}
