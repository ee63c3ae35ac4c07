"""How often has a guest booted since it was started, as told by its serial console's log.

libvirt counts no reboots that come from inside (the domain stays, QEMU resets it), and its
reboot event is heard only by a process that happens to listen.  The firmware's banner on the
serial console is written by every boot and stays in a file.

A guest can write a banner itself; that raises its own count and nothing else.
"""

from pathlib import Path

# What SeaBIOS writes to the serial console at each power-on and each reset.
BIOS_BANNER = b"SeaBIOS (version"

# virtlogd begins a new file at 2 MiB and keeps three old ones, `.0` to `.2`; what it drops after
# that, 8 MiB of console output within one start, is not counted.
ROTATED_SUFFIXES = (".2", ".1", ".0", "")


def count_resets(console_log: Path) -> int:
    """How often the guest booted after the boot that the platform asked for."""
    banners = 0
    for suffix in ROTATED_SUFFIXES:
        try:
            banners += Path(f"{console_log}{suffix}").read_bytes().count(BIOS_BANNER)
        except FileNotFoundError:
            continue
    return max(0, banners - 1)


def remove_log(console_log: Path) -> None:
    """Take a console's log away with all that was rotated."""
    for suffix in ROTATED_SUFFIXES:
        Path(f"{console_log}{suffix}").unlink(missing_ok=True)
