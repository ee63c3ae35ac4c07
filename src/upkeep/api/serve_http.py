"""uvicorn, with what long polls need of it: many files, and an end that does not wait for them."""

import resource
import socket

import uvicorn

from upkeep.api.app import EdgeApp

# Room for 20,000 polls, their successors that come while they end, and everything else.
FILES_WANTED = 65_536


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
