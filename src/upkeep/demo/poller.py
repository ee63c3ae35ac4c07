"""Watches every machine's application from outside, ten times a second, and believes nobody else.

What it reports comes from the machines' own answers: version, boot id, the marker on the data
volume.  A machine is down at a poll that it did not answer with 200.
"""

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field

from upkeep.engine.prober import NetworkProber
from upkeep.ports import ProbeResult

INTERVAL_S = 0.1
TIMEOUT_S = 1.0


@dataclass(slots=True)
class Seen:
    """What one machine has said of itself so far.

    Attributes:
        boot_ids: in the order in which they appeared.
        markers: contents of its data volume's marker; more than one means that data was lost.
        up: whether it answered the last poll with 200.
    """

    name: str
    address: str
    version: str = ""
    boot_ids: list[str] = field(default_factory=list)
    markers: list[str] = field(default_factory=list)
    versions_seen: list[str] = field(default_factory=list)
    up: bool = False


@dataclass(slots=True)
class Tally:
    """Counts over one phase.

    Attributes:
        down_max: the most machines that were down at one poll.
        polls: questions asked of single machines.
        polls_failed: polls of the group as a whole at which no machine answered.
    """

    down_max: int = 0
    polls: int = 0
    polls_failed: int = 0


class Poller:
    """Polls in a thread of its own between `start` and `stop`."""

    def __init__(self, machines: dict[str, str], *, port: int) -> None:
        self.seen = {name: Seen(name, address) for name, address in machines.items()}
        self.tally = Tally()
        self._port = port
        self._prober = NetworkProber(allow_local=True)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def begin_phase(self) -> None:
        self.tally = Tally()

    def all_up(self) -> bool:
        return all(seen.up for seen in self.seen.values())

    def _run(self) -> None:
        asyncio.run(self._poll_for_ever())

    async def _poll_for_ever(self) -> None:
        next_at = time.monotonic()
        while not self._stopping.is_set():
            await self._poll_all()
            next_at = max(next_at + INTERVAL_S, time.monotonic())
            await asyncio.sleep(next_at - time.monotonic())

    async def _poll_all(self) -> None:
        tally = self.tally
        results = await asyncio.gather(
            *(
                self._prober.probe("http", seen.address, self._port, "/", TIMEOUT_S)
                for seen in self.seen.values()
            )
        )
        for seen, result in zip(self.seen.values(), results, strict=True):
            _note(seen, result)
        down = sum(1 for seen in self.seen.values() if not seen.up)
        tally.polls += len(results)
        tally.down_max = max(tally.down_max, down)
        tally.polls_failed += down == len(results)


def _note(seen: Seen, result: ProbeResult) -> None:
    seen.up = result.answered and result.status == 200
    if not result.answered:
        return
    try:
        said = json.loads(result.body)
    except ValueError:
        return
    seen.version = said["version"]
    for values, value in (
        (seen.boot_ids, said["boot_id"]),
        (seen.markers, said["marker"]),
        (seen.versions_seen, said["version"]),
    ):
        if value not in values:
            values.append(value)
