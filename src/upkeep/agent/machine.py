"""Facts of this machine, read anew each time, and the one act on it: a restart.

All paths are in one value, so that a test runs the agent as an ordinary process beside others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import durable, process, seed
from .wire import clip

REBOOT_COMMAND_TIMEOUT_S = 60.0  # `systemctl reboot` only asks and returns at once.
UUID_PATTERN = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


@dataclass(frozen=True)
class Paths:
    """Where things lie; the defaults are docs/guest.md.

    Attributes:
        state: survives an OS disk replacement.
        etc: on the OS disk, replaced with it.
        run: gone with every boot.
    """

    state: Path = Path("/var/lib/upkeep")
    seed: Path = Path("/run/upkeep-seed")
    etc: Path = Path("/etc/upkeep")
    run: Path = Path("/run/upkeep")
    boot_id: Path = Path("/proc/sys/kernel/random/boot_id")
    reboot_required: Path = Path("/run/reboot-required")
    os_release: Path = Path("/etc/os-release")
    pid1_environ: Path = Path("/proc/1/environ")
    product_uuid: Path = Path("/sys/class/dmi/id/product_uuid")
    machine_id: Path = Path("/etc/machine-id")

    @property
    def drain(self) -> Path:
        return self.etc / "drain"


def boot_id(paths: Paths) -> str:
    return _line(paths.boot_id)


def hardware_uuid(paths: Paths) -> str:
    """The identity that the platform gives: seed, container manager, firmware, machine-id.

    In that order: a container sees its hypervisor's firmware, and shares that uuid with all its
    neighbours.  Empty when nothing is known.
    """
    try:
        given = str(seed.read_upkeep_json(paths.seed).get("uuid") or "")
    except seed.SeedError:
        given = ""
    if given:
        return given
    environ = _pid1_environ(paths.pid1_environ)
    candidates = [environ.get("container_uuid", "")]
    if "container" not in environ:
        candidates.append(_line(paths.product_uuid))
    candidates.append(_dashed(_line(paths.machine_id)))
    for candidate in candidates:
        if UUID_PATTERN.match(candidate.lower()):
            return candidate.lower()
    return ""


def image(paths: Paths) -> dict[str, str]:
    """Name and version as the image says them; empty texts where it says none."""
    try:
        document = durable.read_json(paths.etc / "image.json")
    except (OSError, ValueError):
        document = None
    known = document if isinstance(document, dict) else {}
    return {key: clip(str(known.get(key) or ""), 128) for key in ("name", "version")}


def os_name(paths: Paths) -> str:
    """Such as `Debian GNU/Linux 12 (bookworm)`; empty when the system does not say."""
    for line in _text(paths.os_release).splitlines():
        if line.startswith("PRETTY_NAME="):
            return clip(line.partition("=")[2].strip().strip("\"'"), 128)
    return ""


def reboot_required(paths: Paths) -> str:
    """Why the system wants a reboot; empty when it does not."""
    if not paths.reboot_required.exists():
        return ""
    packages = _text(paths.reboot_required.with_name(paths.reboot_required.name + ".pkgs"))
    names = sorted(set(packages.split()))
    return clip(", ".join(names) or "the system asks for it")


def busy(paths: Paths) -> str | None:
    """What the machine is busy with, from `/run/upkeep/busy`; None when it is not.

    A way to say "not now" that is not ill health.
    """
    path = paths.run / "busy"
    return clip(_line(path) or "busy") if path.exists() else None


def reboot_command() -> Sequence[str]:
    """The program that restarts this system: systemd's where it runs."""
    if Path("/run/systemd/system").is_dir():
        return ("systemctl", "reboot")
    return ("reboot",)


def reboot(arguments: Sequence[str]) -> str:
    """Asks the system to restart; returns why it did not, empty when it will."""
    finished = process.run(arguments, timeout_s=REBOOT_COMMAND_TIMEOUT_S)
    return "" if finished.succeeded else finished.words


def _line(path: Path) -> str:
    return _text(path).partition("\n")[0].strip()


def _text(path: Path) -> str:
    """A short text file; empty when it is not there or not for us."""
    try:
        return (durable.read_bounded(path, bytes_max=65_536) or b"").decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""


def _dashed(digits: str) -> str:
    """machine-id has 32 digits and no dashes."""
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return "-".join(parts)


def _pid1_environ(path: Path) -> dict[str, str]:
    pairs = (each.partition("=") for each in _text(path).split("\0"))
    environ = {key: value for key, _, value in pairs if key}
    if not environ and os.path.exists("/run/systemd/container"):
        environ["container"] = "yes"
    return environ
