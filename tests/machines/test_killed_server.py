"""`kill -9` of the real server in the middle of a roll on real machines, and a restart.

The roll ends where it would have ended; the machines do not notice; nobody is down in vain.
"""

from collections.abc import Iterator

import pytest
from tests.machines.real_fleet import RealFleet

pytestmark = pytest.mark.machines

MACHINES = 4

# Moments of one machine's work, as the server's log tells of them.
LEASED = r"/replace_os_disk/1 machine=\S+ attempt=\d+ begins"
VERIFYING = r"/replace_os_disk/1 machine=\S+ succeeded=True"
BETWEEN_BATCHES = r"group=killed batch \d of \S+ is done"
GOING_BACK = r"/switch_back/2 machine=\S+ attempt=\d+ begins"


@pytest.fixture(scope="module")
def fleet(site: RealFleet) -> Iterator[RealFleet]:
    with site.machines_of("killed", MACHINES) as fleet:
        yield fleet


def kill_at(fleet: RealFleet, moment: str, *, after: int) -> int:
    """Kill the server at the next such moment, start it anew; where its log then begins."""
    fleet.wait_for_log(moment, after=after)
    fleet.kill_server()
    # All of them, but for the one that was between two supervisors when the server died.
    alive = {name: fleet.supervisor(name) for name in fleet.poller.seen}
    assert sum(pid != 0 for pid in alive.values()) >= MACHINES - 1
    end = fleet.stage.log.stat().st_size
    fleet.start_server()
    same = [name for name, pid in alive.items() if pid and fleet.supervisor(name) == pid]
    assert len(same) >= MACHINES - 1
    return end


def test_a_roll_survives_its_server(fleet: RealFleet) -> None:
    mark = fleet.stage.log.stat().st_size
    fleet.publish("1.0.1")
    for moment in (LEASED, VERIFYING, BETWEEN_BATCHES, LEASED):
        mark = kill_at(fleet, moment, after=mark)
    rollout = fleet.wait_for_end("1.0.1")
    assert rollout["batch"] == MACHINES
    for machine in fleet.poller.seen.values():
        assert machine.version == "1.0.1"
        assert len(machine.boot_ids) == 2, "one boot before the roll, one by it, none by a kill"
        assert len(machine.markers) == 1
    tally = fleet.poller.end_phase()
    assert tally.down_max == 1
    assert tally.polls_failed == 0


def test_a_halt_and_its_rollback_survive_it_too(fleet: RealFleet) -> None:
    mark = fleet.stage.log.stat().st_size
    fleet.publish("1.0.2")
    for moment in (VERIFYING, GOING_BACK):
        mark = kill_at(fleet, moment, after=mark)
    rollout = fleet.wait_for_end("1.0.2")
    assert rollout["batch"] == 1
    seen = fleet.poller.seen.values()
    assert [machine.version for machine in seen] == ["1.0.1"] * MACHINES
    tried = [machine for machine in seen if "1.0.2" in machine.versions_seen]
    assert len(tried) == 1
    assert len(tried[0].boot_ids) == 4
    assert all(len(machine.boot_ids) == 2 for machine in seen if machine is not tried[0])
    assert fleet.poller.end_phase().down_max == 1
