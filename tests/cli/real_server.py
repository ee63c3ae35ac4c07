"""The real server with nothing under it: `real_server.py STATE PORT APPLICATION_PORT`.

Everything is `upkeep serve`'s own but for the hypervisor: machines are records in files, each with
an address of the loopback range, and one small HTTP server answers for all of them as the
application would: 200 on a good version, 503 on a version that ends in `.66`, nothing at all for a
machine that is off.
"""

import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.crash.file_platform import FilePlatform

from upkeep.ports import MachineStatus, Power
from upkeep.server import main as server_main
from upkeep.server.settings import ServerSettings

BROKEN = ".66"


class LoopbackPlatform(FilePlatform):
    """Machine `web-3` has the address 127.0.1.4."""

    def observe(self, names: Sequence[str]) -> Sequence[MachineStatus]:
        return [replace(each, address=address_of(each.name)) for each in super().observe(names)]


def address_of(name: str) -> str:
    return f"127.0.1.{int(name.rpartition('-')[2]) + 1}"


class Application(BaseHTTPRequestHandler):
    platform: LoopbackPlatform

    def do_GET(self) -> None:
        number = int(self.connection.getsockname()[0].rpartition(".")[2]) - 1
        status = self.platform.observe([f"web-{number}"])[0]
        if status.power is not Power.RUNNING:
            self.close_connection = True
            return
        self.send_response(503 if status.image_version.endswith(BROKEN) else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def main(state: Path, port: int, application_port: int) -> int:
    platform = LoopbackPlatform(state / "machines")
    Application.platform = platform
    application = ThreadingHTTPServer(("0.0.0.0", application_port), Application)
    threading.Thread(target=application.serve_forever, daemon=True).start()
    server_main.open_platforms = lambda settings: {"nspawn": platform}
    return server_main.serve(
        ServerSettings(
            state_dir=str(state),
            listen=(f"127.0.0.1:{port}",),
            advertise=f"https://127.0.0.1:{port}",
            allow_local_probes=True,
            allow_local_alarms=True,
        )
    )


sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
