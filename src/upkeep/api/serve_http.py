"""uvicorn, with what long polls need of it: many files, and an end that does not wait for them."""

import ctypes
import resource
import socket

import uvicorn

from upkeep.api.app import EdgeApp

# Room for 20,000 polls, their successors that come while they end, and everything else.
FILES_WANTED = 65_536
# glibc's own first value; setting it stops glibc from raising it.  mallopt(3).
M_MMAP_THRESHOLD = -3
LARGE_BLOCK_BYTES = 128 * 1024


class EdgeServer(uvicorn.Server):
    """Answers open polls and ends event streams when it is told to stop; then stops."""

    def __init__(self, config: uvicorn.Config, app: EdgeApp) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.close()
        await super().shutdown(sockets)


def raise_file_limit() -> int:
    """Allow this process as many open files as it may have; answers how many those are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (max(FILES_WANTED, hard), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
        except (OSError, ValueError):
            continue  # Only root may go beyond the hard limit.
        return wanted
    return soft


def keep_large_blocks_apart() -> bool:
    """Have the C library give every large block pages of its own; False if it knows no such thing.

    uvloop asks for 256 KiB for each TLS connection and for each read, and uses a few of them.  Of
    fresh pages only those that are used take memory.  But with each large block that is freed
    glibc takes more of the next ones from its heap, whose pages have been written before: an idle
    poll then costs 57 KiB in place of 34.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES) == 1)
