"""Files that a guest runs from: image copies, overlays, data disks, seed volumes.

Each function makes one file under a temporary name, makes it durable and renames it, so that a
call that was interrupted leaves either the whole file or a leftover that the next call overwrites.
Decides nothing about machines; the driver (`libvirt.py`) says which file is whose.  An `OSError`
here passes through: the journal turns it into the driver's own error.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from upkeep.platforms.commands import run_command
from upkeep.platforms.journal import check_name, held_lock, sync_directory
from upkeep.ports import DriverError, DriverErrorKind, OsImage

SHA256_PATTERN = re.compile(r"[0-9a-f]{64}")

DATA_LABEL = "upkeep-data"
SEED_LABEL = "UPKEEPSEED"

# For each directory above a disk: QEMU runs as its own user and must get through, not look.
PASSABLE = 0o711

# Nothing here takes over 10 s on a quiet disk; this ends a call that hangs on a dead mount.
DISK_COMMAND_TIME_MAX_S = 300.0

# A whole import: 4 GiB at 10 MB/s, and then somebody looks.
IMPORT_TIME_MAX_S = 400.0

COPY_CHUNK_BYTES = 4 * 1024 * 1024


def make_passable_directory(path: Path) -> None:
    """Make a directory (and those above it) that QEMU's user can pass but not list."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(PASSABLE)


def import_image(image: OsImage, directory: Path) -> Path:
    """The pool's own copy of an image, verified while it is copied; once per digest.

    The copy is kept apart from the catalogue's blob because libvirt changes the owner of the
    files that it opens, and because a blob must be removable while machines run from it.

    Raises:
        DriverError: BAD_IMAGE when the file is missing, has another digest, is no qcow2, or is
            one that draws on another file of this host.
    """
    if SHA256_PATTERN.fullmatch(image.sha256) is None:
        raise bad_image(image, "its digest is not 64 lower-case hexadecimal digits")
    copy = directory / f"{image.sha256}.qcow2"
    if copy.exists():
        os.utime(copy)  # Says when it was last asked for; pruning goes by that.
        return copy
    try:
        source = image.path.open("rb")
    except OSError as error:
        raise bad_image(image, f"{image.path}: {error.strerror}") from error
    with source, held_lock(directory / f"{image.sha256}.lock", IMPORT_TIME_MAX_S):
        if not copy.exists():  # Another machine's call may have imported it meanwhile.
            partial = copy.with_suffix(".partial")
            copy_verified(image, source, partial)
            rename_durably(partial, copy)
    return copy


def copy_verified(image: OsImage, source: BinaryIO, partial: Path) -> None:
    """Copy the image; a copy that is not what was asked for is taken away again."""
    digest = hashlib.sha256()
    with partial.open("wb") as target:
        while chunk := source.read(COPY_CHUNK_BYTES):
            digest.update(chunk)
            target.write(chunk)
    try:
        if digest.hexdigest() != image.sha256:
            raise bad_image(image, f"{image.path} has SHA-256 {digest.hexdigest()}")
        check_self_contained(image, partial)
    except DriverError:
        partial.unlink()
        raise
    partial.chmod(0o644)


def check_self_contained(image: OsImage, path: Path) -> None:
    """Refuse an image whose header names another file: QEMU would open that one for the guest."""
    command = ["qemu-img", "info", "--output=json", "-f", "qcow2", str(path)]
    try:
        text = run_command(command, package="qemu-utils")
    except DriverError as error:
        if error.kind is not DriverErrorKind.FAILED:
            raise
        raise bad_image(image, f"not a qcow2 file: {error.detail}") from error
    facts = json.loads(text)
    specific = facts.get("format-specific", {}).get("data", {})
    if "backing-filename" in facts or "data-file" in specific:
        raise bad_image(image, "its header names another file; flatten it with qemu-img convert")


def bad_image(image: OsImage, what: str) -> DriverError:
    """The error for an image that must not be booted."""
    return DriverError(
        DriverErrorKind.BAD_IMAGE,
        f"image {image.name} {image.version} (wanted SHA-256 {image.sha256}): {what}; "
        "publish it again under a new version",
        retryable=False,
    )


def make_overlay(path: Path, backing: Path) -> None:
    """An OS disk: empty over the image, so that it is made at once and the image stays as it is."""
    partial = path.with_suffix(".partial")
    options = ["-q", "-f", "qcow2", "-F", "qcow2", "-b", str(backing)]
    run_command(["qemu-img", "create", *options, str(partial)], package="qemu-utils")
    rename_durably(partial, path)


def make_data_disk(path: Path, *, size_mib: int) -> None:
    """A data disk with an empty ext4 on it, formatted here: a guest needs seconds for it."""
    partial = path.with_suffix(".partial")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="data-") as scratch:
        raw = Path(scratch) / "data.raw"
        with raw.open("wb") as file:
            file.truncate(size_mib * 1024 * 1024)
        run_command(
            ["mke2fs", "-q", "-F", "-t", "ext4", "-L", DATA_LABEL, str(raw)],
            package="e2fsprogs",
            timeout_s=DISK_COMMAND_TIME_MAX_S,
        )
        run_command(
            ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(partial)],
            package="qemu-utils",
            timeout_s=DISK_COMMAND_TIME_MAX_S,
        )
    rename_durably(partial, path)


def make_seed_disk(path: Path, files: Mapping[str, bytes]) -> None:
    """The seed as an ISO 9660 volume with long names (Rock Ridge and Joliet)."""
    partial = path.with_suffix(".partial")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="seed-") as scratch:
        for name, content in files.items():
            check_name(name)
            (Path(scratch) / name).write_bytes(content)
        options = ["-quiet", "-rational-rock", "-joliet", "-volid", SEED_LABEL]
        run_command(
            ["genisoimage", *options, "-output", str(partial), scratch], package="genisoimage"
        )
    # The seed holds the machine's enrolment token: for the QEMU that libvirt gives the file to
    # when the guest starts, and for nobody else.
    partial.chmod(0o600)
    rename_durably(partial, path)


def rename_durably(partial: Path, path: Path) -> None:
    """Give a finished file its name; after a power cut it is there whole or not at all."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(path)
    sync_directory(path.parent)
