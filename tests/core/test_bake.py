"""The bake: healthy once is not enough, a blip is no failure, and flapping ends."""

from datetime import timedelta

from tests.core.story import machines_of, one_version_newer

from upkeep.core.model import Failure, Health
from upkeep.core.policy import RollingPolicy
from upkeep.core.task import TaskState

MINUTE = timedelta(minutes=1)


def test_the_machine_must_stay_healthy_for_the_bake_time() -> None:
    story = one_version_newer(machines_of(5), policy=RollingPolicy(bake_time=30 * MINUTE))
    story.at(20, lambda: story.see("m0", Health.UNHEALTHY))
    story.run(minutes=24)
    assert story.task("m0").state is TaskState.BAKING
    story.run_on(minutes=3)
    assert story.task("m0").failure is Failure.UNHEALTHY_IN_BAKE
    assert story.images()["m0"] == "1.0.0"


def test_a_blip_in_the_bake_time_is_no_failure_and_the_bake_begins_anew() -> None:
    story = one_version_newer(machines_of(1), policy=RollingPolicy(bake_time=30 * MINUTE))
    story.at(20, lambda: story.see("m0", Health.UNHEALTHY))
    story.at(22, lambda: story.see("m0", Health.HEALTHY))
    assert story.run(minutes=50).task("m0").state is TaskState.BAKING
    assert story.run_on(minutes=3).task("m0").state is TaskState.DONE


def test_a_machine_that_flaps_all_through_its_bake_time_fails_in_the_end() -> None:
    story = one_version_newer(machines_of(1), policy=RollingPolicy(bake_time=30 * MINUTE))
    for minute in range(4, 90, 4):
        story.at(minute, lambda: story.see("m0", Health.UNHEALTHY))
        story.at(minute + 2, lambda: story.see("m0", Health.HEALTHY))
    assert story.run(minutes=60).task("m0").state is TaskState.BAKING
    story.run_on(minutes=10)
    assert story.task("m0").failure is Failure.UNHEALTHY_IN_BAKE


def test_a_machine_that_only_starts_again_when_its_bake_time_ends_is_waited_for() -> None:
    story = one_version_newer(machines_of(1), policy=RollingPolicy(bake_time=30 * MINUTE))
    story.at(31, lambda: story.see("m0", Health.INITIALIZING))
    assert story.run(minutes=40).task("m0").state is TaskState.BAKING
    story.see("m0", Health.HEALTHY)
    assert story.run_on(minutes=20).task("m0").state is TaskState.BAKING  # Anew, from minute 40.
    assert story.run_on(minutes=11).task("m0").state is TaskState.DONE
