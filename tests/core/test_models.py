"""Changed models: custom data and scripts that machines were not given at their first boot yet.

Source: sheet os-image §1, §2.3 (`mode`); docs/adr/0022.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.core.story import START, Story, a_group, machines_of, reasons, share

from upkeep.core.alarm import Alarm, AlarmAction, AlarmState
from upkeep.core.hold import HoldReason
from upkeep.core.model import (
    GroupKind,
    Health,
    Lifecycle,
    MachineId,
    RolloutCode,
    RolloutState,
    StartedBy,
    UpgradeMode,
    Verb,
)
from upkeep.core.policy import RollingPolicy
from upkeep.core.snapshot import GROUPS_MODEL
from upkeep.core.version import ReplicationState

MINUTE = timedelta(minutes=1)
AUTOMATIC, MANUAL, ROLLING = UpgradeMode.AUTOMATIC, UpgradeMode.MANUAL, UpgradeMode.ROLLING


def changed(
    mode: UpgradeMode, *, count: int = 6, versions: tuple[str, ...] = ("1.0.0",), **policy: Any
) -> Story:
    """Machines with model a, in a group that has model b now."""
    group = a_group(model="b", baked_model="a", upgrade_mode=mode, capacity=count)
    machines = machines_of(count, model="a")
    return Story(
        machines,
        group=group,
        versions=versions,
        policy=RollingPolicy(**policy),
        budgets=(share(50),),
    )


def models(story: Story) -> list[str]:
    return [m.model for m in story.machines.values() if m.lifecycle is Lifecycle.PRESENT]


def disks(story: Story) -> list[tuple[str, str, str]]:
    """Each new OS disk: its machine, version and model."""
    return [
        (str(action.machine), action.version, action.model)
        for _, plan in story.plans
        for action in plan.actions
        if action.version and action.verb is not Verb.SWITCH_BACK
    ]


def change_model(story: Story, model: str) -> None:
    story.group = replace(story.group, model=model)


def go_on(story: Story, *, minutes: float) -> None:
    story.rest()
    story.run_on(minutes=minutes)


def test_in_mode_rolling_a_changed_model_reaches_every_machine_in_batches() -> None:
    story = changed(ROLLING)
    story.run(minutes=120)
    rollout = story.rollout()
    assert (rollout.state, rollout.verb, rollout.target) == (
        RolloutState.COMPLETED,
        Verb.REIMAGE,
        "b",
    )
    assert models(story) == ["b"] * 6
    assert [len(batch) for batch in story.batches()] == [1] * 6
    assert set(story.images().values()) == {"1.0.0"}
    assert story.group.baked_model == "b"
    assert not story.holds


def test_in_mode_manual_every_machine_waits_for_a_person_and_says_so() -> None:
    story = changed(MANUAL)
    story.run(minutes=10)
    assert set(reasons(story).values()) == {HoldReason.MODEL_BY_HAND}
    assert "upgrade mode" in story.holds[0].lifted_by
    story.call(Verb.REPLACE_OS_DISK, "m2")
    go_on(story, minutes=60)
    assert models(story) == ["a", "a", "b", "a", "a", "a"]
    assert story.rollout().started_by is StartedBy.USER
    assert len(reasons(story)) == 5


def test_a_person_asks_for_the_model_and_no_version() -> None:
    story = changed(MANUAL, versions=("1.0.0", "1.0.1"))
    story.group = replace(story.group, auto_upgrade=False)
    story.call(Verb.REPLACE_OS_DISK, target=GROUPS_MODEL)
    story.run(minutes=60)
    assert {disk[1:] for disk in disks(story)} == {("1.0.0", "b")}
    again = story.call(Verb.REPLACE_OS_DISK, target=GROUPS_MODEL)
    go_on(story, minutes=1)
    assert "another model than b" in story.answers[again.id]


def test_in_mode_automatic_nothing_is_waited_for_but_places_and_batches() -> None:
    waits = {
        "pause_between_batches": 60 * MINUTE,
        "needs_approval": True,
        "canary_percent": 10,
        "checkpoints": (10, 50),
        "checkpoint_bake": 600 * MINUTE,
        "ramp": 6000 * MINUTE,
        "start_hook_wait": 60 * MINUTE,
        "batch_hook_wait": 60 * MINUTE,
    }
    story = changed(AUTOMATIC, **waits)
    story.run(minutes=60)
    assert models(story) == ["b"] * 6
    assert max(len(batch) for batch in story.batches()) == 1
    waiting = changed(ROLLING, **waits)
    waiting.run(minutes=60)
    assert models(waiting) == ["a"] * 6


def test_a_bad_model_stops_at_the_first_batch_and_goes_back_by_a_switch() -> None:
    story = changed(ROLLING)
    story.ill_on |= {(f"m{n}", "b") for n in range(6)}
    story.run(minutes=300)
    rollout = story.rollout()
    assert (rollout.state, rollout.guilty) == (RolloutState.FAULTED, True)
    assert models(story) == ["a"] * 6
    assert len(story.sent(Verb.REIMAGE)) == len(story.sent(Verb.SWITCH_BACK)) == 1
    assert set(reasons(story).values()) == {HoldReason.MODEL_BAD}
    assert "change the model" in story.holds[0].lifted_by
    assert any("model b is to blame" in line for _, plan in story.plans for line in plan.story)


def test_who_goes_back_to_the_model_before_finds_the_machines_up_to_date() -> None:
    story = changed(ROLLING)
    story.ill_on |= {(f"m{n}", "b") for n in range(6)}
    story.run(minutes=300)
    change_model(story, "a")
    go_on(story, minutes=60)
    assert not story.holds
    assert len(story.rollouts) == 1
    change_model(story, "c")
    go_on(story, minutes=300)
    assert models(story) == ["c"] * 6


def test_another_model_takes_over_between_two_batches() -> None:
    story = changed(ROLLING, bake_time=5 * MINUTE)
    story.at(12, lambda: change_model(story, "c"))
    story.run(minutes=300)
    assert story.rollout(1).code is RolloutCode.SUPERSEDED
    assert models(story) == ["c"] * 6
    taken = [machine for machine, _, model in disks(story) if model == "b"]
    assert 0 < len(taken) < 6


def test_a_new_version_goes_first_with_the_model_that_the_machines_have() -> None:
    story = changed(ROLLING, versions=("1.0.0", "1.0.1"))
    story.run(minutes=300)
    first, second = disks(story)[:6], disks(story)[6:]
    assert {(version, model) for _, version, model in first} == {("1.0.1", "a")}
    assert {(version, model) for _, version, model in second} == {("1.0.1", "b")}
    assert (story.rollout(1).target, story.rollout(2).target) == ("1.0.1", "b")


def test_a_new_version_takes_over_from_a_model_between_two_batches() -> None:
    story = changed(ROLLING, bake_time=5 * MINUTE)
    story.at(12, lambda: story.publish("1.0.1"))
    story.run(minutes=400)
    assert story.rollout(1).code is RolloutCode.SUPERSEDED
    assert models(story) == ["b"] * 6
    # Who had the model already keeps it on the disk of the new version.
    of_first = {machine for machine, version, _ in disks(story) if version == "1.0.0"}
    kept = {
        machine for machine, version, model in disks(story) if (version, model) == ("1.0.1", "b")
    }
    assert of_first <= kept


def test_in_mode_manual_a_new_version_brings_the_model_along_and_the_verdict_says_so() -> None:
    story = changed(MANUAL, versions=("1.0.0", "1.0.1"))
    story.ill_on |= {(f"m{n}", "b") for n in range(6)}
    story.run(minutes=200)
    assert disks(story)[0][1:] == ("1.0.1", "b")
    rollout = story.rollout()
    assert (rollout.target, rollout.guilty) == ("1.0.1", True)
    assert "It may be the model as well, b" in rollout.evidence
    assert models(story) == ["a"] * 6


@pytest.mark.parametrize(("mode", "expected"), [(MANUAL, "b"), (ROLLING, "a"), (AUTOMATIC, "a")])
def test_a_machine_that_is_made_now_has_the_last_model_that_baked(
    mode: UpgradeMode, expected: str
) -> None:
    story = changed(mode)
    story.group = replace(story.group, kind=GroupKind.SCALE_SET, capacity=7, paused=False)
    story.ill_on |= {(f"m{n}", "b") for n in range(6)}
    story.run(minutes=5)
    made = [model for machine, _, model in disks(story) if machine.startswith("m_g_")]
    assert made == [expected]


def test_what_no_machine_has_any_more_is_not_kept_up() -> None:
    """A set that was empty when its custom data was changed."""
    group = a_group(
        kind=GroupKind.SCALE_SET, model="b", baked_model="a", upgrade_mode=ROLLING, capacity=2
    )
    story = Story([], group=group)
    story.run(minutes=30)
    assert models(story) == ["b", "b"]
    assert story.group.baked_model == "b", "its machines came up well with it"
    change_model(story, "c")
    story.group = replace(story.group, capacity=3, policy=RollingPolicy(bake_time=60 * MINUTE))
    go_on(story, minutes=10)
    assert [model for _, _, model in disks(story)][2:].count("b") == 1


def test_a_guilty_model_is_given_to_nobody_by_the_way() -> None:
    story = changed(MANUAL)
    story.group = replace(story.group, kind=GroupKind.SCALE_SET)
    story.ill_on |= {("m0", "b")}
    story.call(Verb.REPLACE_OS_DISK, "m0")
    story.run(minutes=200)
    assert story.rollout().guilty
    story.call(Verb.REIMAGE, "m1")
    go_on(story, minutes=60)
    assert [model for machine, _, model in disks(story) if machine == "m1"] == ["a"]


def test_a_machine_whose_model_nobody_knows_is_not_called_behind() -> None:
    story = changed(ROLLING)
    for machine in list(story.machines):
        story.change(machine, model="")
    story.run(minutes=30)
    assert (story.rollouts, story.holds) == ({}, ())


def test_a_model_waits_for_the_same_windows_as_a_version() -> None:
    story = changed(ROLLING)
    story.windows = ()
    story.run(minutes=30)
    assert set(reasons(story).values()) == {HoldReason.OUTSIDE_WINDOW}
    assert models(story) == ["a"] * 6


def test_a_rollback_that_finds_its_disk_gone_is_a_fresh_disk_of_the_model_before() -> None:
    story = changed(ROLLING)
    story.ill_on |= {(f"m{n}", "b") for n in range(6)}
    story.at(3, lambda: story.change("m0", kept="", kept_model=""))
    story.run(minutes=300)
    assert disks(story) == [("m0", "1.0.0", "b"), ("m0", "1.0.0", "a")]
    assert models(story) == ["a"] * 6
    assert {m.health for m in story.machines.values()} == {Health.HEALTHY}


def test_a_machine_that_nobody_reaches_makes_no_rollout_begin_anew() -> None:
    story = changed(ROLLING, versions=("1.0.0", "1.0.1"), canary_percent=10)
    for name in ("m0", "m1", "m2", "m3", "m4"):
        story.change(name, image="1.0.1")
    story.see("m5", Health.UNKNOWN)
    story.run(minutes=600)
    assert [rollout.target for rollout in story.rollouts.values()] == ["b"]
    assert models(story).count("b") == 1, "the canary waits for a person"


def test_a_guilty_model_that_baked_before_is_given_to_nobody() -> None:
    story = changed(MANUAL)
    story.call(Verb.REPLACE_OS_DISK, "m0")
    story.run(minutes=60)
    assert story.group.baked_model == "b"
    story.ill_on |= {(f"m{n}", "b") for n in range(1, 6)}
    story.call(Verb.REPLACE_OS_DISK)
    go_on(story, minutes=300)
    assert story.rollout(2).guilty
    before = len(disks(story))
    story.publish("1.0.1")
    go_on(story, minutes=300)
    assert {model for _, _, model in disks(story)[before:]} == {"a"}


def test_what_came_along_with_a_version_has_baked_too() -> None:
    story = changed(MANUAL, versions=("1.0.0", "1.0.1"))
    story.run(minutes=120)
    assert (story.group.baked, story.group.baked_model) == ("1.0.1", "b")


def test_machines_from_before_models_had_names_get_a_new_one_apart_from_a_version() -> None:
    story = changed(ROLLING, versions=("1.0.0", "1.0.1"))
    for machine in list(story.machines):
        story.change(machine, model="")
    story.run(minutes=300)
    assert {disk[1:] for disk in disks(story)[:6]} == {("1.0.1", "a")}
    assert {disk[1:] for disk in disks(story)[6:]} == {("1.0.1", "b")}


def test_an_image_that_cannot_be_read_is_not_the_models_fault() -> None:
    story = changed(ROLLING)
    story.refused[(MachineId("m0"), Verb.REIMAGE)] = "bad_image"
    story.run(minutes=30)
    rollout = story.rollout()
    assert (rollout.state, rollout.guilty) == (RolloutState.FAULTED, False)
    assert set(reasons(story).values()) == {HoldReason.RETRY_LATER}


def test_a_version_that_goes_back_without_its_disk_takes_its_model_along() -> None:
    story = changed(MANUAL, versions=("1.0.0", "1.0.1"))
    story.ill_on |= {(f"m{n}", "b") for n in range(6)}
    story.at(3, lambda: story.change("m0", kept="", kept_model=""))
    story.run(minutes=200)
    assert disks(story)[:2] == [("m0", "1.0.1", "b"), ("m0", "1.0.0", "a")]
    assert set(models(story)) == {"a"}


def test_a_stand_in_that_leaves_a_guilty_version_has_the_old_machines_model() -> None:
    story = changed(
        MANUAL, versions=("1.0.0", "1.0.1"), max_surge=True, max_unhealthy_upgraded_percent=0
    )
    story.group = replace(story.group, kind=GroupKind.SCALE_SET)
    story.ill_on |= {("web-1", "1.0.1")}
    story.run(minutes=300)
    assert story.rollout().guilty
    back = [disk for disk in disks(story) if disk[0] == "m_g_0"]
    assert [disk[1:] for disk in back] == [("1.0.1", "b"), ("1.0.0", "a")]


def test_a_persons_rollout_of_a_model_ends_when_the_model_is_changed() -> None:
    story = changed(MANUAL, bake_time=5 * MINUTE)
    story.call(Verb.REPLACE_OS_DISK)
    story.at(12, lambda: change_model(story, "c"))
    story.run(minutes=200)
    assert story.rollout().code is RolloutCode.SUPERSEDED
    assert 0 < models(story).count("b") < 6


def test_who_asks_for_a_version_that_is_not_there_yet_gets_no_model_instead() -> None:
    story = changed(MANUAL, versions=("1.0.0", "2.0.0", "3.0.0"))
    story.publish("2.0.0", floor=True, replication=ReplicationState.REPLICATING)
    call = story.call(Verb.REPLACE_OS_DISK)
    story.run(minutes=1)
    assert "2.0.0" in story.answers[call.id]
    assert story.rollouts == {}


def test_a_version_that_came_with_a_new_model_says_so_only_where_it_did() -> None:
    story = changed(ROLLING, versions=("1.0.0", "1.0.1"))
    story.ill_on |= {(f"m{n}", "1.0.1") for n in range(6)}
    story.run(minutes=300)
    assert story.rollout().guilty
    assert "model" not in story.rollout().evidence


def test_in_mode_automatic_a_bad_model_goes_back_and_a_small_budget_holds() -> None:
    story = changed(AUTOMATIC, count=10, max_batch_percent=50, max_unhealthy_percent=50)
    story.budgets = (share(10),)
    story.ill_on |= {(f"m{n}", "b") for n in range(10)}
    story.run(minutes=300)
    assert story.rollout().guilty
    assert models(story) == ["a"] * 10
    assert [len(batch) for batch in story.batches()] == [1]


def test_an_alarm_that_halts_takes_a_model_back() -> None:
    story = changed(ROLLING, pause_between_batches=10 * MINUTE)
    story.alarms["errors"] = Alarm(
        name="errors", action=AlarmAction.HALT, state=AlarmState.QUIET, since=START - 60 * MINUTE
    )
    story.at(20, lambda: story.tell_alarm("errors", AlarmState.FIRING, ""))
    story.run(minutes=200)
    assert (story.rollout().code, story.rollout().guilty) == (RolloutCode.ALARM, True)
    assert models(story) == ["a"] * 6


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"canary_percent": 10}, HoldReason.CANARY),
        ({"checkpoints": (20,), "checkpoint_bake": 600 * MINUTE}, HoldReason.CHECKPOINT),
        ({"ramp": 6000 * MINUTE}, HoldReason.RAMP),
        ({"needs_approval": True}, HoldReason.NEEDS_APPROVAL),
        ({"start_hook_wait": 600 * MINUTE}, HoldReason.HOOK),
        ({"batch_hook_wait": 600 * MINUTE}, HoldReason.HOOK),
        ({"pause_between_batches": 60 * MINUTE}, HoldReason.PAUSE_BETWEEN_BATCHES),
    ],
)
def test_in_mode_rolling_a_model_waits_as_a_version_does_and_in_automatic_it_does_not(
    policy: dict[str, Any], reason: HoldReason
) -> None:
    story = changed(ROLLING, **policy)
    story.run(minutes=50)
    assert reason in reasons(story).values()
    assert models(story).count("b") <= 1
    at_once = changed(AUTOMATIC, **policy)
    at_once.run(minutes=50)
    assert models(at_once) == ["b"] * 6
