"""Features that meet: what one does to machines that another has in hand.

Each was played before it was mended; the simulator had not met it, or not looked.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.core.story import START, Story, a_group, machines_of, one_version_newer

from upkeep.core.alarm import Alarm, AlarmAction, AlarmState
from upkeep.core.model import (
    GroupKind,
    Health,
    Lifecycle,
    MachineId,
    RepairAction,
    Repairs,
    Verb,
)
from upkeep.core.policy import RollingPolicy
from upkeep.core.snapshot import Interval

MINUTE = timedelta(minutes=1)


def scale_set(size: int, *, capacity: int | None = None, made: bool = True, **fields: Any) -> Story:
    policy = fields.pop("policy", RollingPolicy())
    group = a_group(
        kind=GroupKind.SCALE_SET,
        capacity=size if capacity is None else capacity,
        baked="1.0.0",
        next_ordinal=size if made else 0,
        **fields,
    )
    return Story(machines_of(size) if made else [], group=group, policy=policy)


def surging(size: int, **policy: Any) -> Story:
    story = scale_set(size, policy=RollingPolicy(max_surge=True, **policy))
    story.publish("1.0.1")
    return story


def watch(story: Story) -> None:
    story.alarms["errors"] = Alarm(
        name="errors", action=AlarmAction.HALT, state=AlarmState.QUIET, since=START - 60 * MINUTE
    )


def fires(story: Story, minute: float) -> None:
    story.at(minute, lambda: story.tell_alarm("errors", AlarmState.FIRING))


def resize(story: Story, capacity: int) -> None:
    story.group = replace(story.group, capacity=capacity)


def loses_power(story: Story, machine: str) -> None:
    story.change(machine, powered_off=True)
    story.see(machine, Health.UNKNOWN)


def test_a_machine_without_power_is_started_though_a_removal_waits_for_its_place() -> None:
    story = scale_set(5)
    story.blackouts = (Interval(opens=START, closes=START + 60 * MINUTE, name="freeze"),)
    resize(story, 4)
    story.at(30, lambda: loses_power(story, "m3"))
    story.run(minutes=24 * 60)
    assert story.sent(Verb.START) == ["m3"]  # DELETE waits for its place, START for the DELETE


def test_the_same_when_who_has_no_power_is_spared() -> None:
    story = scale_set(5, capacity=4)
    story.change("m0", scale_in_protected=True)
    loses_power(story, "m0")
    story.run(minutes=24 * 60)
    assert story.sent(Verb.START) == ["m0"]


def test_a_set_grows_while_machines_that_left_wait_for_a_blackouts_end() -> None:
    story = surging(6, bake_time=30 * MINUTE)
    story.blackouts = (
        Interval(opens=START + 20 * MINUTE, closes=START + timedelta(days=7), name="freeze"),
    )
    story.at(60, lambda: resize(story, 10))
    story.run(minutes=24 * 60)
    assert len([m for m in story.machines.values() if m.lifecycle is Lifecycle.PRESENT]) == 10


def test_a_set_grows_while_its_newest_machines_bake() -> None:
    story = scale_set(2, made=False, policy=RollingPolicy(bake_time=timedelta(days=1)))
    story.run(minutes=30)
    resize(story, 4)
    story.rest()
    story.run(minutes=10 * 60)
    assert len(story.machines) == 4


def test_a_machine_that_is_protected_while_its_stand_in_bakes_stays() -> None:
    story = surging(5, bake_time=30 * MINUTE)
    story.at(10, lambda: story.change("m0", protected=True))
    story.run(minutes=300)
    assert "m0" in story.machines


def test_a_machine_that_is_protected_while_its_repair_waits_is_spared() -> None:
    story = scale_set(5, paused=True, repairs=Repairs(action=RepairAction.REPLACE))
    story.see("m3", Health.UNHEALTHY)
    story.run(minutes=20)
    story.change("m3", protected=True)
    story.group = replace(story.group, paused=False)
    story.rest()
    story.run_on(minutes=30)
    assert story.sent(Verb.DELETE) == []


def test_a_machine_that_is_protected_during_the_notice_of_its_removal_stays() -> None:
    story = scale_set(5, policy=RollingPolicy(notice=60 * MINUTE))
    resize(story, 4)
    story.at(30, lambda: story.change(story.holds[0].machine, protected=True))
    story.run(minutes=1)
    chosen = story.holds[0].machine
    story.run(minutes=300)
    assert chosen in story.machines


def test_a_removal_is_dropped_when_the_capacity_is_raised_during_its_notice() -> None:
    story = scale_set(5, policy=RollingPolicy(notice=60 * MINUTE))
    resize(story, 4)
    story.at(30, lambda: resize(story, 5))
    story.run(minutes=300)
    assert story.sent(Verb.DELETE) == []


def test_what_nobody_could_see_while_the_server_was_away_is_no_failure() -> None:
    story = one_version_newer(machines_of(10))
    story.run(minutes=1.5)  # The action has ended, nobody has looked yet: VERIFYING.
    story.now += 20 * MINUTE  # Down; its first turn plans before its first probe.
    story.awake_since = story.now
    story.rest()
    story.run_on(minutes=300)
    assert not story.rollout().guilty
    assert set(story.images().values()) == {"1.0.1"}


def test_a_start_that_fails_is_tried_again_ever_more_seldom() -> None:
    story = scale_set(3)
    story.refused[MachineId("m0"), Verb.START] = "failed"
    loses_power(story, "m0")
    story.run(minutes=120)
    assert 3 <= len(story.sent(Verb.START)) <= 8


def test_a_bake_that_nobody_watched_ends_after_a_look() -> None:
    story = surging(5, bake_time=30 * MINUTE, health_wait=10 * MINUTE)
    story.run(minutes=10)
    story.now += 60 * MINUTE
    story.awake_since = story.now
    story.rest()
    assert "m0" in story.machines, "nobody has looked at the stand-in since"
    story.run_on(minutes=9)
    assert "m0" in story.machines
    story.run_on(minutes=60)
    assert "m0" not in story.machines


def test_a_cancelled_making_leaves_no_machine_in_creation_for_ever() -> None:
    story = scale_set(3, made=False, paused=True)
    story.run(minutes=1)
    story.cancel()
    story.rest()
    story.group = replace(story.group, paused=False)
    story.rest()
    story.run(minutes=600)
    assert {m.lifecycle for m in story.machines.values()} == {Lifecycle.PRESENT}


def test_a_deletion_that_a_person_takes_back_deletes_nobody() -> None:
    story = scale_set(5, paused=True)
    story.call(Verb.DELETE, "m1")
    story.run(minutes=1)
    story.cancel()
    story.group = replace(story.group, paused=False)
    story.rest()
    story.run(minutes=60)
    assert sorted(story.machines) == ["m0", "m1", "m2", "m3", "m4"]


def test_who_has_left_and_cannot_be_removed_keeps_no_place_in_a_budget() -> None:
    story = scale_set(5)
    story.refused[MachineId("m0"), Verb.DELETE] = "failed"
    story.ill_on = {("m0", "1.0.0")}
    story.call(Verb.DELETE, "m0")
    story.run(minutes=30)
    story.publish("1.0.1")
    story.rest()
    story.run(minutes=48 * 60)
    assert story.claims == []
    assert {i for n, i in story.images().items() if n != "m0"} == {"1.0.1"}


def test_a_stand_in_that_goes_back_is_one_of_the_group() -> None:
    story = surging(6, pause_between_batches=20 * MINUTE)
    watch(story)
    fires(story, 10)
    story.run(minutes=60)
    assert len(story.sent(Verb.CREATE)) == 1  # The stand-in; scaling makes, and removes, another.


def test_who_left_before_it_had_the_version_was_no_canary() -> None:
    story = one_version_newer(
        machines_of(10), policy=RollingPolicy(canary_percent=10, notice=30 * MINUTE)
    )
    story.at(10, lambda: story.change("m0", protected=True))
    story.run(minutes=600)
    assert len(story.sent(Verb.REPLACE_OS_DISK)) == 1


def test_a_stand_in_that_is_being_made_when_an_alarm_fires_takes_nobodys_place() -> None:
    story = surging(5, rollback_on_breach=False)
    watch(story)
    fires(story, 0.5)
    story.run(minutes=60)
    assert story.images() == {f"m{n}": "1.0.0" for n in range(5)}


def test_new_machines_do_not_get_a_version_that_was_found_guilty() -> None:
    story = scale_set(6)
    story.publish("1.0.1")
    story.change("m5", protected=True)
    watch(story)
    story.run(minutes=60)
    story.change("m5", protected=False)
    story.rest()
    story.after(1.5, lambda: story.tell_alarm("errors", AlarmState.FIRING))
    story.run_on(minutes=30)
    assert story.rollout(2).guilty
    resize(story, 7)
    story.rest()
    story.run_on(minutes=60)
    assert story.images()["web-6"] == "1.0.0"
