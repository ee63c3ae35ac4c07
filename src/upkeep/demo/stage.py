"""Builds what the demonstration needs and starts its server as a process of its own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from upkeep.agent.pack import build_zipapp
from upkeep.catalogue.build import BuiltImage, build_image
from upkeep.cli.client import Client
from upkeep.cli.connection import Connection
from upkeep.server.provision import FORMATS

OVERLAY = Path(__file__).with_name("overlay")
# Bare root file systems are kept here between demonstrations.
CACHE = Path("/var/cache/upkeep")
BRIDGE, NETWORK = "upkeepdemo0", "10.214.0.1/24"
GOOD, NEXT, BROKEN = "1.0.0", "1.0.1", "1.0.2"
SERVER_READY_S = 30.0

Progress = Callable[[str], None]


class DemoError(Exception):
    """The demonstration cannot go on; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A running server and the images to play with."""

    client: Client
    url: str
    token: str
    images: dict[str, BuiltImage]
    log: Path


def build_images(folder: Path, platform: str, progress: Progress) -> dict[str, BuiltImage]:
    """Three versions of one image; the last answers 503 to everything."""
    CACHE.mkdir(parents=True, exist_ok=True)
    agent = build_zipapp(folder / "agent.pyz")
    broken = folder / "broken"
    shutil.copytree(OVERLAY, broken)
    (broken / "etc/demo-broken").write_text("This version is meant to fail.\n")
    images = {}
    for version, overlay in ((GOOD, OVERLAY), (NEXT, OVERLAY), (BROKEN, broken)):
        kind = FORMATS[platform]
        images[version] = build_image(
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
    return images


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A directory that is gone afterwards; on disk, since overlays do not stack on each other."""
    folder = Path(tempfile.mkdtemp(prefix="upkeep-demo-", dir="/var/tmp"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running_server(folder: Path, platform: str) -> Iterator[tuple[Client, str, str, Path]]:
    """A server on a free port, stopped again at the end: client, URL, token, log file."""
    port = _free_port()
    state = folder / "state"
    log = folder / "server.log"
    command = [
        sys.executable, "-m", "upkeep", "serve",
        "--state-dir", str(state),
        "--listen", f"127.0.0.1:{port}",
        "--listen", f"{NETWORK.partition('/')[0]}:{port}",
        "--advertise", f"https://{NETWORK.partition('/')[0]}:{port}",
        "--platform", platform,
        "--bridge", BRIDGE,
        "--network", NETWORK,
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        url = f"https://127.0.0.1:{port}"
        client, token = _connect(process, state, url, log)
        yield client, url, token, log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _connect(
    process: subprocess.Popen[bytes], state: Path, url: str, log: Path
) -> tuple[Client, str]:
    """A client with the admin token that the server left, once the server is ready."""
    deadline = time.monotonic() + SERVER_READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoError(f"the server ended at once:\n{_tail(log)}")
        token_file, ca_file = state / "admin-token", state / "ca" / "ca.pem"
        if token_file.exists() and ca_file.exists() and _answers(url):
            token = token_file.read_text().strip()
            connection = Connection(server=url, token=token, ca_pem=ca_file.read_text())
            return Client(connection), token
        time.sleep(0.05)
    raise DemoError(f"the server was not ready within {SERVER_READY_S:g} s:\n{_tail(log)}")


def _answers(url: str) -> bool:
    host, port = url.removeprefix("https://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def need_root(platform: str) -> None:
    if os.geteuid() != 0:
        raise DemoError(
            f"the demonstration on {platform} boots real machines and needs root: run it with sudo"
        )
