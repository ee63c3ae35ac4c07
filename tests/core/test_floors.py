"""Floor versions: stepping stones that no machine goes past without having run them.

Source: sheet os-image §12 (Flatcar's Nebraska); docs/adr/0021.
"""

from dataclasses import replace
from typing import Any

import pytest
from tests.core.story import Story, a_group, machines_of, reasons, share

from upkeep.core.hold import HoldReason
from upkeep.core.model import RolloutCode, RolloutState, Verb
from upkeep.core.policy import RollingPolicy
from upkeep.core.version import ImageVersion, ReplicationState, floor_between


def story_of(*images: str, floors: tuple[str, ...] = ("2.0.0",), **policy: Any) -> Story:
    """A machine on each image; versions 1.0.0, 2.0.0 and 3.0.0."""
    machines = [
        replace(machine, image=image)
        for machine, image in zip(machines_of(len(images)), images, strict=True)
    ]
    story = Story(
        machines,
        versions=("1.0.0", "2.0.0", "3.0.0"),
        policy=RollingPolicy(**policy),
        budgets=(share(50),),
    )
    for version in floors:
        story.publish(version, floor=True)
    return story


def sent(story: Story) -> list[tuple[str, str]]:
    return [
        (str(action.machine), action.version)
        for _, plan in story.plans
        for action in plan.actions
        if action.verb is Verb.REPLACE_OS_DISK
    ]


@pytest.mark.parametrize(
    ("image", "target", "floor"),
    [
        ("1.0.0", "3.0.0", "1.5.0"),
        ("1.5.0", "3.0.0", "2.0.0"),
        ("2.0.0", "3.0.0", None),
        ("1.0.0", "1.5.0", None),
        ("1.0.0", "1.4.0", None),
    ],
)
def test_the_lowest_floor_between_comes_first(image: str, target: str, floor: str | None) -> None:
    versions = [ImageVersion(version=v, floor=True) for v in ("2.0.0", "1.5.0")]
    versions += [ImageVersion(version="1.2.0", floor=True, excluded=True)]
    versions += [ImageVersion(version="2.5.0")]
    assert floor_between(image, target, versions) == floor


def test_every_machine_goes_through_the_floor_in_a_rollout_of_its_own() -> None:
    story = story_of(*["1.0.0"] * 4).run(minutes=600)
    assert [(r.target, r.state) for r in story.rollouts.values()] == [
        ("2.0.0", RolloutState.COMPLETED),
        ("3.0.0", RolloutState.COMPLETED),
    ]
    assert set(story.images().values()) == {"3.0.0"}
    for machine in story.machines:
        assert [v for m, v in sent(story) if m == machine] == ["2.0.0", "3.0.0"]


def test_machines_past_the_floor_wait_for_the_others_to_reach_it_and_never_go_back() -> None:
    story = story_of("1.0.0", "2.5.0", "3.0.0").run(minutes=1)
    assert story.hold("m1") is HoldReason.NOT_IN_ROLLOUT
    story.run_on(minutes=300)
    assert sent(story) == [("m0", "2.0.0"), ("m0", "3.0.0"), ("m1", "3.0.0")]


def test_a_bad_floor_stops_who_must_go_through_it_and_nobody_else() -> None:
    story = story_of("1.0.0", "1.0.0", "2.0.0")
    story.ill_on = {(machine.name, "2.0.0") for machine in story.machines.values()}
    story.run(minutes=600)
    assert story.images() == {"m0": "1.0.0", "m1": "1.0.0", "m2": "3.0.0"}
    assert set(reasons(story).values()) == {HoldReason.VERSION_BAD}


def test_a_protected_machine_behind_the_floor_keeps_nobody_else() -> None:
    story = story_of("1.0.0", "2.0.0")
    story.change("m0", protected=True)
    story.run(minutes=300)
    assert story.images() == {"m0": "1.0.0", "m1": "3.0.0"}
    assert reasons(story) == {"m0": HoldReason.PROTECTED}


def test_a_floor_that_is_not_replicated_yet_is_waited_for() -> None:
    story = story_of("1.0.0", "2.0.0")
    story.publish("2.0.0", floor=True, replication=ReplicationState.REPLICATING)
    story.run(minutes=100)
    assert story.images() == {"m0": "1.0.0", "m1": "3.0.0"}
    assert reasons(story) == {"m0": HoldReason.FLOOR}
    story.at(101, lambda: story.publish("2.0.0", floor=True))
    story.run(minutes=400)
    assert set(story.images().values()) == {"3.0.0"}


def test_a_floor_that_is_excluded_is_none() -> None:
    story = story_of("1.0.0")
    story.publish("2.0.0", floor=True, excluded=True)
    story.run(minutes=100)
    assert sent(story) == [("m0", "3.0.0")]


def test_a_floor_that_is_set_during_a_rollout_is_gone_through_by_whoever_waits() -> None:
    story = story_of(*["1.0.0"] * 6, floors=())
    story.at(2, lambda: story.publish("2.0.0", floor=True))
    story.run(minutes=600)
    first, second, third = story.rollouts.values()
    assert (first.target, first.code) == ("3.0.0", RolloutCode.SUPERSEDED)
    assert "go through 2.0.0 first" in first.evidence
    assert (second.target, third.target) == ("2.0.0", "3.0.0")
    assert set(story.images().values()) == {"3.0.0"}


def test_who_was_announced_before_the_floor_was_set_does_not_go_past_it() -> None:
    story = story_of("1.0.0", floors=(), notice=RollingPolicy().health_wait)
    story.at(2, lambda: story.publish("2.0.0", floor=True))
    story.run(minutes=300)
    assert sent(story) == [("m0", "2.0.0"), ("m0", "3.0.0")]


def test_by_hand_the_floor_comes_first_too() -> None:
    story = story_of("1.0.0", "2.0.0")
    story.group = a_group(auto_upgrade=False)
    refused = story.call(Verb.REPLACE_OS_DISK, "m0", target="3.0.0")
    story.run(minutes=10)
    assert "go through 2.0.0 first" in story.answers[refused.id]
    story.call(Verb.REPLACE_OS_DISK)
    story.run(minutes=200)
    assert sent(story) == [("m0", "2.0.0")]
    story.call(Verb.REPLACE_OS_DISK)
    story.run(minutes=400)
    assert set(story.images().values()) == {"3.0.0"}
