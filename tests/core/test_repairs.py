"""Repairs: which ill machine is repaired when, how many at once, and when nobody is any more.

Source: sheet os-image §7, §10; docs/adr/0017.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.core.story import Story, a_group, machines_of, one_version_newer, reasons, share

from upkeep.core.hold import HoldReason
from upkeep.core.model import GroupKind, Health, RepairAction, Repairs, RolloutState, System, Verb
from upkeep.core.policy import RollingPolicy
from upkeep.core.systems.repairs import grace_errors

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
RESTARTS = Repairs(action=RepairAction.RESTART)


def repairing(size: int = 10, repairs: Repairs = RESTARTS, **group: Any) -> Story:
    group = {"kind": GroupKind.SCALE_SET, "capacity": size, "baked": "1.0.0", **group}
    shape = a_group(repairs=repairs, next_ordinal=size, **group)
    return Story(machines_of(size), group=shape, budgets=(share(20),))


@pytest.mark.number("os-image", "repairs")
def test_an_ill_machine_is_repaired_after_its_grace_and_not_before() -> None:
    story = repairing()
    story.at(5, lambda: story.see("m3", Health.UNHEALTHY))
    story.run(minutes=14.9)
    assert story.sent(Verb.RESTART) == []
    assert story.hold("m3") is HoldReason.REPAIR_GRACE
    story.run_on(minutes=0.2)
    assert story.sent(Verb.RESTART) == ["m3"]
    story.run_on(minutes=10)
    assert story.machines["m3"].health is Health.HEALTHY
    assert (story.holds, story.claims) == ((), [])


def test_who_is_well_again_within_the_grace_is_left_alone() -> None:
    story = repairing()
    story.at(5, lambda: story.see("m3", Health.UNHEALTHY))
    story.at(14, lambda: story.see("m3", Health.HEALTHY))
    story.at(16, lambda: story.see("m3", Health.UNHEALTHY))
    story.run(minutes=25)
    assert story.sent(Verb.RESTART) == []


@pytest.mark.number("os-image", "repairs")
@pytest.mark.parametrize(("size", "at_once"), [(1, 1), (19, 1), (20, 1), (40, 2), (100, 5)])
def test_so_many_are_repaired_at_once(size: int, at_once: int) -> None:
    story = repairing(size)
    ill = sorted(story.machines)[: at_once + 1]
    story.at(0, lambda: [story.see(m, Health.UNHEALTHY) for m in ill] and None)
    story.run(minutes=10.5)
    assert story.sent(Verb.RESTART) == ill[:at_once]
    if size > 1:
        assert story.hold(ill[-1]) is HoldReason.REPAIRS_BUSY
    story.run_on(minutes=10)
    assert story.sent(Verb.RESTART) == ill[: size if size == 1 else at_once + 1]


def test_the_unreachable_and_the_protected_are_left_to_people() -> None:
    """Sheet §4: repairs skip both kinds of protection.  DESIGN §5: unknown is not ill."""
    story = repairing()
    story.change("m1", protected=True)
    story.change("m2", scale_in_protected=True)
    for machine in ("m1", "m2"):
        story.see(machine, Health.UNHEALTHY)
    story.see("m3", Health.UNKNOWN)
    story.run(minutes=60)
    assert story.sent(Verb.RESTART) == []
    assert reasons(story) == dict.fromkeys(("m1", "m2"), HoldReason.PROTECTED)


def test_a_reimage_keeps_the_version_and_a_replacement_runs_the_one_that_baked() -> None:
    reimaging = repairing(repairs=Repairs(action=RepairAction.REIMAGE))
    reimaging.see("m3", Health.UNHEALTHY)
    reimaging.run(minutes=15)
    sent = [a for _, plan in reimaging.plans for a in plan.actions]
    assert [(a.machine, a.verb, a.version) for a in sent] == [("m3", Verb.REIMAGE, "1.0.0")]
    replacing = repairing(repairs=Repairs(action=RepairAction.REPLACE), auto_upgrade=False)
    replacing.publish("1.0.1")
    replacing.see("m3", Health.UNHEALTHY)
    replacing.run(minutes=30)
    sent = [a for _, plan in replacing.plans for a in plan.actions]
    assert [(a.machine, a.verb, a.version) for a in sent] == [
        ("m3", Verb.DELETE, ""),
        ("m_g_10", Verb.CREATE, "1.0.0"),
    ]
    assert len(replacing.machines) == replacing.group.capacity == 10


def failing_in_a_rollout(size: int, **policy: Any) -> Story:
    """m0 is ill on the new version until it is restarted, and not taken back."""
    lenient = RollingPolicy(max_unhealthy_upgraded_percent=100, auto_rollback=False, **policy)
    shape = a_group(repairs=RESTARTS, policy=lenient)
    story = one_version_newer(machines_of(size), group=shape, budgets=(share(50),))
    story.ill_on = {("m0", "1.0.1")}
    return story


def test_one_that_failed_in_a_batch_that_is_not_judged_yet_is_left_to_it() -> None:
    baking = {"bake_time": HOUR, "max_batch_percent": 50, "max_unhealthy_percent": 50}
    story = failing_in_a_rollout(4, **baking).run(minutes=50)
    assert story.hold("m0") is HoldReason.OTHER_WORK
    assert story.sent(Verb.RESTART) == []
    story.run_on(minutes=18)
    assert story.sent(Verb.RESTART) == ["m0"]


def test_one_that_failed_in_an_earlier_batch_is_repaired_while_the_next_is_open() -> None:
    story = failing_in_a_rollout(4, bake_time=HOUR).run(minutes=30)
    assert (story.rollout().batch, len(story.in_hand("m1"))) == (2, 1)
    assert story.sent(Verb.RESTART) == ["m0"]


def test_a_repair_frees_the_place_that_the_rest_of_a_rollout_waits_for() -> None:
    story = failing_in_a_rollout(4)
    story.budgets = (share(25),)
    story.at(12, lambda: story.ill_on.clear())
    story.run(minutes=120)
    assert story.sent(Verb.RESTART) == ["m0"]
    assert set(story.images().values()) == {"1.0.1"}
    assert story.rollout().ended_at is not None


def test_one_that_waits_for_the_window_of_an_upgrade_is_repaired_meanwhile() -> None:
    story = one_version_newer(machines_of(4), group=a_group(repairs=RESTARTS))
    story.windows = ()
    story.see("m3", Health.UNHEALTHY)
    story.run(minutes=15)
    assert story.sent(Verb.RESTART) == ["m3"]


def test_who_falls_ill_while_another_is_repaired_waits_for_its_turn() -> None:
    story = repairing()
    story.see("m3", Health.UNHEALTHY)
    story.at(1, lambda: story.see("m4", Health.UNHEALTHY))
    story.run(minutes=11.5)
    assert (story.sent(Verb.RESTART), story.hold("m4")) == (["m3"], HoldReason.REPAIRS_BUSY)


def never_heals(story: Story, machine: str) -> Story:
    story.ill_on = {(machine, "1.0.0")}
    story.see(machine, Health.UNHEALTHY)
    return story


def test_three_in_a_row_that_healed_nobody_suspend_them_until_a_person_resumes() -> None:
    story = never_heals(repairing(), "m3").run(minutes=600)
    assert story.sent(Verb.RESTART) == ["m3"] * 3
    assert story.hold("m3") is HoldReason.REPAIRS_SUSPENDED
    assert story.group.repairs is not None
    assert story.group.repairs.suspended_at is not None
    resumed = replace(RESTARTS, resumed_at=story.now)
    story.group = replace(story.group, repairs=resumed)
    story.ill_on = set()
    story.run_on(minutes=0)
    story.rest()
    story.run_on(minutes=30)
    assert story.sent(Verb.RESTART) == ["m3"] * 4
    assert story.machines["m3"].health is Health.HEALTHY


def test_a_repair_that_heals_begins_the_count_anew() -> None:
    story = never_heals(repairing(), "m3")
    story.at(20, lambda: story.see("m7", Health.UNHEALTHY))
    story.run(minutes=75)
    assert story.sent(Verb.RESTART)[:4].count("m7") == 1
    assert story.group.repairs == RESTARTS


def test_replacements_that_are_ill_suspend_them_as_well() -> None:
    story = repairing(repairs=Repairs(action=RepairAction.REPLACE))
    story.ill_on = {(f"g-{number}", "1.0.0") for number in range(10, 30)}
    story.ill_on |= {(f"web-{number}", "1.0.0") for number in range(10, 30)}
    story.see("m3", Health.UNHEALTHY)
    story.run(minutes=60 * 20)
    assert len(story.sent(Verb.CREATE)) == 3
    assert story.group.repairs is not None
    assert story.group.repairs.suspended_at is not None


def test_a_suspended_group_repairs_nobody() -> None:
    story = repairing(repairs=replace(RESTARTS, suspended_at=machines_of(1)[0].health_since))
    story.see("m3", Health.UNHEALTHY)
    story.run(minutes=60)
    assert story.sent(Verb.RESTART) == []
    assert story.hold("m3") is HoldReason.REPAIRS_SUSPENDED


@pytest.mark.parametrize(
    "wanted", [None, replace(RESTARTS, suspended_at=machines_of(1)[0].health_since)]
)
def test_a_repair_that_waits_is_dropped_when_nobody_wants_repairs_any_more(
    wanted: Repairs | None,
) -> None:
    story = repairing(paused=True)
    story.see("m3", Health.UNHEALTHY)
    story.run(minutes=20)
    story.group = replace(story.group, paused=False, repairs=wanted)
    story.rest()
    story.run_on(minutes=40)
    assert story.sent(Verb.RESTART) == []
    assert story.rollout().ended_at is not None


def test_a_repair_that_waits_is_dropped_when_its_machine_is_well_again() -> None:
    story = repairing()
    story.group = replace(story.group, paused=True)
    story.at(1, lambda: story.see("m3", Health.UNHEALTHY))
    story.at(20, lambda: story.see("m3", Health.HEALTHY))
    story.at(21, lambda: setattr(story, "group", replace(story.group, paused=False)))
    story.run(minutes=40)
    assert story.sent(Verb.RESTART) == []
    assert story.rollout().state is RolloutState.COMPLETED


def test_a_repair_that_waits_is_dropped_when_its_machine_was_well_in_between() -> None:
    story = repairing(paused=True)
    story.see("m3", Health.UNHEALTHY)
    story.run(minutes=20)
    story.see("m3", Health.HEALTHY)
    story.now += MINUTE
    story.see("m3", Health.UNHEALTHY)
    story.group = replace(story.group, paused=False)
    story.rest()
    story.run_on(minutes=9)
    assert (story.sent(Verb.RESTART), story.hold("m3")) == ([], HoldReason.REPAIR_GRACE)
    story.run_on(minutes=2)
    assert story.sent(Verb.RESTART) == ["m3"]


def test_no_repair_is_begun_where_nobody_asked_for_repairs() -> None:
    story = Story(machines_of(5))
    story.see("m3", Health.UNHEALTHY)
    story.run(minutes=600)
    assert [r for r in story.rollouts.values() if r.system is System.REPAIR] == []


@pytest.mark.number("os-image", "repairs")
def test_the_grace_is_ten_to_ninety_minutes() -> None:
    assert Repairs(action=RepairAction.REPLACE).grace == 10 * MINUTE
    assert not grace_errors(10 * MINUTE)
    assert not grace_errors(90 * MINUTE)
    for wrong in (9, 91):
        assert "10 to 90" in grace_errors(wrong * MINUTE)[0]
