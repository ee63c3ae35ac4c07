"""Many agents in one process: kept TLS connections that speak just enough HTTP.

It must cost a fraction of what the server does, or it would measure itself: no asyncio, TLS over
memory buffers, one read and one write a check-in.  What is said is what a real agent says,
word for word, its nonce included (docs/agent-protocol.md).
"""

import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.big_fleet import secret_of, uuid_of

HOST = "127.0.0.1"
READ_BYTES = 65_536
# A reply that has not come by then never will.
ANSWER_TIME_MAX_S = 60.0

_REQUEST = (
    b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %b.%b\r\n"
    b"Content-Type: application/json\r\nAccept: application/json\r\n"
    b"User-Agent: upkeep-agent/0.1.0\r\nContent-Length: %d\r\n\r\n%b"
)
_BODY = (
    b'{"nonce":"%b","uuid":"%b","boot_id":"4fe1b2aa-0000-4000-8000-%b","agent":"0.1.0",'
    b'"image":{"name":"web","version":"1.0.1"},"os":"Debian GNU/Linux 12 (bookworm)",'
    b'"health":{"state":"healthy","since":"2026-11-24T09:00:00Z","detail":"200 OK",'
    b'"phase":null,"skip":false},"busy":null,"reboot_required":"",'
    b'"first_boot":{"state":"done","detail":""},"done":[]}'
)


class RefusedError(Exception):
    """The server answered something else than 200, or closed a connection."""


class Link:
    """One kept connection, and the machine that speaks on it just now."""

    __slots__ = ("_buffer", "_incoming", "_outgoing", "_tls", "due_at", "machine", "socket")

    def __init__(self, context: ssl.SSLContext, port: int, *, source: str = HOST) -> None:
        self.socket = socket.create_connection((HOST, port), source_address=(source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=HOST)
        self._buffer = b""
        self.machine = 0
        self.due_at = 0.0
        self._shake_hands()
        self.socket.setblocking(False)

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.socket.sendall(self._outgoing.read())
                self._incoming.write(self._read())
            else:
                self.socket.sendall(self._outgoing.read())
                return

    def send(self, request: bytes) -> None:
        self._tls.write(request)
        encrypted = self._outgoing.read()
        if self.socket.send(encrypted) != len(encrypted):
            raise RefusedError("the server does not read its connections")

    def receive(self) -> bytes | None:
        """The body of an answer once it is whole."""
        try:
            self._incoming.write(self._read())
        except BlockingIOError:
            return None
        try:
            while data := self._tls.read(READ_BYTES):
                self._buffer += data
            raise RefusedError("the server closed a connection")
        except ssl.SSLWantReadError:
            pass
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self._buffer[:end].lower()
        if not head.startswith(b"http/1.1 200"):
            raise RefusedError(self._buffer.decode(errors="replace"))
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self._buffer) < end + 4 + length:
            return None
        body, self._buffer = self._buffer[end + 4 :], b""
        return body

    def close(self) -> None:
        self.socket.close()

    def _read(self) -> bytes:
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise RefusedError("the server closed a connection")
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What came of some seconds of load.

    Attributes:
        latencies_s: sorted; from the moment a check-in was due until its answer was whole.
        own_share: of one core, that this process used meanwhile.
    """

    seconds: float
    latencies_s: list[float]
    own_share: float

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / self.seconds

    def quantile_ms(self, share: float) -> float:
        return self.latencies_s[int((len(self.latencies_s) - 1) * share)] * 1e3


class Agents:
    """The agents of these machines, which share `links` kept connections.

    Machines take turns, one after another through the whole fleet, so that no check-in profits
    from what the one before left in a cache.
    """

    def __init__(self, machines: Sequence[str], *, ca: Path, port: int, links: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.load_verify_locations(ca)
        self._port = port
        self._machines = [machine.encode() for machine in machines]
        self._secrets = [secret_of(machine).encode() for machine in machines]
        self._uuids = [uuid_of(machine).encode() for machine in machines]
        self._nonces = [b""] * len(machines)
        self._next = 0
        self._polls: list[Link] = []
        self._link_count = links

    def check_in(
        self, *, at_most: int = 0, seconds: float = ANSWER_TIME_MAX_S, per_s: float = 0.0
    ) -> Answered:
        """Check in until that many are sent, or for so long; then wait for all answers.

        Args:
            per_s: check-ins that fall due a second, whether or not those before are answered: a
                latency counts from then.  0: each connection sends as soon as it is answered.
        """
        # Opened anew, since the server closes those that were silent for five seconds.
        links = [Link(self._context, self._port) for _ in range(self._link_count)]
        by_file = {link.socket.fileno(): link for link in links}
        idle = deque(links)  # In turn, so that none falls silent.
        latencies: list[float] = []
        limit = at_most or float("inf")
        poller = select.epoll()
        for file in by_file:
            poller.register(file, select.EPOLLIN)
        cpu, begun = time.process_time(), time.perf_counter()
        sent, now = 0, begun
        while True:
            now = time.perf_counter()
            is_over = sent >= limit or now - begun >= seconds
            if is_over and len(idle) == len(links):
                break
            if now - begun > seconds + ANSWER_TIME_MAX_S:
                raise RefusedError(f"{len(links) - len(idle)} check-ins were not answered")
            due = min(limit, (now - begun) * per_s if per_s else float("inf"))
            while idle and sent < due and not is_over:
                self._begin(idle.popleft(), due_at=begun + sent / per_s if per_s else now)
                sent += 1
            for file, _ in poller.poll(0.001 if per_s else 1.0):
                link = by_file[file]
                body = link.receive()
                if body is not None:
                    latencies.append(time.perf_counter() - link.due_at)
                    self._nonces[link.machine] = body[10 : body.index(b'"', 10)]
                    idle.append(link)
        took = now - begun
        poller.close()
        for link in links:
            link.close()
        return Answered(
            seconds=took,
            latencies_s=sorted(latencies),
            own_share=(time.process_time() - cpu) / took,
        )

    def _begin(self, link: Link, *, due_at: float) -> None:
        link.machine, link.due_at = self._next, due_at
        self._next = (self._next + 1) % len(self._machines)
        link.send(self._request(b"/agent/v1/check-in", link.machine))

    def _request(self, path: bytes, number: int) -> bytes:
        machine = self._machines[number]
        body = _BODY % (self._nonces[number], self._uuids[number], machine)
        return _REQUEST % (path, machine, self._secrets[number], len(body), body)

    def open_polls(self, count: int, *, wait_s: int) -> None:
        """The first `count` machines keep a long poll open each, on a connection of its own."""
        for number in range(count):
            # A source address has 28,000 ports on Linux as it comes.
            link = Link(self._context, self._port, source=f"127.0.0.{2 + number % 8}")
            link.send(self._request(b"/agent/v1/poll?wait=%d" % wait_s, number))
            self._polls.append(link)

    def polls_answered(self) -> int:
        """How many of the open polls the server has ended."""
        return sum(link.receive() is not None for link in self._polls)

    def close(self) -> None:
        for link in self._polls:
            link.close()
