"""Where benches put their files, and how busy the machine was meanwhile."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A directory on a disk that is gone afterwards: overlays do not stack, and fsync must cost."""
    folder = Path(tempfile.mkdtemp(prefix="upkeep-bench-", dir="/var/tmp"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def load_now() -> str:
    """Others on the machine make every time longer: a figure says how many there were."""
    return f"load {os.getloadavg()[0]:.1f}"
