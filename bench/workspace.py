"""What benches ask of the machine: a place for files, room for machines, how busy it was."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

INOTIFY_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
INOTIFY_NEEDED = 1_024


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A directory on a disk that is gone afterwards: overlays do not stack, and fsync must cost."""
    folder = Path(tempfile.mkdtemp(prefix="upkeep-bench-", dir="/var/tmp"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def room_for_machines() -> Iterator[None]:
    """A systemd, its dbus and its logind take six inotify instances, and Linux gives root 128 as
    it comes: of more than twenty machines on a host some would not boot."""
    before = INOTIFY_INSTANCES.read_text()
    # Where it is not ours to change there is what there is.
    with contextlib.suppress(OSError):
        INOTIFY_INSTANCES.write_text(str(max(INOTIFY_NEEDED, int(before))))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            INOTIFY_INSTANCES.write_text(before)


def load_now() -> str:
    """Others on the machine make every time longer: a figure says how many there were."""
    return f"load {os.getloadavg()[0]:.1f}"
