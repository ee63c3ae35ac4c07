"""Looks at machines from outside: sends the probes that `HealthWatch` says are due.

A probe on localhost cannot see a dead network; this one crosses it.  TCP connects, HTTP and HTTPS
send one GET, follow no redirect and verify no certificate (the machine's own certificate says
nothing about its health).  Source: sheet os-image §6.1, §6.5.

Probes go only where machines are: loopback and link-local addresses are refused unless allowed,
so that nobody can make the server look at itself (DESIGN §13).
"""

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import Callable
from datetime import timedelta

import httptools

from upkeep.agent.health import BODY_BYTES_MAX, ProbeProtocol, outside_timeout_s
from upkeep.engine.clock import EngineClock
from upkeep.engine.health_watch import DueProbe, HealthWatch
from upkeep.engine.own_side import is_own_side
from upkeep.ports import ProbeResult

# Probes under way at once; each holds a socket and at most 8 KiB of answer.
PROBES_MAX = 1_000
# How long the loop may sleep when no probe is due, so that new machines are seen soon.
IDLE_MAX_S = 0.2

log = logging.getLogger("upkeep.engine")


class _Answer:
    """Collects one HTTP answer; httptools calls the `on_*` methods."""

    def __init__(self) -> None:
        self.body = b""
        self.complete = False

    def on_body(self, body: bytes) -> None:
        self.body = (self.body + body)[:BODY_BYTES_MAX]

    def on_message_complete(self) -> None:
        self.complete = True


class NetworkProber:
    """`ports.Prober` over real sockets."""

    def __init__(self, *, allow_local: bool = False) -> None:
        self._allow_local = allow_local
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE

    async def probe(
        self, protocol: str, address: str, port: int, path: str, timeout_s: float
    ) -> ProbeResult:
        """One look.  Never raises: what went wrong is in the result's `detail`."""
        try:
            refusal = self._refusal(address)
            if refusal:
                return ProbeResult(answered=False, detail=refusal)
            async with asyncio.timeout(timeout_s):
                return await self._look(protocol, address, port, path)
        except TimeoutError:
            return ProbeResult(answered=False, detail=f"no answer within {timeout_s:g} s")
        except (OSError, ValueError, httptools.HttpParserError) as error:
            return ProbeResult(answered=False, detail=_words(error))

    def _refusal(self, address: str) -> str:
        if is_own_side(address) and not self._allow_local:
            return f"{address} is this server's own side: allow local probes to look there"
        return ""

    async def _look(self, protocol: str, address: str, port: int, path: str) -> ProbeResult:
        tls = self._tls if protocol == ProbeProtocol.HTTPS else None
        reader, writer = await asyncio.open_connection(address, port, ssl=tls)
        try:
            if protocol == ProbeProtocol.TCP:
                return ProbeResult(answered=True, detail="connected")
            request = f"GET {path} HTTP/1.1\r\nHost: {address}:{port}\r\nConnection: close\r\n\r\n"
            writer.write(request.encode("ascii"))
            return await _read_answer(reader)
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


async def _read_answer(reader: asyncio.StreamReader) -> ProbeResult:
    answer = _Answer()
    parser = httptools.HttpResponseParser(answer)
    received = 0
    while not answer.complete and received <= 8 * BODY_BYTES_MAX:
        data = await reader.read(BODY_BYTES_MAX)
        if not data:
            break
        received += len(data)
        parser.feed_data(data)
        if received and len(answer.body) >= BODY_BYTES_MAX:
            break
    if received == 0:
        return ProbeResult(answered=False, detail="the connection was closed without an answer")
    status = parser.get_status_code()
    return ProbeResult(answered=True, status=status, body=answer.body, detail=str(status))


def _words(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return str(error) or type(error).__name__


def _log_failure(probe: asyncio.Task[None]) -> None:
    """What a probe saw could not be written: the next one sees it again."""
    if not probe.cancelled() and (error := probe.exception()) is not None:
        log.error("probe_not_recorded", exc_info=error)


class ProbeLoop:
    """A thread of its own that probes for as long as the server runs."""

    def __init__(
        self,
        watch: HealthWatch,
        prober: NetworkProber,
        clock: EngineClock,
        *,
        on_change: Callable[[], None],
    ) -> None:
        self._watch = watch
        self._prober = prober
        self._clock = clock
        self._on_change = on_change
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._probe_for_ever())

    async def _probe_for_ever(self) -> None:
        under_way: set[asyncio.Task[None]] = set()
        while not self._stopping.is_set():
            now = self._clock.peek()
            if len(under_way) < PROBES_MAX:
                for probe in self._watch.due(now=now, limit=PROBES_MAX - len(under_way)):
                    task = asyncio.create_task(self._probe(probe))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                    task.add_done_callback(_log_failure)
            next_at = self._watch.next_probe_at()
            wait = timedelta(seconds=IDLE_MAX_S) if next_at is None else next_at - now
            await asyncio.sleep(min(max(wait.total_seconds(), 0.001), IDLE_MAX_S))
        for task in under_way:
            task.cancel()

    async def _probe(self, probe: DueProbe) -> None:
        settings = probe.settings
        result = await self._prober.probe(
            settings.protocol.value,
            probe.address,
            settings.port,
            settings.path,
            outside_timeout_s(settings),
        )
        if self._watch.probed(probe, result, now=self._clock.peek()):
            self._on_change()
