"""The main job on virtual machines; emulated where KVM does not work, so it takes its minutes.

Apart from test_demo.py, so that `-k libvirt` finds it.
"""

from pathlib import Path

import pytest
from tests.demo.demo_run import run_demo

pytestmark = pytest.mark.machines

MACHINES = 4
# Emulated on two shared cores: half a minute a boot; 30 min is a host that has no time at all.
TIMEOUT_S = 1_800


def test_libvirt_machines_roll_one_at_a_time_and_halt_a_broken_version(tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    options = ("--platform", "libvirt", "--machines", str(MACHINES))
    report, _ = run_demo(file, *options, timeout_s=TIMEOUT_S)
    assert report["platform"] == "libvirt"
    assert len(report["machines"]) == MACHINES
    for machine in report["machines"]:
        assert machine["versions"] == ["1.0.0", "1.0.1", "1.0.1"], machine
        assert machine["data_kept"], machine
    assert sorted(machine["boot_ids"] for machine in report["machines"]) == [2, 2, 2, 4]
    assert report["down_max"] == 1
    assert report["polls_failed_while_rolling"] == 0
    assert report["bad_version"] == {
        "version": "1.0.2",
        "halted_after_batch": 1,
        "machines_touched": 1,
        "machines_left_on_it": 0,
    }
