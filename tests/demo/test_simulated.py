"""`upkeep demo --platform simulated`: the whole product but for the hypervisor, without root."""

import re
from typing import Any

import pytest
from tests.demo.demo_run import run_demo

pytestmark = pytest.mark.slow  # 12 s: two processes, two rolls.

TIMEOUT_S = 180
MACHINES = 4


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("demo") / "demo.json"
    document, said = run_demo(
        file, "--platform", "simulated", "--machines", str(MACHINES), timeout_s=TIMEOUT_S
    )
    assert re.search(r"most machines down at once: 1\b", said)
    return document


def test_the_file_has_what_the_readme_promises(report: dict[str, Any]) -> None:
    assert report["platform"] == "simulated"
    assert set(report) == {
        *("platform", "machines", "down_max", "polls", "polls_failed_while_rolling"),
        *("bad_version", "wall_s"),
    }
    assert set(report["wall_s"]) == {"build", "create", "roll", "bad_roll"}
    assert all(value > 0 for value in report["wall_s"].values())


def test_machines_roll_one_at_a_time_and_keep_their_data(report: dict[str, Any]) -> None:
    assert [machine["name"] for machine in report["machines"]] == [
        "web-0",
        "web-1",
        "web-2",
        "web-3",
    ]
    for machine in report["machines"]:
        assert machine["versions"] == ["1.0.0", "1.0.1", "1.0.1"], machine
        assert machine["data_kept"], machine
    assert report["down_max"] == 1
    assert report["polls_failed_while_rolling"] == 0
    # Ten a second of each machine; a tenth of that would be a poller that sleeps.
    assert report["polls"] > MACHINES * report["wall_s"]["roll"]


def test_the_broken_version_is_tried_on_one_machine_and_taken_back(report: dict[str, Any]) -> None:
    assert report["bad_version"] == {
        "version": "1.0.2",
        "halted_after_batch": 1,
        "machines_touched": 1,
        "machines_left_on_it": 0,
    }
    # Four boots where it was tried: 1.0.0, 1.0.1, 1.0.2 and 1.0.1 again.
    assert sorted(machine["boot_ids"] for machine in report["machines"]) == [2, 2, 2, 4]
