"""Twenty real machines at 20 %: four are down at once, seen from outside; not one, not five."""

from collections.abc import Iterator

import pytest
from tests.machines.real_fleet import RealFleet

pytestmark = pytest.mark.machines

MACHINES = 20
BATCH = 4


@pytest.fixture(scope="module")
def fleet(site: RealFleet) -> Iterator[RealFleet]:
    with site.machines_of("twenty", MACHINES) as fleet:
        yield fleet


def test_a_fifth_of_the_group_is_down_at_once(fleet: RealFleet) -> None:
    fleet.publish("1.0.1")
    rollout = fleet.wait_for_end("1.0.1")
    assert rollout["batch"] == MACHINES // BATCH
    seen = fleet.poller.seen.values()
    assert {machine.version for machine in seen} == {"1.0.1"}
    assert all(len(machine.boot_ids) == 2 for machine in seen)
    assert all(len(machine.markers) == 1 for machine in seen)
    tally = fleet.poller.end_phase()
    assert tally.down_max == BATCH
    assert tally.polls_failed == 0
