"""Builds what the demonstration needs, starts its server as a process of its own, and clears up.

Several demonstrations may play on one host: each has a directory, a bridge and ports of its own.
Whatever happens in between, at the end no machine, bridge or file of it is left.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upkeep.agent.pack import build_zipapp
from upkeep.catalogue.build import BuiltImage, build_image, compose_tar, measure
from upkeep.cli.client import Client
from upkeep.cli.connection import Connection
from upkeep.platforms.bridge import Bridge
from upkeep.server.main import open_platforms
from upkeep.server.provision import FORMATS
from upkeep.server.settings import ServerSettings

OVERLAY = Path(__file__).with_name("overlay")
# Bare root file systems are kept here between demonstrations on real machines.
CACHE = Path("/var/cache/upkeep")
GOOD, NEXT, BROKEN = "1.0.0", "1.0.1", "1.0.2"
SIMULATED = "simulated"
APPLICATION_PORT = 8080
SERVER_READY_S = 30.0
SERVER_END_S = 20.0
# Above anything that a server counts to in one demonstration.
FENCE_LAST = 1_000_000
DELETES_AT_ONCE = 8

Progress = Callable[[str], None]


class DemoError(Exception):
    """The demonstration cannot go on; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where one demonstration plays.

    Attributes:
        folder: holds everything; on disk, since overlays do not stack on each other.
    """

    platform: str
    folder: Path
    bridge: Bridge
    application_port: int

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"


def build_images(
    stage: Stage, progress: Progress, *, prepare: Callable[[Path], None] = lambda overlay: None
) -> dict[str, BuiltImage]:
    """Three versions of one image; the last answers 503 to everything.

    Args:
        prepare: may lay further files into the overlay of all three.
    """
    folder, platform = stage.folder, stage.platform
    good, broken = folder / "good", folder / "broken"
    shutil.copytree(OVERLAY, good)
    prepare(good)
    shutil.copytree(good, broken)
    (broken / "etc/demo-broken").write_text("This version is meant to fail.\n")
    overlays = {GOOD: good, NEXT: good, BROKEN: broken}
    if platform == SIMULATED:
        return {
            version: build_layers(folder, version, overlay, progress)
            for version, overlay in overlays.items()
        }
    CACHE.mkdir(parents=True, exist_ok=True)
    agent = build_zipapp(folder / "agent.pyz")
    kind = FORMATS[platform]
    return {
        version: build_image(
            "web",
            version,
            folder / f"web-{version}.{kind}",
            overlay=overlay,
            packages=(),
            agent=agent,
            format="tar" if kind == "tar" else "qcow2",
            cache=CACHE,
            progress=progress,
        )
        for version, overlay in overlays.items()
    }


def build_layers(folder: Path, version: str, overlay: Path, progress: Progress) -> BuiltImage:
    """An image without a Debian below it: all that a simulated machine reads, in a moment."""
    bare, out = folder / "empty.tar", folder / f"web-{version}.tar"
    with tarfile.open(bare, "w"):
        pass
    compose_tar(bare, out, "web", version, overlay=overlay, agent=None, progress=progress)
    return measure(out)


@contextlib.contextmanager
def open_stage(platform: str) -> Iterator[Stage]:
    """A stage that is gone afterwards, with every machine on it."""
    folder = Path(tempfile.mkdtemp(prefix="upkeep-demo-", dir="/var/tmp"))
    folder.chmod(0o711)
    number = os.getpid()
    stage = Stage(
        platform=platform,
        folder=folder,
        bridge=Bridge(
            name=f"upkd{number}",
            address=f"10.{193 + number % 20}.{number // 20 % 250}.1/24",
        ),
        # Simulated machines share this host's ports with everybody else's.
        application_port=free_port() if platform == SIMULATED else APPLICATION_PORT,
    )
    try:
        yield stage
    finally:
        if platform != SIMULATED:
            _clear_host(stage)
        shutil.rmtree(folder, ignore_errors=True)


def _clear_host(stage: Stage) -> None:
    """Take away what the server, dead by now, has left: nothing, unless an act went wrong."""
    settings = ServerSettings(
        state_dir=str(stage.state),
        platforms=(stage.platform,),
        bridge=stage.bridge.name,
        network=stage.bridge.address,
    )
    if stage.state.exists():
        driver: Any = open_platforms(settings)[stage.platform]
        with ThreadPoolExecutor(DELETES_AT_ONCE) as pool:
            for deleted in [pool.submit(_delete, driver, name) for name in driver.names()]:
                deleted.result()
    stage.bridge.remove()


def _delete(driver: Any, name: str) -> None:
    driver.delete(name, key="the demonstration is over", fence=FENCE_LAST)


@contextlib.contextmanager
def running_server(stage: Stage) -> Iterator[tuple[Client, str, str]]:
    """A server on a free port, stopped again at the end: client, URL, token."""
    port = free_port()
    with stage.log.open("ab") as output:
        process = subprocess.Popen(
            serve_command(stage, port),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"https://127.0.0.1:{port}"
        client, token = connect(process, stage, url)
        yield client, url, token
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=SERVER_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def serve_command(stage: Stage, port: int) -> list[str]:
    """The server's command line: where its machines are and how they find it."""
    command = [
        sys.executable, "-m", "upkeep", "serve",
        "--state-dir", str(stage.state),
        "--platform", stage.platform,
        "--listen", f"127.0.0.1:{port}",
    ]  # fmt: skip
    if stage.platform == SIMULATED:
        return [*command, "--advertise", f"https://127.0.0.1:{port}", "--allow-local-probes"]
    host = stage.bridge.address.partition("/")[0]
    return [
        *command,
        "--listen", f"{host}:{port}",
        "--advertise", f"https://{host}:{port}",
        "--bridge", stage.bridge.name,
        "--network", stage.bridge.address,
    ]  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


def connect(process: subprocess.Popen[bytes], stage: Stage, url: str) -> tuple[Client, str]:
    """A client with the admin token that the server left, once the server is ready."""
    deadline = time.monotonic() + SERVER_READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoError(f"the server ended at once:\n{_tail(stage.log)}")
        token_file, ca_file = stage.state / "admin-token", stage.state / "ca" / "ca.pem"
        if token_file.exists() and ca_file.exists() and _answers(url):
            token = token_file.read_text().strip()
            connection = Connection(server=url, token=token, ca_pem=ca_file.read_text())
            return Client(connection), token
        time.sleep(0.05)
    raise DemoError(f"the server was not ready within {SERVER_READY_S:g} s:\n{_tail(stage.log)}")


def _answers(url: str) -> bool:
    host, port = url.removeprefix("https://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def keep_log(stage: Stage) -> Path:
    """The server's log, out of the directory that will be gone."""
    kept = stage.folder.with_suffix(".log")
    shutil.copyfile(stage.log, kept)
    return kept


def need_root(platform: str) -> None:
    if platform != SIMULATED and os.geteuid() != 0:
        raise DemoError(
            f"the demonstration on {platform} boots real machines and needs root: run it"
            f" with sudo, or try --platform {SIMULATED}"
        )
