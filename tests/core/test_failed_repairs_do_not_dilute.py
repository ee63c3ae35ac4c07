"""Repairs that did not heal are no evidence: neither against the version nor for it.

Found by the simulation (world 223): eight ill machines were tried first and went back; after
that each well machine that the bad version broke was one failure among nine, and no batch was
ever over the limit.
"""

from tests.core.story import Story, machines_of, one_version_newer, share

from upkeep.core.model import Health, Verb
from upkeep.core.policy import RollingPolicy


def _ill_machines_first(bad_on: range) -> Story:
    policy = RollingPolicy(max_batch_percent=10, max_unhealthy_percent=50)
    story = one_version_newer(machines_of(10), policy=policy, budgets=(share(100),))
    for number in range(4):
        story.change(f"m{number}", health=Health.UNHEALTHY)
    story.ill_on = {(f"m{number}", "1.0.1") for number in bad_on}
    return story


def test_the_first_well_machine_that_a_version_breaks_stops_it() -> None:
    story = _ill_machines_first(range(10)).run(minutes=120)
    assert story.sent(Verb.REPLACE_OS_DISK) == ["m0", "m1", "m2", "m3", "m4"]
    assert story.rollout().guilty


def test_repairs_that_healed_count_for_the_version() -> None:
    story = _ill_machines_first(range(4, 5)).run(minutes=120)
    assert "m9" in story.sent(Verb.REPLACE_OS_DISK)
    assert not story.rollout().guilty
