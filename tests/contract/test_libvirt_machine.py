"""What only virtual machines have: reboots from inside, a dead power button, foreign disk files.

On the tiny guest of the contract suite (`tiny_guest.py`), emulated where KVM does not work.
"""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import libvirt
import pytest
import tiny_guest
from platform_fleet import Fleet
from platforms import LIBVIRT, LIBVIRT_BRIDGE, wait_for

from upkeep.platforms.libvirt import LibvirtPlatform
from upkeep.platforms.libvirt_daemons import SYSTEM_URI
from upkeep.ports import DriverError, DriverErrorKind, OsImage, Power

pytestmark = [
    pytest.mark.machines,
    pytest.mark.parametrize("case", [LIBVIRT], indirect=True, ids=["libvirt"]),
]


def domain_of(fleet: Fleet, name: str) -> Any:
    connection = libvirt.open(SYSTEM_URI)
    uuid = fleet.look(name)["uuid"]
    return connection.lookupByUUIDString(uuid)


def act(fleet: Fleet, name: str, what: str) -> None:
    assert tiny_guest.ask(fleet.status(name), f"act?{what}") is not None


def test_a_reboot_from_inside_counts_and_is_nobodys_work(fleet: Fleet) -> None:
    name = fleet.create()
    number = domain_of(fleet, name).ID()
    act(fleet, name, "reboot")
    fleet.look(name, starts=2)
    assert fleet.status(name).boots == 2
    assert domain_of(fleet, name).ID() == number  # QEMU went on; nobody started it.
    fleet.platform.restart(name, key=fleet.key(), fence=1)
    fleet.look(name, starts=3)
    assert fleet.status(name).boots == 3


def test_a_machine_that_powers_itself_off_is_off(fleet: Fleet) -> None:
    name = fleet.create()
    act(fleet, name, "power-off")
    wait_for(fleet.case, "off", lambda: fleet.status(name).power is Power.OFF)


def test_a_dead_power_button_ends_in_the_plug(fleet: Fleet) -> None:
    name = fleet.create()
    act(fleet, name, "hang")
    fleet.platform._stop_time_max_s = 1.0  # type: ignore[attr-defined]
    fleet.platform.stop(name, key=fleet.key(), fence=1)
    assert fleet.status(name).power is Power.OFF


def test_what_was_written_to_the_os_disk_is_on_the_kept_one(fleet: Fleet) -> None:
    name = fleet.create()
    act(fleet, name, "touch")
    fleet.platform.replace_os_disk(name, fleet.images("1.0.1"), {}, key=fleet.key(), fence=1)
    assert fleet.look(name, version="1.0.1")["touched"] is False
    fleet.platform.switch_back(name, key=fleet.key(), fence=1)
    assert fleet.look(name, version="1.0.0")["touched"] is True


def test_a_domain_that_somebody_started_from_the_old_disk_is_put_right(fleet: Fleet) -> None:
    """A host that comes up again half-way through a replacement starts what it remembers."""
    name = fleet.create()
    domain = domain_of(fleet, name)
    image = fleet.images("1.0.1")
    fleet.killed_at(
        "replace_os_disk:switched",
        lambda p: p.replace_os_disk(name, image, {}, key="killed", fence=1),
    )
    domain.create()  # As libvirt would; its definition still names the old disk.
    fleet.reopen()
    fleet.platform.replace_os_disk(name, image, {}, key="killed", fence=1)
    assert fleet.look(name, version="1.0.1")["version"] == "1.0.1"


def test_without_libvirt_power_is_unknown_and_the_rest_is_told(
    fleet: Fleet, tmp_path: Path
) -> None:
    name = fleet.create()
    assert isinstance(fleet.platform, LibvirtPlatform)
    blind = LibvirtPlatform(
        fleet.platform._root,
        uri="qemu+unix:///system?socket=/nowhere",
        bridge=LIBVIRT_BRIDGE,
        kvm=False,
    )
    status = blind.observe([name])[0]
    assert (status.power, status.image_version) == (Power.UNKNOWN, "1.0.0")
    assert status.address == fleet.status(name).address
    with pytest.raises(DriverError) as caught:
        blind.stop(name, key=fleet.key(), fence=1)
    assert (caught.value.kind, caught.value.retryable) == (DriverErrorKind.UNREACHABLE, True)
    assert fleet.status(name).power is Power.RUNNING


def test_an_image_that_draws_on_a_file_of_the_host_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    secret = tmp_path / "secret.raw"
    secret.write_bytes(b"secret".ljust(1024 * 1024, b"\0"))
    disk = tmp_path / "disk.qcow2"
    subprocess.run(
        ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(disk)),
        check=True,
    )
    digest = hashlib.sha256(disk.read_bytes()).hexdigest()
    image = OsImage(name="x", version="6.6.6", sha256=digest, path=disk)
    name = fleet.create()
    with pytest.raises(DriverError) as caught:
        fleet.platform.replace_os_disk(name, image, {}, key=fleet.key(), fence=1)
    assert caught.value.kind is DriverErrorKind.BAD_IMAGE
    assert fleet.look(name)["version"] == "1.0.0"


def test_pruning_leaves_what_a_disk_needs(fleet: Fleet) -> None:
    assert isinstance(fleet.platform, LibvirtPlatform)
    name = fleet.create()
    for version in ("1.0.1", "1.0.2"):
        fleet.platform.replace_os_disk(name, fleet.images(version), {}, key=fleet.key(), fence=1)
    assert fleet.platform.prune_images() == []  # All were asked for a moment ago.
    pruned = fleet.platform.prune_images(unused_for_s=0)
    assert fleet.images("1.0.0").sha256 in pruned
    assert fleet.images("1.0.1").sha256 not in pruned
    fleet.platform.switch_back(name, key=fleet.key(), fence=1)
    assert fleet.look(name, version="1.0.1")
