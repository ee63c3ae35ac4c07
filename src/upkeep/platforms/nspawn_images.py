"""Unpacked images: one directory per digest, complete or not there.

The digest is computed over the very bytes that tar reads, so that what was verified is what was
unpacked.  The directory gets its name only after that, and after its files are on disk.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

from upkeep.platforms.commands import DETAIL_CHARS_MAX, no_space, run_command, tool_missing
from upkeep.platforms.journal import held_lock, sync_directory
from upkeep.ports import DriverError, DriverErrorKind, OsImage

CHUNK_BYTES = 1024 * 1024
# An image of 2 GB on a slow disk; who waits for another's unpacking waits as long.
UNPACK_TIME_MAX_S = 600.0


def unpack(image: OsImage, images: Path) -> Path:
    """The directory of the image, unpacked now unless it was before.

    Raises:
        DriverError: BAD_IMAGE when the file is missing, is no tar or has another digest;
            NO_SPACE; TOOL_MISSING.
    """
    folder = images / image.sha256
    if len(image.sha256) != 64 or not all(c in "0123456789abcdef" for c in image.sha256):
        raise _bad_image(image, "its digest is not 64 lower-case hexadecimal digits")
    with held_lock(images / f"{image.sha256}.lock", UNPACK_TIME_MAX_S):
        if folder.is_dir():
            return folder
        fresh = images / f".{image.sha256}.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir()
        try:
            _extract(image, fresh)
        except DriverError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        fresh.chmod(0o755)
        run_command(
            ("sync", "--file-system", str(fresh)), package="coreutils", timeout_s=UNPACK_TIME_MAX_S
        )
        fresh.rename(folder)
        sync_directory(images)
    return folder


def _extract(image: OsImage, folder: Path) -> None:
    digest = hashlib.sha256()
    argv = (
        "tar",
        "--extract",
        "--file=-",
        f"--directory={folder}",
        "--preserve-permissions",
        "--same-owner",
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
    )
    try:
        source = image.path.open("rb")
    except OSError as error:
        raise _bad_image(image, str(error)) from error
    # Not a pipe: on a full disk tar complains of every file, and would wait for us to read that
    # while we wait for it to read the image.  In memory, because the disk may be full.
    with source, os.fdopen(os.memfd_create("tar"), "w+b") as complaints:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=complaints
            )
        except FileNotFoundError as error:
            raise tool_missing("tar", "tar") from error
        assert process.stdin is not None
        is_fed = True
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            if is_fed:
                try:
                    process.stdin.write(chunk)
                except BrokenPipeError:
                    is_fed = False  # tar has given up; its words come below.
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass  # As above: the last bytes were still in the buffer.
        process.wait()
        complaints.seek(0)
        text = complaints.read(DETAIL_CHARS_MAX).decode(errors="replace").strip()
    if "No space left on device" in text:
        raise no_space(text)
    if digest.hexdigest() != image.sha256:
        raise _bad_image(image, f"its digest is {digest.hexdigest()}, not {image.sha256}")
    if process.returncode != 0:
        raise _bad_image(image, f"tar ended with {process.returncode}: {text}")
    if not (folder / "usr").is_dir() or not os.path.lexists(folder / "sbin/init"):
        raise _bad_image(image, "it holds no root file system with /usr and /sbin/init")


def prune(images: Path, used: Collection[str]) -> list[str]:
    """Remove the images not in `used` and what interrupted unpacking left; gives the digests.

    The caller makes sure that nobody unpacks meanwhile.
    """
    dropped = []
    for folder in sorted(images.iterdir()):
        if not folder.is_dir() or folder.name in used:
            continue
        doomed = folder
        if not folder.name.startswith("."):
            # Renamed first: a digest's name in this directory always means a complete image.
            doomed = images / f".{folder.name}.old"
            folder.rename(doomed)
            dropped.append(folder.name)
        shutil.rmtree(doomed)
    return dropped


def _bad_image(image: OsImage, why: str) -> DriverError:
    return DriverError(
        DriverErrorKind.BAD_IMAGE,
        f"{image.name} {image.version} ({image.path}): {why}; publish the image again",
        retryable=False,
    )
