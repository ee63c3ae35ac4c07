"""Which version is newer, and which one `latest` means.

A version is two to four numbers with dots between, such as `1.0.2`; order is by number, part by
part, never by date of publication.  Source: sheet os-image §2.1 (Azure orders a gallery by major,
minor, patch).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

_FORM = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){1,3}")


class ReplicationState(StrEnum):
    """How far one version's copy into one region has come; only COMPLETED can be used there."""

    UNKNOWN = "unknown"
    REPLICATING = "replicating"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageVersion:
    """One catalogue entry as a group in one region sees it."""

    version: str
    excluded: bool = False
    floor: bool = False
    replication: ReplicationState = ReplicationState.COMPLETED


def is_version(text: str) -> bool:
    return _FORM.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def order_of(version: str) -> tuple[int, ...]:
    """The sort key of a version; missing parts count as zero, so 1.0 equals 1.0.0.

    The empty string, a machine whose version nobody knows yet, sorts before every version.
    """
    if not version:
        return ()
    parts = [int(part) for part in version.split(".")]
    return tuple(parts + [0] * (4 - len(parts)))


def is_older(version: str, than: str) -> bool:
    return order_of(version) < order_of(than)


def latest(versions: Iterable[ImageVersion]) -> str | None:
    """The highest version that is replicated to the region and not excluded, if there is one."""
    usable = [entry.version for entry in versions if is_usable(entry)]
    return max(usable, key=order_of, default=None)


def floor_between(image: str, target: str, versions: Iterable[ImageVersion]) -> str | None:
    """The lowest floor version that a machine must run before it may get the target.

    A floor counts wherever it is replicated: nobody goes past it because it is late.
    Source: sheet os-image §12 (Flatcar's Nebraska: floor versions); docs/adr/0021.
    """
    floors = [
        entry.version
        for entry in versions
        if entry.floor
        and not entry.excluded
        and is_older(image, entry.version)
        and is_older(entry.version, target)
    ]
    return min(floors, key=order_of, default=None)


def is_usable(entry: ImageVersion) -> bool:
    return not entry.excluded and entry.replication is ReplicationState.COMPLETED
