"""Image files, stored by their SHA-256 under one directory.

A blob appears complete and verified, or not at all: it is written beside the store, its digest is
checked while it streams, and only then it gets its name.  A full disk leaves nothing half-stored.

    writer = blobs.begin(expected_sha256)
    try:
        for chunk in chunks: writer.write(chunk)
        blob = writer.commit()
    finally:
        writer.close()          # Drops what was not committed.
"""

import errno
import hashlib
import os
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

READ_BYTES = 1024 * 1024
# A disk image of the largest machines people run; a slip must not fill the server's disk.
BLOB_BYTES_MAX = 20 * 1024**3


class BlobErrorKind(StrEnum):
    NO_SPACE = "no_space"
    TOO_LARGE = "too_large"
    DIGEST_MISMATCH = "digest_mismatch"
    MISSING = "missing"


class BlobError(Exception):
    """A blob that was not stored, or is not what it was; `detail` says what to do."""

    def __init__(self, kind: BlobErrorKind, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    path: Path
    sha256: str
    size: int


class BlobWriter:
    """One upload; not for two threads at once."""

    def __init__(self, store: "BlobStore", expected_sha256: str, bytes_max: int) -> None:
        self._store = store
        self._expected = expected_sha256
        self._bytes_max = bytes_max
        self._digest = hashlib.sha256()
        self._size = 0
        descriptor, name = tempfile.mkstemp(dir=store.incoming)
        self._file = os.fdopen(descriptor, "wb")
        self._path = Path(name)

    def write(self, chunk: bytes) -> None:
        """Raises BlobError NO_SPACE or TOO_LARGE."""
        self._size += len(chunk)
        if self._size > self._bytes_max:
            raise BlobError(
                BlobErrorKind.TOO_LARGE, f"an image may have at most {self._bytes_max} bytes"
            )
        self._digest.update(chunk)
        try:
            self._file.write(chunk)
        except OSError as error:
            raise _from_os_error(error, self._store.directory) from error

    def commit(self) -> Blob:
        """Give the blob its name; the same blob twice is stored once.

        Raises:
            BlobError: DIGEST_MISMATCH, NO_SPACE.
        """
        sha256 = self._digest.hexdigest()
        if sha256 != self._expected:
            raise BlobError(
                BlobErrorKind.DIGEST_MISMATCH,
                f"{self._size} bytes came with SHA-256 {sha256}, announced was {self._expected};"
                " send the file again, or compute its digest anew",
            )
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            target = self._store.path_of(sha256)
            target.parent.mkdir(exist_ok=True, mode=0o711)
            self._path.chmod(0o444)
            self._path.replace(target)
            _sync_directory(target.parent)
        except OSError as error:
            raise _from_os_error(error, self._store.directory) from error
        return Blob(path=target, sha256=sha256, size=self._size)

    def close(self) -> None:
        """Drop what was not committed; after a commit a no-op."""
        try:
            self._file.close()
        except OSError:
            pass  # What could not be flushed is dropped anyway.
        self._path.unlink(missing_ok=True)


class BlobStore:
    """See the module text.  One process writes; what it left unfinished is dropped at its start."""

    def __init__(self, directory: Path, *, bytes_max: int = BLOB_BYTES_MAX) -> None:
        self.directory = directory
        self.incoming = directory / "incoming"
        self._bytes_max = bytes_max
        # Hypervisors read the files under another user (DESIGN §7).
        directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        self.incoming.mkdir(exist_ok=True, mode=0o700)
        for left in self.incoming.iterdir():
            left.unlink()

    def begin(self, expected_sha256: str) -> BlobWriter:
        """Start an upload of the blob with this digest (lower-case hex).

        Raises:
            BlobError: NO_SPACE.
        """
        try:
            return BlobWriter(self, expected_sha256, self._bytes_max)
        except OSError as error:
            raise _from_os_error(error, self.directory) from error

    def path_of(self, sha256: str) -> Path:
        """Where the blob is, if it is stored."""
        assert len(sha256) == 64
        assert sha256.isalnum()
        return self.directory / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        return self.path_of(sha256).is_file()

    def verified(self, sha256: str) -> Blob:
        """The blob, read whole and checked: what is used is what was published.

        Raises:
            BlobError: MISSING, DIGEST_MISMATCH.
        """
        path = self.path_of(sha256)
        digest, size = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                while chunk := file.read(READ_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
        except FileNotFoundError as error:
            raise BlobError(
                BlobErrorKind.MISSING, f"the image file {path} is gone; publish the version again"
            ) from error
        if digest.hexdigest() != sha256:
            raise BlobError(
                BlobErrorKind.DIGEST_MISMATCH,
                f"the image file {path} has changed on the disk; remove it, publish it again,"
                " and look for what writes there",
            )
        return Blob(path=path, sha256=sha256, size=size)


def _from_os_error(error: OSError, directory: Path) -> BlobError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BlobError(
            BlobErrorKind.NO_SPACE,
            f"the disk under {directory} is full; nothing was stored. Make room and send it again",
        )
    return BlobError(BlobErrorKind.NO_SPACE, f"{directory} cannot be written: {error}")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
