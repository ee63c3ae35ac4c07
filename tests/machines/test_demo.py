"""The main job, end to end on real machines: `upkeep demo` as a newcomer runs it."""

from typing import Any

import pytest
from tests.demo.demo_run import run_demo

TIMEOUT_S = 600


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("demo") / "demo.json"
    return run_demo(file, timeout_s=TIMEOUT_S)[0]


@pytest.mark.machines
def test_six_machines_roll_one_at_a_time_and_the_group_always_answers(
    report: dict[str, Any],
) -> None:
    assert len(report["machines"]) == 6
    assert report["down_max"] == 1
    assert report["polls"] > 100
    assert report["polls_failed_while_rolling"] == 0


@pytest.mark.machines
def test_every_machine_ends_on_the_good_version_with_its_data(report: dict[str, Any]) -> None:
    for machine in report["machines"]:
        assert machine["versions"] == ["1.0.0", "1.0.1", "1.0.1"], machine
        assert machine["data_kept"], machine
        assert machine["boot_ids"] in (2, 4), machine


@pytest.mark.machines
def test_the_broken_version_touches_one_machine_and_stays_on_none(report: dict[str, Any]) -> None:
    assert report["bad_version"] == {
        "version": "1.0.2",
        "halted_after_batch": 1,
        "machines_touched": 1,
        "machines_left_on_it": 0,
    }
    assert sum(machine["boot_ids"] == 4 for machine in report["machines"]) == 1
