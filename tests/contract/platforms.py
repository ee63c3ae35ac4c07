"""The platforms that the contract suite runs on: one entry in `CASES` each.

To add one: say how to open it, where its images come from, and how to see what the application
inside sees (`app/opt/app/serve.py`).  A platform without real machines answers `look` from its
own world.
"""

import json
import os
import shutil
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny_guest

from upkeep.catalogue.build import build_image
from upkeep.platforms.bridge import Bridge
from upkeep.platforms.libvirt import LibvirtPlatform
from upkeep.platforms.nspawn import NspawnPlatform
from upkeep.ports import MachineStatus, OsImage, Platform

APP = Path(__file__).with_name("app")
BUILD = Path(__file__).parents[2] / "build"
APP_PORT = 8080
# One request; the loop around it has the platform's own maximum.
REQUEST_TIME_MAX_S = 2.0

Reached = Callable[[str], None]


def nowhere(step: str) -> None:
    """The `reached` of a caller that is not killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformCase:
    """One platform under the contract.

    Attributes:
        missing: why it cannot run on this host; empty when it can.
        open: a driver over this root; called again for each new "server process".
        close: takes away what the driver leaves on the host besides its root.
        make_image: the image of the application in this version.
        look: what the application sees, or None while it does not answer.
        boot_time_max_s: a machine that does not answer by then never will.
        steps: what `reached` hears during each verb; a test kills the caller at every one.  A
            platform that lives in the test's own process has none.
    """

    name: str
    missing: Callable[[], str]
    open: Callable[[Path, Reached], Platform]
    close: Callable[[], None]
    make_image: Callable[[str], OsImage]
    look: Callable[[MachineStatus], Mapping[str, Any] | None]
    boot_time_max_s: float
    steps: Mapping[str, tuple[str, ...]]
    marks: tuple[pytest.MarkDecorator, ...] = ()


def look_over_http(status: MachineStatus) -> Mapping[str, Any] | None:
    """What the application says, now."""
    try:
        with urllib.request.urlopen(
            f"http://{status.address}:{APP_PORT}/", timeout=REQUEST_TIME_MAX_S
        ) as answer:
            document: Mapping[str, Any] = json.load(answer)
    except OSError:
        return None
    return document


def wait_for(case: PlatformCase, what: str, condition: Callable[[], bool]) -> None:
    """Until the condition holds; fails the test when it does not in time."""
    deadline = time.monotonic() + case.boot_time_max_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{case.name}: not within {case.boot_time_max_s:g} s: {what}")
        time.sleep(0.02)


# -- nspawn -----------------------------------------------------------------------------------

# Of this process alone: several suites may run on one host.
_pid = os.getpid()
NSPAWN_BRIDGE = Bridge(name=f"upt{_pid}", address=f"10.{214 + _pid % 20}.{_pid // 20 % 250}.1/24")


def nspawn_missing() -> str:
    if os.geteuid() != 0:
        return "needs root"
    for command in ("systemd-nspawn", "mmdebstrap", "ip"):
        if shutil.which(command) is None:
            return f"needs {command}"
    return ""


def open_nspawn(root: Path, reached: Reached) -> Platform:
    return NspawnPlatform(root, bridge=NSPAWN_BRIDGE, reached=reached)


def make_nspawn_image(version: str) -> OsImage:
    folder = BUILD / "contract"
    folder.mkdir(parents=True, exist_ok=True)
    built = build_image(
        "app",
        version,
        folder / f"app-{version}.tar",
        overlay=APP,
        packages=(),
        agent=None,
        format="tar",
        cache=BUILD / "cache",
        progress=print,
    )
    return OsImage(name="app", version=version, sha256=built.sha256, path=built.path)


NSPAWN = PlatformCase(
    name="nspawn",
    missing=nspawn_missing,
    open=open_nspawn,
    close=NSPAWN_BRIDGE.remove,
    make_image=make_nspawn_image,
    look=look_over_http,
    # 0.3 s on an idle host; the rest is for a busy one.
    boot_time_max_s=60.0,
    steps={
        "create": (
            "create:begun",
            "create:unpacked",
            "create:disk-made",
            "create:made",
            "create:started",
            "create:succeeded",
        ),
        "replace_os_disk": (
            "replace_os_disk:begun",
            "replace_os_disk:unpacked",
            "replace_os_disk:disk-made",
            "replace_os_disk:stopped",
            "replace_os_disk:switched",
            "replace_os_disk:started",
            "replace_os_disk:succeeded",
        ),
        "switch_back": (
            "switch_back:begun",
            "switch_back:stopped",
            "switch_back:switched",
            "switch_back:started",
            "switch_back:succeeded",
        ),
        "restart": (
            "restart:begun",
            "restart:counted",
            "restart:stopped",
            "restart:started",
            "restart:succeeded",
        ),
        "stop": ("stop:begun", "stop:stopped", "stop:succeeded"),
        "start": ("start:begun", "start:started", "start:succeeded"),
        "delete": ("delete:begun", "delete:stopped", "delete:forgotten", "delete:succeeded"),
    },
    marks=(pytest.mark.machines,),
)


# -- libvirt ----------------------------------------------------------------------------------

LIBVIRT_BRIDGE = Bridge(name=f"upv{_pid}", address=f"10.{234 + _pid % 20}.{_pid // 20 % 250}.1/24")


def libvirt_missing() -> str:
    if os.geteuid() != 0:
        return "needs root"
    for command in (
        *("qemu-system-x86_64", "qemu-img", "libvirtd", "virtlogd", "genisoimage"),
        *("mke2fs", "grub-mkimage", "mmdebstrap", "ip"),
    ):
        if shutil.which(command) is None:
            return f"needs {command}"
    return ""


# Not pytest's own directory: each pytest closes those to all others when it starts, also under a
# suite that runs beside it, and QEMU runs as a user of its own.
LIBVIRT_ROOT = Path(f"/var/tmp/upkeep-contract-{_pid}")


def open_libvirt(root: Path, reached: Reached) -> Platform:
    return LibvirtPlatform(
        LIBVIRT_ROOT / root.name,
        bridge=LIBVIRT_BRIDGE,
        prefix=f"t{_pid}-",
        data_disk_mib=64,
        reached=reached,
    )


def close_libvirt() -> None:
    LIBVIRT_BRIDGE.remove()
    shutil.rmtree(LIBVIRT_ROOT, ignore_errors=True)


LIBVIRT = PlatformCase(
    name="libvirt",
    missing=libvirt_missing,
    open=open_libvirt,
    close=close_libvirt,
    make_image=tiny_guest.make_image,
    look=tiny_guest.look,
    # 4 s on an idle host, emulated.
    boot_time_max_s=90.0,
    # Not every step: each costs three emulated boots.  These are the ones between which the
    # record and the domain say different things.
    steps={
        "create": ("create:starting", "create:succeeded"),
        "replace_os_disk": (
            "replace_os_disk:stopped",
            "replace_os_disk:switched",
        ),
        "switch_back": ("switch_back:switched",),
        "delete": ("delete:undefined",),
    },
    marks=(pytest.mark.machines,),
)

CASES = (NSPAWN, LIBVIRT)
