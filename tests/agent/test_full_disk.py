"""The agent's own disk is full: no command is lost and none is done twice.

A real file system without a free block, in the mount namespace of the agent alone; the test
reaches into it through /proc.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests import ballast

from upkeep.agent import identity, journal


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallAgent:
    process: subprocess.Popen[bytes]
    state: Path
    log: Path

    def fill(self) -> None:
        ballast.fill(self.state)

    def make_room(self) -> None:
        ballast.make_room(self.state)


@pytest.fixture
def small(server: Any, machine: Any, tmp_path: Path) -> Iterator[SmallAgent]:
    asked = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if subprocess.run(asked, capture_output=True).returncode != 0:
        pytest.skip("needs root and a mount namespace")
    paths = machine.paths
    paths.state.mkdir(parents=True, exist_ok=True)
    server.poll = {"mode": "interval", "seconds": 1}
    machine.seed(server, token="t-1")
    log = tmp_path / "log"
    script = Path(__file__).with_name("agent_on_a_small_disk.py")
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["unshare", "--mount", sys.executable, str(script), str(paths.state),
             f"--seed-dir={paths.seed}", f"--etc-dir={paths.etc}"],
            stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        server.wait_for(lambda: server.bodies())
        yield SmallAgent(
            process=process, state=Path(f"/proc/{process.pid}/root{paths.state}"), log=log
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


def test_a_command_waits_for_room_and_is_done_once(
    server: Any, machine: Any, small: SmallAgent, wait_until: Any, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    machine.paths.drain.write_text(f"#!/bin/sh\necho once >>{ran}\n")
    machine.paths.drain.chmod(0o755)
    wait_until(lambda: identity.load(small.state) is not None)
    known = identity.load(small.state)
    assert known is not None

    small.fill()
    server.send("k/1", "drain", timeout_s=10)
    wait_until(lambda: "No space left" in small.log.read_text())
    # It is alive, it keeps who it is, and it did nothing that it could not write down.
    seen = len(server.bodies())
    server.wait_for(lambda: len(server.bodies()) > seen)
    assert small.process.poll() is None
    after = identity.load(small.state)
    assert after is not None
    assert after.secret == known.secret
    assert not ran.exists()
    assert [name for name in os.listdir(small.state) if name.endswith(".new")] == []

    small.make_room()
    assert server.outcome("k/1")["outcome"] == "succeeded"
    assert ran.read_text() == "once\n"
    written = json.loads((small.state / journal.FILE_NAME).read_text())
    assert [entry["key"] for entry in written["entries"]] == ["k/1"]
