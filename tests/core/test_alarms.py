"""Alarms: what must stay quiet while a rollout goes over a group.

Source: sheet os-image §12 (AWS instance refresh: alarms with rollback); docs/adr/0020.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.core.story import START, Story, a_group, machines_of, one_version_newer, reasons, share

from upkeep.core.alarm import Alarm, AlarmAction, AlarmState, told
from upkeep.core.hold import HoldReason
from upkeep.core.model import GroupKind, Lifecycle, RolloutCode, RolloutState, Verb
from upkeep.core.policy import RollingPolicy

MINUTE = timedelta(minutes=1)
FIRING, QUIET, UNKNOWN = AlarmState.FIRING, AlarmState.QUIET, AlarmState.UNKNOWN


def watched(
    action: AlarmAction, *, state: AlarmState = QUIET, by_hand: bool = False, **policy: Any
) -> Story:
    """Six machines, and an alarm that has been in its state for an hour."""
    group = a_group(auto_upgrade=not by_hand, policy=RollingPolicy(**policy))
    story = one_version_newer(machines_of(6), group=group, budgets=(share(50),))
    alarm = told(
        Alarm(name="errors", action=action, since=START), state, "", now=START - 60 * MINUTE
    )
    story.alarms["errors"] = replace(alarm, detail="5 a second")
    if by_hand:
        story.call(Verb.REPLACE_OS_DISK)
    return story


def tell_at(story: Story, minute: float, state: AlarmState) -> None:
    story.at(minute, lambda: story.tell_alarm("errors", state, "7 a second"))


def begun(story: Story) -> int:
    return len(story.sent(Verb.REPLACE_OS_DISK))


@pytest.mark.parametrize("action", AlarmAction)
@pytest.mark.parametrize("state", [FIRING, UNKNOWN])
def test_nothing_begins_by_itself_unless_the_alarm_is_quiet(
    action: AlarmAction, state: AlarmState
) -> None:
    story = watched(action, state=state)
    tell_at(story, 60, QUIET)
    story.run(minutes=59)
    assert (begun(story), set(reasons(story).values())) == (0, {HoldReason.ALARM})
    assert "errors" in story.holds[0].lifted_by
    assert "5 a second" in story.holds[0].lifted_by
    story.run_on(minutes=300)
    assert story.rollout().state is RolloutState.COMPLETED


def test_a_rollout_waits_while_an_alarm_holds_it_and_goes_on_when_it_is_quiet() -> None:
    story = watched(AlarmAction.HOLD)
    tell_at(story, 1, FIRING)
    tell_at(story, 90, QUIET)
    story.run(minutes=89)
    assert (begun(story), story.rollout().state) == (1, RolloutState.RUNNING)
    assert set(reasons(story).values()) == {HoldReason.ALARM}
    story.run_on(minutes=300)
    assert story.rollout().state is RolloutState.COMPLETED


def test_an_alarm_that_halts_speaks_against_the_version_and_every_machine_goes_back() -> None:
    story = watched(AlarmAction.HALT, pause_between_batches=10 * MINUTE)
    tell_at(story, 20, FIRING)
    story.run(minutes=200)
    rollout = story.rollout()
    assert (rollout.state, rollout.code, rollout.guilty) == (
        RolloutState.FAULTED,
        RolloutCode.ALARM,
        True,
    )
    assert "alarm errors fired at" in rollout.evidence
    assert "7 a second" in rollout.evidence
    assert set(story.images().values()) == {"1.0.0"}
    assert begun(story) > 1
    assert set(reasons(story).values()) == {HoldReason.VERSION_BAD}
    assert story.claims == []


def test_an_alarm_that_was_quiet_again_before_anybody_looked_still_halts() -> None:
    story = watched(AlarmAction.HALT, bake_time=30 * MINUTE)

    def flicker() -> None:
        story.tell_alarm("errors", FIRING)
        story.tell_alarm("errors", QUIET)

    story.at(10, flicker)
    story.run(minutes=200)
    assert story.rollout().code is RolloutCode.ALARM
    assert set(story.images().values()) == {"1.0.0"}


def test_a_halt_waits_for_no_bake_and_no_notice() -> None:
    story = watched(AlarmAction.HALT, bake_time=timedelta(days=1))
    tell_at(story, 30, FIRING)
    story.run(minutes=40)
    assert story.rollout().state is RolloutState.FAULTED
    assert set(story.images().values()) == {"1.0.0"}
    story = watched(AlarmAction.HALT, notice=60 * MINUTE)
    tell_at(story, 80, FIRING)  # The first is done, the second has been announced.
    story.run(minutes=100)
    assert story.rollout().code is RolloutCode.ALARM
    assert (begun(story), story.claims) == (1, [])


@pytest.mark.parametrize("goes_back", [True, False])
def test_a_stand_in_that_still_bakes_goes_and_the_machine_it_stood_in_for_stays(
    goes_back: bool,
) -> None:
    group = a_group(
        kind=GroupKind.SCALE_SET,
        capacity=6,
        policy=RollingPolicy(max_surge=True, bake_time=30 * MINUTE, rollback_on_breach=goes_back),
    )
    story = one_version_newer(machines_of(6), group=group, budgets=(share(50),))
    story.alarms["errors"] = Alarm(
        name="errors", action=AlarmAction.HALT, state=QUIET, since=START - 60 * MINUTE
    )
    tell_at(story, 20, FIRING)
    story.run(minutes=200)
    assert story.rollout().code is RolloutCode.ALARM
    there = {m.name: m.image for m in story.machines.values() if m.lifecycle is Lifecycle.PRESENT}
    assert there == {f"m{n}": "1.0.0" for n in range(6)}
    left = {m.lifecycle for m in story.machines.values()} - {Lifecycle.PRESENT}
    assert left <= {Lifecycle.DELETED}
    assert len(story.sent(Verb.CREATE)) == len(story.sent(Verb.DELETE)) == 1


def test_an_alarm_before_anything_was_touched_is_not_the_versions_fault() -> None:
    story = watched(AlarmAction.HALT, notice=60 * MINUTE)
    tell_at(story, 30, FIRING)
    tell_at(story, 90, QUIET)
    story.run(minutes=89)
    assert (begun(story), set(reasons(story).values())) == (0, {HoldReason.ALARM})
    assert story.claims == []
    story.run_on(minutes=900)
    assert story.rollout().state is RolloutState.COMPLETED


def test_a_machine_that_was_drained_goes_on() -> None:
    story = watched(AlarmAction.HOLD, drain_timeout=10 * MINUTE)
    story.never_drained = {machine.name for machine in story.machines.values()}
    tell_at(story, 5, FIRING)
    story.run(minutes=60)
    assert begun(story) == 1


def test_who_starts_by_hand_is_not_held_by_what_fires_already() -> None:
    story = watched(AlarmAction.HALT, state=FIRING, by_hand=True)
    story.run(minutes=300)
    assert story.rollout().state is RolloutState.COMPLETED


@pytest.mark.parametrize(
    ("action", "code", "state"),
    [
        (AlarmAction.HOLD, RolloutCode.NONE, RolloutState.RUNNING),
        (AlarmAction.HALT, RolloutCode.ALARM, RolloutState.FAULTED),
    ],
)
def test_what_begins_to_fire_afterwards_counts_also_by_hand(
    action: AlarmAction, code: RolloutCode, state: RolloutState
) -> None:
    story = watched(action, by_hand=True)
    tell_at(story, 1, FIRING)
    story.run(minutes=300)
    assert (story.rollout().code, story.rollout().state, begun(story)) == (code, state, 1)


def test_other_work_does_not_wait_for_an_alarm() -> None:
    story = watched(AlarmAction.HOLD, state=FIRING, by_hand=False)
    story.call(Verb.RESTART, *sorted(story.machines)[:1])
    story.run(minutes=60)
    assert len(story.sent(Verb.RESTART)) == 1


def test_not_knowing_in_between_is_no_new_beginning() -> None:
    alarm = Alarm(name="a", action=AlarmAction.HALT, since=START)
    for minute, state in enumerate((FIRING, UNKNOWN, FIRING, FIRING)):
        alarm = told(alarm, state, "", now=START + minute * MINUTE)
    assert (alarm.fired_at, alarm.since) == (START, START + 2 * MINUTE)
    for minute, state in enumerate((QUIET, UNKNOWN, FIRING), start=10):
        alarm = told(alarm, state, "", now=START + minute * MINUTE)
    assert alarm.fired_at == START + 12 * MINUTE
