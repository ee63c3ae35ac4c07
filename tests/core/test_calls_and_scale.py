"""Operators' own calls, and a scale set that grows, shrinks and replaces what it could not make."""

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.core.story import START, Story, a_group, machines_of, one_version_newer, reasons, share

from upkeep.core.hold import HoldReason
from upkeep.core.model import (
    Budget,
    BudgetId,
    GroupKind,
    Health,
    Lifecycle,
    RolloutCode,
    RolloutState,
    Verb,
)
from upkeep.core.policy import RollingPolicy
from upkeep.core.snapshot import Interval
from upkeep.core.task import TaskState

MINUTE = timedelta(minutes=1)


# Operators' calls.


def test_a_restart_goes_through_the_budgets() -> None:
    story = Story(machines_of(10))
    story.call(Verb.RESTART, "m1", "m2", "m3")
    story.rest()
    assert story.sent(Verb.RESTART) == ["m1", "m2"]
    assert reasons(story) == {"m3": HoldReason.BUDGET_SPENT}
    story.run(minutes=30)
    assert story.sent(Verb.RESTART) == ["m1", "m2", "m3"]
    assert (story.claims, story.holds) == ([], ())


def test_a_reimage_keeps_each_machines_version_and_goes_through_the_budgets() -> None:
    """Sheet os-image §2.7: a reimage uses the existing version."""
    story = Story(machines_of(5), versions=("1.0.0", "1.0.1"), group=a_group(auto_upgrade=False))
    story.change("m1", image="1.0.1")
    story.call(Verb.REIMAGE, "m0", "m1")
    story.run(minutes=30)
    sent = [a for _, plan in story.plans for a in plan.actions]
    assert [(a.machine, a.verb, a.version) for a in sent] == [
        ("m0", Verb.REIMAGE, "1.0.0"),
        ("m1", Verb.REIMAGE, "1.0.1"),
    ]
    assert story.rollout().state is RolloutState.COMPLETED
    assert story.group.baked == ""


def test_a_reimage_of_an_unknown_version_is_refused() -> None:
    story = Story(machines_of(2))
    story.change("m1", image="")
    call = story.call(Verb.REIMAGE, "m1")
    story.rest()
    assert "which version m1 runs" in story.answers[call.id]


def test_a_forced_call_overdraws_and_that_is_recorded() -> None:
    story = Story(machines_of(10))
    story.call(Verb.RESTART, "m1", "m2", "m3", force=True)
    story.rest()
    assert story.sent(Verb.RESTART) == ["m1", "m2", "m3"]
    assert [(c.machine, c.overdraft) for c in story.claims] == [
        ("m1", False),
        ("m2", False),
        ("m3", True),
    ]


@pytest.mark.parametrize(("force", "sent"), [(False, []), (True, ["m0"])])
def test_a_blackout_holds_a_call_unless_it_is_forced(force: bool, sent: list[str]) -> None:
    story = Story(machines_of(5))
    story.blackouts = (Interval(opens=START, closes=START + 60 * MINUTE),)
    story.call(Verb.RESTART, "m0", force=force)
    assert story.run(minutes=30).sent(Verb.RESTART) == sent


def test_a_call_does_not_wait_for_windows_of_image_upgrades() -> None:
    story = Story(machines_of(5))
    story.windows = ()
    story.call(Verb.RESTART, "m0")
    assert story.run(minutes=5).sent(Verb.RESTART) == ["m0"]


def test_two_works_on_one_machine_follow_each_other() -> None:
    story = one_version_newer(machines_of(5))
    story.at(0.5, lambda: story.call(Verb.RESTART, "m0"))
    story.run(minutes=1)
    assert reasons(story)["m0"] == HoldReason.OTHER_WORK
    story.run(minutes=60)
    assert story.sent(Verb.RESTART) == ["m0"]
    assert set(story.images().values()) == {"1.0.1"}


def test_a_call_goes_before_the_next_batch() -> None:
    story = one_version_newer(machines_of(5))
    story.at(0.5, lambda: story.call(Verb.RESTART, "m4"))
    story.run(minutes=2)
    assert story.sent(Verb.RESTART) == ["m4"]
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m0"]


def test_restarts_that_fail_blame_no_version_and_stop_nothing_but_the_budget() -> None:
    story = Story(machines_of(10))
    story.ill_on = {("m0", "1.0.0")}
    story.call(Verb.RESTART, "m0", "m1", "m2")
    story.run(minutes=30)
    rollout = story.rollout()
    assert (rollout.state, rollout.guilty) == (RolloutState.COMPLETED, False)
    assert rollout.code is RolloutCode.FAILED_MACHINES
    assert [c.machine for c in story.claims] == ["m0"]


def test_a_call_that_failed_on_each_of_its_machines_was_not_completed() -> None:
    story = Story(machines_of(3))
    story.ill_on = {("m0", "1.0.0")}
    story.call(Verb.RESTART, "m0")
    story.run(minutes=30)
    assert story.rollout().state is RolloutState.FAULTED
    assert story.rollout().code is RolloutCode.FAILED_MACHINES


def test_stop_and_start() -> None:
    story = Story(machines_of(5))
    story.call(Verb.STOP, "m0")
    story.run(minutes=5)
    assert story.machines["m0"].lifecycle is Lifecycle.STOPPED  # type: ignore[index]
    assert story.claims == []
    story.call(Verb.START, "m0")
    story.run(minutes=10)
    assert story.machines["m0"].lifecycle is Lifecycle.PRESENT  # type: ignore[index]
    assert story.machines["m0"].health is Health.HEALTHY  # type: ignore[index]


@pytest.mark.parametrize(
    ("verb", "machine", "words"),
    [
        (Verb.START, "m0", "m0 is present: start does not apply"),
        (Verb.RESTART, "m9", "not in this group"),
        (Verb.RESTART, "", "no machine was named"),
        (Verb.SWITCH_BACK, "m0", "cannot be asked for by hand"),
        (Verb.CREATE, "m0", "cannot be asked for by hand"),
    ],
)
def test_a_call_that_makes_no_sense_is_answered_with_the_reason(
    verb: Verb, machine: str, words: str
) -> None:
    story = Story(machines_of(2))
    call = story.call(verb, *([machine] if machine else []))
    story.run(minutes=5)
    assert words in story.answers[call.id]
    assert (story.rollouts, story.calls) == ({}, [])


# Scale sets.


def scale_set(size: int, *, capacity: int, baked: str = "1.0.0", **fields: object) -> Story:
    group = a_group(
        kind=GroupKind.SCALE_SET, capacity=capacity, baked=baked, next_ordinal=size, **fields
    )
    return Story(machines_of(size) if size else [], group=group)


def resize(story: Story, capacity: int) -> None:
    story.group = replace(story.group, capacity=capacity)
    story.rest()


def test_a_new_set_is_made_and_its_first_version_bakes() -> None:
    story = scale_set(0, capacity=3, baked="", zones=("a", "b")).run(minutes=30)
    assert story.images() == {"web-0": "1.0.0", "web-1": "1.0.0", "web-2": "1.0.0"}
    assert [m.zone for m in story.machines.values()] == ["a", "b", "a"]
    assert story.group.baked == "1.0.0"
    assert story.holds == ()


def test_scale_out_uses_the_last_version_that_baked_while_another_is_undecided() -> None:
    story = scale_set(10, capacity=10)
    story.publish("1.0.1")
    story.at(1, lambda: resize(story, 12))
    story.run(minutes=5)
    assert {m.image for m in story.machines.values() if m.name.startswith("web")} == {"1.0.0"}
    story.run(minutes=120)
    assert set(story.images().values()) == {"1.0.1"}


def test_scale_out_after_a_fault_does_not_use_the_faulted_version() -> None:
    story = scale_set(5, capacity=5)
    story.publish("1.0.1")
    story.ill_on = {(f"m{n}", "1.0.1") for n in range(5)}
    story.run(minutes=60)
    resize(story, 6)
    story.run(minutes=90)
    assert story.images()["web-5"] == "1.0.0"


def test_before_anything_baked_the_version_being_tried_is_not_used_either() -> None:
    story = scale_set(5, capacity=5, baked="")
    story.publish("1.0.1")
    story.rest()
    resize(story, 6)
    assert [a.version for _, p in story.plans for a in p.actions if a.verb is Verb.CREATE] == [
        "1.0.0"
    ]


def test_scale_in_removes_the_ill_then_the_newest_and_never_the_protected() -> None:
    story = scale_set(0, capacity=5, baked="1.0.0").run(minutes=10)
    story.see("m_g_1", Health.UNHEALTHY)
    story.change("m_g_4", protected=True)
    resize(story, 3)
    story.run(minutes=30)
    assert sorted(story.machines) == ["m_g_0", "m_g_2", "m_g_4"]


def test_a_machine_that_stays_in_its_group_is_upgraded_like_any_other() -> None:
    story = scale_set(0, capacity=5, baked="1.0.0").run(minutes=10)
    story.change("m_g_4", scale_in_protected=True)
    resize(story, 4)
    story.publish("1.0.1")
    story.run(minutes=60)
    assert sorted(story.machines) == ["m_g_0", "m_g_1", "m_g_2", "m_g_4"]
    assert set(story.images().values()) == {"1.0.1"}


@pytest.mark.parametrize("flag", ["protected", "scale_in_protected"])
def test_a_machine_that_is_protected_while_its_removal_waits_stays_and_another_goes(
    flag: str,
) -> None:
    story = scale_set(0, capacity=5, baked="1.0.0").run(minutes=10)
    story.group = replace(story.group, paused=True)
    resize(story, 4)
    story.run(minutes=5)
    story.change("m_g_4", **{flag: True})
    story.group = replace(story.group, paused=False)
    story.rest()
    story.run(minutes=30)
    assert sorted(story.machines) == ["m_g_0", "m_g_1", "m_g_2", "m_g_4"]


def test_a_scale_in_waits_for_a_machine_that_may_serve_already() -> None:
    """To budgets it is down, and removing it would cost no place (world 129)."""
    story = scale_set(0, capacity=3, baked="1.0.0").run(minutes=10)
    for machine in ("m_g_0", "m_g_1"):
        story.see(machine, Health.UNHEALTHY)
    story.change("m_g_2", health=Health.INITIALIZING, health_since=story.now)
    story.change("m_g_0", scale_in_protected=True)
    story.change("m_g_1", scale_in_protected=True)
    resize(story, 2)
    assert story.sent(Verb.DELETE) == []
    assert story.hold("m_g_2") is HoldReason.INITIALIZING
    story.run(minutes=14)
    assert story.sent(Verb.DELETE) == []
    story.run(minutes=20)
    assert story.sent(Verb.DELETE) == ["m_g_2"], "a start may take five minutes"


@pytest.mark.parametrize("force", [False, True])
def test_a_call_waits_for_a_machine_that_may_serve_already_unless_it_is_forced(
    force: bool,
) -> None:
    story = Story(machines_of(2)).run(minutes=10)
    story.change("m0", health=Health.INITIALIZING, health_since=story.now)
    story.call(Verb.RESTART, "m0", force=force)
    story.rest()
    assert story.sent(Verb.RESTART) == (["m0"] if force else [])
    story.run(minutes=20)
    assert story.sent(Verb.RESTART) == ["m0"]


def test_a_machine_that_could_not_be_made_is_removed_and_made_again() -> None:
    story = scale_set(0, capacity=2)
    story.refused[("m_g_0", Verb.CREATE)] = "no_space"
    story.run(minutes=60)
    assert sorted(story.machines) == ["m_g_1", "m_g_2"]
    assert {m.lifecycle for m in story.machines.values()} == {Lifecycle.PRESENT}


def test_making_machines_backs_off_while_it_fails() -> None:
    story = scale_set(0, capacity=1)
    story.refused = {(f"m_g_{n}", Verb.CREATE): "no_space" for n in range(100)}
    story.run(minutes=60 * 12)
    assert 10 < len(story.sent(Verb.CREATE)) < 22


def test_removing_a_machine_backs_off_while_it_fails_and_takes_no_other_for_it() -> None:
    story = scale_set(10, capacity=10)
    story.refused[("m0", Verb.DELETE)] = "failed"
    story.call(Verb.DELETE, "m0")
    story.run(minutes=60 * 12)
    assert set(story.sent(Verb.DELETE)) == {"m0"}
    assert len(story.sent(Verb.DELETE)) < 22
    story.refused.clear()
    story.run(minutes=60 * 14)
    assert sorted(story.machines) == [f"m{n}" for n in range(1, 10)]


def test_a_person_who_deletes_a_machine_gets_that_one_deleted_and_no_other() -> None:
    story = scale_set(0, capacity=5).run(minutes=10)
    story.call(Verb.DELETE, "m_g_1")
    story.run(minutes=60)
    assert sorted(story.machines) == ["m_g_0", "m_g_2", "m_g_3", "m_g_4"]
    assert story.group.capacity == 4
    assert story.sent(Verb.DELETE) == ["m_g_1"]


def test_asking_twice_for_the_same_deletion_does_it_once() -> None:
    story = scale_set(10, capacity=10)
    story.call(Verb.DELETE, "m0", "m0")
    second = story.call(Verb.DELETE, "m0")
    story.run(minutes=60)
    assert "already" in story.answers[second.id]
    assert (len(story.machines), story.group.capacity) == (9, 9)


def test_a_machine_in_hand_is_not_removed_by_scaling_before_its_work_ends() -> None:
    story = scale_set(5, capacity=5)
    story.publish("1.0.1")
    story.rest()
    story.see("m0", Health.INITIALIZING)
    resize(story, 4)
    assert story.sent(Verb.DELETE) == []
    story.run(minutes=60)
    assert len(story.machines) == 4


# Surge.


def surging(size: int, *, quota: int = 0, **policy: object) -> Story:
    group = a_group(
        kind=GroupKind.SCALE_SET, capacity=size, baked="1.0.0", next_ordinal=size, quota=quota
    )
    return Story(
        machines_of(size),
        versions=("1.0.0", "1.0.1"),
        group=group,
        policy=RollingPolicy(max_surge=True, **policy),  # type: ignore[arg-type]
    )


def test_surge_makes_new_machines_first_and_never_has_fewer_up() -> None:
    story = surging(10)
    fewest = 10
    for minute in range(60):
        story.run_on(minutes=1) if minute else story.run(minutes=1)
        up = [m for m in story.machines.values() if m.health is Health.HEALTHY]
        fewest = min(fewest, len(up))
    assert fewest >= 10
    assert set(story.images().values()) == {"1.0.1"}
    assert len(story.machines) == 10
    assert story.sent(Verb.REPLACE_OS_DISK) == []


def test_a_stand_in_counts_in_no_budget_before_it_takes_over() -> None:
    story = surging(10)
    floor = Budget(id=BudgetId("bu_floor"), name="floor", min_available=10, size={})
    story.budgets = (floor,)
    story.call(Verb.RESTART, "m9")
    story.run(minutes=2)
    assert len(story.machines) == 12  # Two stand-ins are there and serve nobody yet.
    assert story.hold("m9") is HoldReason.BUDGET_SPENT
    story.run_on(minutes=60)
    assert story.sent(Verb.RESTART) == []


@pytest.mark.number("os-image", "surge quota")
def test_surge_without_quota_for_a_batch_is_done_in_place() -> None:
    story = surging(10, quota=10).run(minutes=60)
    assert len(story.sent(Verb.REPLACE_OS_DISK)) == 10
    assert story.sent(Verb.CREATE) == []


def test_a_stand_in_that_fails_is_removed_and_the_old_machine_stays() -> None:
    story = surging(10)
    story.ill_on = {(f"web-{n}", "1.0.1") for n in range(10, 40)}
    story.run(minutes=60)
    assert story.rollout().guilty
    assert sorted(story.images()) == [f"m{n}" for n in range(10)]
    assert set(story.images().values()) == {"1.0.0"}
    assert {t.state for t in story.tasks.values()} >= {TaskState.ROLLED_BACK}


def test_a_scale_set_budget_counts_a_machine_made_but_not_yet_healthy() -> None:
    story = Story(
        machines_of(5),
        group=a_group(kind=GroupKind.SCALE_SET, capacity=5, baked="1.0.0"),
        budgets=(share(20),),
    )
    story.change("m4", health=Health.INITIALIZING)
    story.call(Verb.RESTART, "m0")
    story.rest()
    assert reasons(story) == {"m0": HoldReason.BUDGET_SPENT}


NOBODY = Budget(id=BudgetId("bu_none"), name="none", max_down=0, size={})


def test_who_has_left_the_group_is_removed_though_another_removal_waits_for_a_budget() -> None:
    story = scale_set(5, capacity=4)
    story.budgets = (NOBODY,)
    story.run(minutes=5)
    assert story.hold("m0") is HoldReason.BUDGET_SPENT
    story.change("m1", lifecycle=Lifecycle.DELETING)
    story.group = replace(story.group, capacity=3)
    story.rest()
    assert story.sent(Verb.DELETE) == ["m1"]


def test_a_removal_that_waits_is_dropped_when_the_capacity_is_raised_again() -> None:
    story = scale_set(5, capacity=4)
    story.budgets = (NOBODY,)
    story.run(minutes=5)
    resize(story, 5)
    story.budgets = (share(20),)
    story.rest()
    story.run_on(minutes=5)
    assert story.sent(Verb.DELETE) == []
    assert story.sent(Verb.CREATE) == []
    assert story.rollout().state is RolloutState.COMPLETED
