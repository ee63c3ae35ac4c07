"""Does KVM run guests on this host?  Answered by running one, never by looking for a file.

`/dev/kvm` can exist, answer its ioctls and still hang every guest (nested or partial
virtualisation).  So a 512-byte boot sector is booted that writes 0x10 to the debug-exit port:
QEMU then leaves with (0x10 << 1) | 1 = 33, and nothing else does.

A right answer that comes late is a no as well.  Seen: a nested host where KVM ran the boot
sector in 2.9 s and never got a Linux kernel to its first line, while emulation took 0.14 s for
the first and 1.5 s for the second.  So emulation runs first, as the measure of this host at this
moment, and KVM must not be much slower than that; a loaded but sound host slows both alike.

This module decides nothing else: the domain's type follows from it in `libvirt.py`.
"""

import functools
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

QEMU_SYSTEM = "qemu-system-x86_64"

BOOT_SECTOR = bytes([0xB0, 0x10, 0xE6, 0xF4]).ljust(510, b"\0") + b"\x55\xaa"
"""`mov al, 0x10; out 0xf4, al`, padded to a sector, with the signature the BIOS looks for."""

EXIT_FROM_GUEST = (0x10 << 1) | 1

KVM_TIME_MAX_S = 2.0
"""A sound KVM needs 0.1-0.3 s; the hanging one named above needed 2.9 s on an idle host."""

KVM_TIME_MIN_S = 0.75
"""Never judge by less: on a quick host four emulated runs would be within the noise."""

SLOWER_THAN_EMULATION_MAX = 4
"""KVM that takes more than this many times as long as emulation is of no use to anybody."""

EMULATED_TIME_MAX_S = 3.0
"""Emulation that is slower than this says the host is overloaded; then KVM_TIME_MAX_S rules."""

REAP_TIME_MAX_S = 2.0
"""A killed QEMU that hangs inside the kernel may not go; the probe does not wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRun:
    """One boot of the boot sector: did the guest itself end it, and after how long."""

    ended_by_guest: bool
    seconds: float


@functools.cache
def kvm_works(qemu: str = QEMU_SYSTEM) -> bool:
    """True when a guest under KVM runs, and runs no slower than emulation would.

    The answer is found once per process, within EMULATED_TIME_MAX_S + KVM_TIME_MAX_S (and
    REAP_TIME_MAX_S each), and kept: a host does not change its mind under a running server.
    A missing QEMU or a missing /dev/kvm is False; the driver reports a missing QEMU by itself.
    """
    if shutil.which(qemu) is None or not Path("/dev/kvm").exists():
        return False  # The file proves nothing by being there, but its absence is proof.
    with tempfile.TemporaryDirectory(prefix="upkeep-kvm-") as scratch:
        disk = Path(scratch) / "boot.img"
        disk.write_bytes(BOOT_SECTOR)
        emulated = run_boot_sector(qemu, disk, accel="tcg", time_max_s=EMULATED_TIME_MAX_S)
        allowed_s = time_allowed_to_kvm_s(emulated)
        kvm = run_boot_sector(qemu, disk, accel="kvm", time_max_s=allowed_s)
    return kvm.ended_by_guest


def time_allowed_to_kvm_s(emulated: ProbeRun) -> float:
    """How long KVM may take, given what emulation took: e.g. 0.14 s → 0.75 s, 0.4 s → 1.6 s."""
    if not emulated.ended_by_guest:
        return KVM_TIME_MAX_S
    allowed_s = SLOWER_THAN_EMULATION_MAX * emulated.seconds
    return min(KVM_TIME_MAX_S, max(KVM_TIME_MIN_S, allowed_s))


def run_boot_sector(qemu: str, disk: Path, *, accel: str, time_max_s: float) -> ProbeRun:
    """Boot the sector once; never raises for what the guest or the accelerator does."""
    arguments = [
        qemu,
        *("-accel", accel, "-m", "16", "-display", "none", "-nodefaults", "-no-reboot"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"),
        *("-drive", f"file={disk},format=raw,if=ide,snapshot=on"),
    ]
    started = time.monotonic()
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        code = process.wait(timeout=time_max_s)
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            process.wait(timeout=REAP_TIME_MAX_S)
        except subprocess.TimeoutExpired:
            pass  # Stuck in the kernel: exactly the host that this probe is for.
        return ProbeRun(ended_by_guest=False, seconds=time.monotonic() - started)
    return ProbeRun(ended_by_guest=code == EXIT_FROM_GUEST, seconds=time.monotonic() - started)
