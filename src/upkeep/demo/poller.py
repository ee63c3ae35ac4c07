"""Watches every machine's application from outside, ten times a second, and believes nobody else.

What it reports comes from the machines' own answers: version, boot id, the marker on the data
volume.  Ten times a second all machines are asked at the same moment, whether or not the answers
to earlier questions have come.  A machine is down at a moment if the question asked then is not
answered with 200 in time.  When this process itself was held up meanwhile (a busy host, another
thread), silence says nothing of the machines, and the moment is not counted.
"""

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field

from upkeep.engine.prober import NetworkProber
from upkeep.ports import ProbeResult

INTERVAL_S = 0.1
HEARTBEAT_S = 0.05
HELD_UP_S = 0.3


@dataclass(slots=True)
class Seen:
    """What one machine has said of itself so far.

    Attributes:
        boot_ids: in the order in which they appeared.
        markers: contents of its data volume's marker; more than one means that data was lost.
        up: whether it answered the latest question that has been settled with 200.
        asked_at: the number of that question.
    """

    name: str
    address: str
    asked_at: int = -1
    version: str = ""
    boot_ids: list[str] = field(default_factory=list)
    markers: list[str] = field(default_factory=list)
    versions_seen: list[str] = field(default_factory=list)
    up: bool = False


@dataclass(slots=True)
class Tally:
    """Counts over one phase.

    Attributes:
        down_max: the most machines that were down at one moment.
        polls: questions asked of single machines.
        polls_failed: moments at which no machine of the group answered.
        open: moments whose answers have not all come.
    """

    down_max: int = 0
    polls: int = 0
    polls_failed: int = 0
    open: int = 0


class Poller:
    """Polls in a thread of its own between `start` and `stop`.

    Args:
        timeout_s: how late an answer may be; the slower the machines, the longer.
    """

    def __init__(self, machines: dict[str, str], *, port: int, timeout_s: float) -> None:
        self.seen = {name: Seen(name, address) for name, address in machines.items()}
        self._tally = Tally()
        self._port = port
        self._timeout_s = timeout_s
        self._prober = NetworkProber(allow_local=True)
        self._held_up = 0  # How often.
        self.rounds = 0  # Begun since the start.
        self.loop: asyncio.AbstractEventLoop | None = None
        self._settled = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def end_phase(self) -> Tally:
        """What was counted since the last call, once every answer to it has come or is late."""
        with self._settled:
            tally, self._tally = self._tally, Tally()
            self._settled.wait_for(lambda: tally.open == 0)
        return tally

    def all_up(self) -> bool:
        return all(seen.up for seen in self.seen.values())

    def _run(self) -> None:
        asyncio.run(self._poll_for_ever())

    async def _poll_for_ever(self) -> None:
        self.loop = asyncio.get_running_loop()
        heartbeat = asyncio.create_task(self._watch_itself())
        under_way: set[asyncio.Task[None]] = set()
        begun, number = time.monotonic(), 0
        while not self._stopping.is_set():
            with self._settled:
                tally = self._tally
                tally.open += 1
            self.rounds += 1
            task = asyncio.create_task(self._poll_all(number, tally))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            # A moment that this process has slept through is left out, not made up for.
            number = max(number + 1, int((time.monotonic() - begun) / INTERVAL_S))
            await asyncio.sleep(max(0.0, begun + number * INTERVAL_S - time.monotonic()))
        await asyncio.gather(*under_way)
        heartbeat.cancel()

    async def _watch_itself(self) -> None:
        """Its timer is always due before that of any question asked since, so it knows first."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            now = time.monotonic()
            self._held_up += now - before > HELD_UP_S
            before = now

    async def _poll_all(self, number: int, tally: Tally) -> None:
        held_up = self._held_up
        results = await asyncio.gather(
            *(
                self._prober.probe("http", seen.address, self._port, "/", self._timeout_s)
                for seen in self.seen.values()
            )
        )
        counts = self._held_up == held_up
        down = 0
        for seen, result in zip(self.seen.values(), results, strict=True):
            is_up = result.answered and result.status == 200
            down += not is_up
            if number > seen.asked_at and (counts or is_up):
                seen.asked_at, seen.up = number, is_up
                _note(seen, result)
        with self._settled:
            if counts:
                tally.polls += len(results)
                tally.down_max = max(tally.down_max, down)
                tally.polls_failed += down == len(results)
            tally.open -= 1
            self._settled.notify_all()


def _note(seen: Seen, result: ProbeResult) -> None:
    if not result.answered:
        return
    try:
        said = json.loads(result.body)
        version, boot_id, marker = said["version"], said["boot_id"], said["marker"]
    except (ValueError, KeyError, TypeError):
        return  # Somebody else's page, or half of one.
    seen.version = version
    for values, value in (
        (seen.boot_ids, boot_id),
        (seen.markers, marker),
        (seen.versions_seen, version),
    ):
        if value not in values:
            values.append(value)
