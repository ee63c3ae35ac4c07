"""What only nspawn machines do: supervisors, control groups, reboots from inside, full disks.

The port's own contract is in tests/contract/test_platform.py.
"""

import json
import os
import shutil
import signal
import subprocess
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from platform_fleet import Fleet
from platforms import APP_PORT, NSPAWN, NSPAWN_BRIDGE, nowhere, nspawn_missing, wait_for

from upkeep.platforms.nspawn import NspawnPlatform
from upkeep.ports import DriverError, DriverErrorKind, OsImage, Power

pytestmark = pytest.mark.machines


@pytest.fixture(scope="module")
def images() -> Callable[[str], OsImage]:
    if why := nspawn_missing():
        pytest.skip(why)
    built: dict[str, OsImage] = {}
    return lambda version: (
        built.get(version) or built.setdefault(version, NSPAWN.make_image(version))
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("nspawn")
    yield root
    NSPAWN.close()
    shutil.rmtree(root)


@pytest.fixture
def fleet(root: Path, images: Callable[[str], OsImage]) -> Iterator[Fleet]:
    fleet = Fleet(NSPAWN, root, NSPAWN.open(root, nowhere), images)
    yield fleet
    fleet.delete_all()


def post(fleet: Fleet, name: str, path: str) -> None:
    request = urllib.request.Request(
        f"http://{fleet.status(name).address}:{APP_PORT}{path}", method="POST"
    )
    with urllib.request.urlopen(request, timeout=5):
        pass


def runtime(fleet: Fleet, name: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(
        (fleet.root / "machines" / name / "runtime.json").read_text()
    )
    return found


def processes(fleet: Fleet, name: str) -> set[int]:
    """Every process of the machine, seen from the host."""
    platform: Any = fleet.platform
    facts = platform._journal.read(name).facts
    found: set[int] = platform._groups(facts).pids()
    return found


def test_a_reboot_from_inside_starts_the_machine_again(fleet: Fleet) -> None:
    name = fleet.create()
    supervisor = runtime(fleet, name)["pid"]
    post(fleet, name, "/touch")
    post(fleet, name, "/reboot")
    seen = fleet.look(name, starts=2)
    assert seen["touched"], "a reboot must keep the OS disk"
    assert fleet.status(name).boots == 2
    assert runtime(fleet, name)["pid"] == supervisor


def test_a_machine_that_powers_itself_off_is_off(fleet: Fleet) -> None:
    name = fleet.create()
    post(fleet, name, "/power-off")
    wait_for(NSPAWN, "off", lambda: fleet.status(name).power is Power.OFF)
    fleet.platform.start(name, key=fleet.key(), fence=1)
    assert fleet.look(name)["starts"] == 2


def test_killing_the_supervisor_is_a_power_loss(fleet: Fleet) -> None:
    """The machine dies with it at once; start brings it back with OS disk and data."""
    name = fleet.create()
    post(fleet, name, "/touch")
    inside = processes(fleet, name)
    assert len(inside) > 4, "supervisor, nspawn, systemd, journal, application"
    os.kill(runtime(fleet, name)["pid"], signal.SIGKILL)
    wait_for(NSPAWN, "off", lambda: fleet.status(name).power is Power.OFF)
    wait_for(NSPAWN, "no process left", lambda: not processes(fleet, name))
    assert fleet.look_now(name) is None
    fleet.platform.start(name, key=fleet.key(), fence=1)
    seen = fleet.look(name)
    assert seen["starts"] == 2
    assert seen["touched"]


def test_killing_nspawn_leaves_nothing_half_alive(fleet: Fleet) -> None:
    name = fleet.create()
    supervisor = runtime(fleet, name)["pid"]
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    wait_for(NSPAWN, "off", lambda: fleet.status(name).power is Power.OFF)
    wait_for(NSPAWN, "no process left", lambda: not processes(fleet, name))


def test_a_machine_that_hangs_on_stop_is_killed(root: Path, fleet: Fleet) -> None:
    name = fleet.create()
    fleet.platform.stop(name, key=fleet.key(), fence=1)
    impatient = NspawnPlatform(root, bridge=NSPAWN_BRIDGE, stop_time_max_s=2)
    impatient.start(name, key=fleet.key(), fence=1)
    fleet.look(name, starts=2)
    post(fleet, name, "/hang")
    impatient.stop(name, key=fleet.key(), fence=1)
    assert fleet.status(name).power is Power.OFF
    assert not processes(fleet, name)


def test_a_reused_process_number_is_not_taken_for_the_supervisor(fleet: Fleet) -> None:
    """The recorded number now belongs to somebody else: it must not get our signal."""
    name = fleet.create()
    fleet.platform.stop(name, key=fleet.key(), fence=1)
    with subprocess.Popen(("sleep", "60")) as bystander:
        path = fleet.root / "machines" / name / "runtime.json"
        path.write_text(json.dumps({"pid": bystander.pid, "start_ticks": 1, "boots": 1}))
        assert fleet.status(name).power is Power.OFF
        fleet.platform.stop(name, key=fleet.key(), fence=1)
        assert bystander.poll() is None
        bystander.kill()


def test_the_old_disk_is_kept_as_it_was_and_the_one_before_is_dropped(fleet: Fleet) -> None:
    name = fleet.create()
    disks = fleet.root / "machines" / name / "disks"
    post(fleet, name, "/touch")
    fleet.platform.replace_os_disk(name, fleet.images("1.0.1"), {}, key=fleet.key(), fence=1)
    assert not fleet.look(name, version="1.0.1")["touched"]
    fleet.platform.switch_back(name, key=fleet.key(), fence=1)
    seen = fleet.look(name, version="1.0.0")
    assert seen["touched"]
    assert seen["seed"]["hello"] == "first", "the seed belongs to the disk"
    fleet.platform.replace_os_disk(name, fleet.images("1.0.2"), {}, key=fleet.key(), fence=1)
    assert len(list(disks.iterdir())) == 2


def test_the_data_volume_and_the_seed_are_as_the_guest_contract_says(fleet: Fleet) -> None:
    name = fleet.create()
    seen = fleet.look(name)
    network = json.loads(seen["seed"]["network.json"])
    assert network["address"].split("/")[0] == fleet.status(name).address
    inside = f"/proc/{leader(fleet, name)}/root"
    mounts = Path(f"/proc/{leader(fleet, name)}/mounts").read_text().splitlines()
    options = {line.split()[1]: line.split()[3].split(",") for line in mounts}
    assert "rw" in options["/data"]
    assert "ro" in options["/run/upkeep-seed"]
    assert os.readlink(f"{inside}/var/lib/upkeep") == "/data/upkeep"
    assert Path(f"{inside}/data/upkeep").is_dir()


def leader(fleet: Fleet, name: str) -> int:
    """The machine's PID 1 as the host sees it: in a PID namespace below the supervisor's."""
    for pid in processes(fleet, name):
        status = Path(f"/proc/{pid}/status").read_text()
        numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
        if len(numbers) == 4 and numbers[-1] == "1":
            return pid
    raise AssertionError("the machine has no PID 1")


def test_prune_removes_only_images_that_no_disk_stands_on(fleet: Fleet) -> None:
    name = fleet.create()
    fleet.platform.replace_os_disk(name, fleet.images("1.0.1"), {}, key=fleet.key(), fence=1)
    platform: Any = fleet.platform
    platform.prune_images()
    used = {fleet.images(version).sha256 for version in ("1.0.0", "1.0.1")}
    folders = {path.name for path in (fleet.root / "images").iterdir() if path.is_dir()}
    assert folders == used
    fleet.platform.switch_back(name, key=fleet.key(), fence=1)
    fleet.look(name, version="1.0.0")


def test_a_full_disk_is_told_and_leaves_the_machine_absent(
    tmp_path: Path, images: Callable[[str], OsImage]
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(small)), check=True)
    try:
        fleet = Fleet(NSPAWN, small, NSPAWN.open(small, nowhere), images)
        spec = fleet.spec()
        with pytest.raises(DriverError) as caught:
            fleet.platform.create(spec, key="k", fence=1)
        assert caught.value.kind is DriverErrorKind.NO_SPACE
        assert fleet.status(spec.name).power is Power.ABSENT
    finally:
        subprocess.run(("umount", str(small)), check=True)


@pytest.mark.parametrize(
    ("command", "package"), [("systemd-nspawn", "systemd-container"), ("ip", "iproute2")]
)
def test_a_missing_command_names_its_package(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, package: str
) -> None:
    for tool in ("systemd-nspawn", "ip", "mount", "tar", "sync"):
        found = shutil.which(tool)
        assert found is not None
        if tool != command:
            (tmp_path / tool).symlink_to(found)
    name = fleet.create()
    fleet.platform.stop(name, key=fleet.key(), fence=1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DriverError) as caught:
        fleet.platform.start(name, key=fleet.key(), fence=1)
    assert caught.value.kind is DriverErrorKind.TOOL_MISSING
    assert f"apt-get install {package}" in caught.value.detail


def test_a_second_root_does_not_get_a_bridge_in_use(
    fleet: Fleet, tmp_path: Path, images: Callable[[str], OsImage]
) -> None:
    fleet.create()
    other = NSPAWN.open(tmp_path / "other", nowhere)
    spec = replace(fleet.spec(), name="other", uuid=str(uuid.uuid4()))
    with pytest.raises(DriverError) as caught:
        other.create(spec, key="k", fence=1)
    assert NSPAWN_BRIDGE.name in caught.value.detail
    other.delete("other", key="d", fence=1)


def test_machines_that_come_and_go_leave_the_bridge_its_hardware_address(fleet: Fleet) -> None:
    """The others know the host by it: another one would cut them off for seconds."""
    device = Path("/sys/class/net") / NSPAWN_BRIDGE.name
    first = fleet.create()
    address = (device / "address").read_text()
    # Interfaces draw their addresses: among five, one is lower than the first with 5 in 6.
    others = [fleet.create() for _ in range(4)]
    assert (device / "address").read_text() == address
    for name in (first, *others):
        fleet.platform.stop(name, key=fleet.key(), fence=1)
    assert (device / "address").read_text() == address


def test_nothing_is_left_on_the_host_after_delete(fleet: Fleet) -> None:
    name = fleet.create()
    platform: Any = fleet.platform
    facts = platform._journal.read(name).facts
    machine_id = platform._machine_id(facts)
    groups = platform._groups(facts)
    assert Path(f"/sys/class/net/vb-{machine_id}").exists()
    fleet.platform.delete(name, key=fleet.key(), fence=1)
    assert not (fleet.root / "machines" / name).exists()
    assert not any(path.exists() for path in groups.paths)
    assert machine_id not in Path("/proc/mounts").read_text()
    wait_for(NSPAWN, "link gone", lambda: not Path(f"/sys/class/net/vb-{machine_id}").exists())
