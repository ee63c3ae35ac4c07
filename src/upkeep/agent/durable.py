"""Files that are whole after a power cut: the old content or the new, never a part.

Write a temporary file beside the target, fsync it, rename it over the target, fsync the
directory.  Without the last step the rename itself may be forgotten.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FILE_BYTES_MAX = (
    4 * 1024 * 1024
)  # Nothing that the agent keeps comes near; a larger file is not ours.


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replaces the file's content, durably.  The directory must exist.

    One process writes one file (the agent holds a lock on its state directory), so the temporary
    name is fixed: what a crash left behind is overwritten by the next write, and never piles up.
    """
    temporary = path.with_name(path.name + ".new")
    # Unlinked first, because O_CREAT leaves the mode of a file that is there already as it is.
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)
    sync_directory(path.parent)


def write_json(path: Path, document: Any, *, mode: int = 0o644) -> None:
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=True)
    write_whole(path, text.encode() + b"\n", mode=mode)


def read_bounded(path: Path, *, bytes_max: int = FILE_BYTES_MAX) -> bytes | None:
    """The file's content; None when it is not there.

    Raises:
        ValueError: it is larger than `bytes_max`.
        OSError: it is there and cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except FileNotFoundError:
        return None
    if len(content) > bytes_max:
        raise ValueError(f"{path} is larger than {bytes_max} bytes")
    return content


def read_json(path: Path) -> Any | None:
    """The parsed file; None when it is not there.

    Raises:
        ValueError: it is not JSON (a truncated file, a damaged disk) or too large.
        OSError: it is there and cannot be read.
    """
    content = read_bounded(path)
    return None if content is None else json.loads(content.decode())


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path, name: str) -> Path:
    """Renames a file that must not be used any more, so that a person can look at it."""
    target = path.with_name(name)
    os.replace(path, target)
    sync_directory(path.parent)
    return target
