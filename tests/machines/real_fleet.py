"""A real `upkeep serve` over real machines for one test: kill it, start it again, ask anybody.

Built from the demonstration's own parts, so that what is tested is what `upkeep demo` shows: the
same images, the same poller outside, the same clearing of the host.
"""

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from bench.workspace import room_for_machines
from platforms import nspawn_missing

from upkeep.catalogue.build import BuiltImage
from upkeep.cli.client import Client
from upkeep.demo.poller import Poller
from upkeep.demo.run import group_document
from upkeep.demo.stage import Stage, build_images, connect, free_port, open_stage, serve_command

# For any one condition: ten times what it takes on an idle machine.
WAIT_MAX_S = 120.0


@dataclass(slots=True)
class RealFleet:
    """One server process over one stage, with one group of machines after the other."""

    stage: Stage
    images: dict[str, BuiltImage]
    port: int = field(default_factory=free_port)
    server: subprocess.Popen[bytes] | None = None
    token: str = ""
    group: str = ""
    _client: Client | None = None
    _poller: Poller | None = None

    @property
    def client(self) -> Client:
        assert self._client is not None, "start the server first"
        return self._client

    @property
    def poller(self) -> Poller:
        assert self._poller is not None, "create the machines first"
        return self._poller

    def start_server(self) -> None:
        with self.stage.log.open("ab") as output:
            self.server = subprocess.Popen(
                serve_command(self.stage, self.port),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        url = f"https://127.0.0.1:{self.port}"
        self._client, self.token = connect(self.server, self.stage, url)

    def kill_server(self) -> None:
        """As a power cut would: no handler runs."""
        assert self.server is not None
        self.server.send_signal(signal.SIGKILL)
        self.server.wait()

    def publish(self, version: str) -> None:
        image = self.images[version]
        kind = image.path.suffix.removeprefix(".")
        path = f"/v1/images/{self.group}/versions/{version}/{kind}"
        self.client.upload(path, image.path, sha256=image.sha256)

    @contextmanager
    def machines_of(
        self, group: str, machines: int, *, policy: dict[str, Any] | None = None, **changes: Any
    ) -> Iterator["RealFleet"]:
        """The demonstration's group under another name, on 1.0.0, healthy and polled.

        Afterwards its machines are being deleted.
        """
        self.group = group
        self.client.post("/v1/images", {"name": group})
        self.publish("1.0.0")
        document = group_document(self.stage, machines) | {"name": group, "image": group}
        document["policy"] |= policy or {}
        self.client.post("/v1/groups", document | changes)
        self.wait("healthy machines", lambda: self.healthy() == machines)
        addresses = {machine["name"]: machine["address"] for machine in self.machines()}
        self._poller = Poller(addresses, port=self.stage.application_port, timeout_s=1.0)
        self._poller.start()
        try:
            self.wait("answers from every machine", self._poller.all_up)
            self._poller.end_phase()
            yield self
        finally:
            self._poller.stop()
        # Not waited for: what is left at the end is cleared with the stage.
        self.client.delete(f"/v1/groups/{group}")

    def machines(self) -> list[dict[str, Any]]:
        return list(self.client.get("/v1/machines", group=self.group)["items"])

    def healthy(self) -> int:
        return sum(machine["health"] == "healthy" for machine in self.machines())

    def rollouts(self, target: str) -> list[dict[str, Any]]:
        found = self.client.get(f"/v1/groups/{self.group}/rollouts")["items"]
        return [rollout for rollout in found if rollout["target"] == target]

    def wait_for_end(self, target: str) -> dict[str, Any]:
        """The one rollout to this version, once it has ended and every machine answers."""
        self.wait(
            f"the end of the rollout to {target}",
            lambda: any(rollout["ended_at"] for rollout in self.rollouts(target)),
        )
        self.wait("answers from every machine", self.poller.all_up)
        (rollout,) = self.rollouts(target)
        return rollout

    def wait_for_log(self, pattern: str, *, after: int = 0) -> int:
        """Until the server's log says it; where in the log that line ends."""
        found: list[int] = []

        def is_there() -> bool:
            match = re.compile(pattern).search(self.stage.log.read_text(errors="replace"), after)
            found[:] = [match.end()] if match else []
            return bool(found)

        self.wait(f"{pattern!r} in the log", is_there, pause_s=0.005)
        return found[0]

    def wait(self, what: str, is_so: Callable[[], bool], *, pause_s: float = 0.05) -> None:
        deadline = time.monotonic() + WAIT_MAX_S
        while not is_so():
            if time.monotonic() > deadline:
                log = self.stage.log.read_text(errors="replace")[-4_000:]
                pytest.fail(f"not within {WAIT_MAX_S:g} s: {what}\n{log}")
            time.sleep(pause_s)

    def supervisor(self, name: str) -> int:
        """The process that keeps the machine running, as the host numbers it; 0 while none does."""
        file = self.stage.state / "nspawn" / "machines" / name / "runtime.json"
        pid = int(json.loads(file.read_text())["pid"])
        return pid if Path(f"/proc/{pid}").exists() else 0

    def data(self, name: str) -> Path:
        """The machine's data volume, from the host's side."""
        return self.stage.state / "nspawn" / "machines" / name / "data"

    def close(self) -> None:
        if self.server is not None and self.server.poll() is None:
            self.kill_server()


@contextmanager
def real_fleet(*, prepare: Callable[[Path], None]) -> Iterator[RealFleet]:
    """A started server without machines; afterwards the host is as it was.

    Args:
        prepare: adds files to the overlay of all three images.
    """
    if why := nspawn_missing():
        pytest.skip(why)
    with room_for_machines(), open_stage("nspawn") as stage:
        fleet = RealFleet(stage, build_images(stage, lambda line: None, prepare=prepare))
        try:
            fleet.start_server()
            yield fleet
        finally:
            fleet.close()
