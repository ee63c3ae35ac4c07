"""The inside of a simulated machine: what is on its OS disk, and the application it runs.

An image is a tar, as for nspawn; of it only two files count: `/etc/upkeep/image.json`, and
`/etc/demo-broken`, with which the application answers 503 to everything.  The application is the
demonstration's: one page that says which version, which boot and which data it runs on.
"""

import json
import logging
import tarfile
import threading
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from upkeep.ports import DriverError, DriverErrorKind

log = logging.getLogger("upkeep.platforms")

IMAGE_FILE = "./etc/upkeep/image.json"
BROKEN_FILE = "./etc/demo-broken"
# How long a machine that is told to go off may still answer.
POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """What an image puts on an OS disk."""

    version: str
    is_broken: bool


def read_image(path: Path) -> Disk:
    """Raises DriverError(BAD_IMAGE): it is no tar, or does not say which version it is."""
    try:
        with tarfile.open(path) as archive:
            content = archive.extractfile(IMAGE_FILE)
            if content is None:
                raise ValueError(f"{IMAGE_FILE} is no file")
            version = str(json.load(content)["version"])
            return Disk(version=version, is_broken=BROKEN_FILE in archive.getnames())
    except (OSError, tarfile.TarError, KeyError, TypeError, ValueError) as error:
        raise DriverError(
            DriverErrorKind.BAD_IMAGE,
            f"{path} is no image: {error}; build it with `upkeep image build`",
            retryable=False,
        ) from error


class Guest:
    """One boot of one machine: after `boot_s` its application answers, until `stop`."""

    def __init__(
        self, name: str, disk: Disk, data: str, *, address: str, port: int, boot_s: float
    ) -> None:
        self._page = {
            "host": name,
            "version": disk.version,
            "boot_id": str(uuid.uuid4()),
            "marker": data,
        }
        self._status = 503 if disk.is_broken else 200
        self._place = (address, port)
        self._boot_s = boot_s
        self._off = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"guest {name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The plug: when it returns nothing answers any more."""
        self._off.set()
        self._thread.join()

    def _run(self) -> None:
        if self._off.wait(self._boot_s):
            return
        try:
            server = _Application(self._place, _Handler)
        except OSError as error:
            # As in a real machine whose port is taken: it runs, and its application does not.
            log.warning("simulated machine %s cannot listen on %s:%d: %s",
                        self._page["host"], *self._place, error.strerror)  # fmt: skip
            return
        server.status, server.body = self._status, json.dumps(self._page).encode()
        server.timeout = POLL_S
        with server:
            while not self._off.is_set():
                server.handle_request()


class _Application(ThreadingHTTPServer):
    daemon_threads = True
    status: int
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    server: _Application

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Ten questions a second would fill the server's log."""
