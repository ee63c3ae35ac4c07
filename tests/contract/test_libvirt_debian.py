"""A built Debian image as a real virtual machine: systemd, GRUB, the seed, `/data`.

One story on one machine, since each boot takes 16 s under emulation.
"""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from platforms import APP, BUILD, LIBVIRT, libvirt_missing, look_over_http, wait_for

from upkeep.catalogue.build import build_image
from upkeep.platforms.bridge import Bridge
from upkeep.platforms.libvirt import LibvirtPlatform
from upkeep.ports import MachineSpec, OsImage, Power

pytestmark = [pytest.mark.machines, pytest.mark.slow]

BRIDGE = Bridge(name="upvdebian", address="10.254.213.1/24")
# Drawn: what a killed run has left behind is not in the way of the next.
NAME = f"debian-{uuid.uuid4().hex[:6]}"


def debian_image(version: str) -> OsImage:
    folder = BUILD / "contract"
    folder.mkdir(parents=True, exist_ok=True)
    built = build_image(
        "app",
        version,
        folder / f"app-{version}.qcow2",
        overlay=APP,
        packages=(),
        agent=None,
        format="qcow2",
        cache=BUILD / "cache",
        progress=print,
    )
    return OsImage(name="app", version=version, sha256=built.sha256, path=built.path)


@pytest.fixture
def platform() -> Iterator[LibvirtPlatform]:
    if why := libvirt_missing():
        pytest.skip(why)
    root = Path(f"/var/tmp/upkeep-debian-{uuid.uuid4().hex[:8]}")
    platform = LibvirtPlatform(root, bridge=BRIDGE, prefix="debian-test-")
    yield platform
    platform.delete(NAME, key="delete", fence=10)
    BRIDGE.remove()
    shutil.rmtree(root)


def test_a_debian_machine_gets_a_new_os_disk_and_goes_back(platform: LibvirtPlatform) -> None:
    seen: dict[str, object] = {}

    def answers(version: str, starts: int) -> bool:
        answer = look_over_http(platform.observe([NAME])[0])
        if answer is None or (answer["version"], answer["starts"]) != (version, starts):
            return False
        seen.update(answer)
        return True

    identity = str(uuid.uuid4())
    seed = {"user-data": b"#!/bin/sh\n"}
    spec = MachineSpec(name=NAME, uuid=identity, image=debian_image("1.0.0"), seed=seed)
    platform.create(spec, key="create", fence=1)
    wait_for(LIBVIRT, "the first boot", lambda: answers("1.0.0", 1))
    # systemd takes the machine's id from the hardware, so it outlives the OS disk.
    assert seen["uuid"] == identity.replace("-", "")
    assert seen["host_name"] == NAME

    platform.replace_os_disk(NAME, debian_image("1.0.1"), seed, key="replace", fence=2)
    wait_for(LIBVIRT, "the new image", lambda: answers("1.0.1", 2))
    assert seen["uuid"] == identity.replace("-", "")

    platform.switch_back(NAME, key="back", fence=3)
    wait_for(LIBVIRT, "the old image", lambda: answers("1.0.0", 3))
    status = platform.observe([NAME])[0]
    assert (status.power, status.boots, status.kept_version) == (Power.RUNNING, 3, "1.0.1")
