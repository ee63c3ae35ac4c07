"""The outside poller counts what is down at one moment, and not its own sleep."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from upkeep.demo.poller import INTERVAL_S, Poller
from upkeep.demo.stage import free_port

ADDRESSES = {"a": "127.44.0.1", "b": "127.44.0.2", "c": "127.44.0.3"}
WAIT_MAX_S = 30.0


class Application(BaseHTTPRequestHandler):
    silent: ClassVar[set[str]] = set()
    is_free = threading.Event()
    takes_s: ClassVar[float] = 0.0

    def do_GET(self) -> None:
        address = self.connection.getsockname()[0]
        if address in self.silent:
            self.is_free.wait(WAIT_MAX_S)
        time.sleep(self.takes_s)
        body = json.dumps({"version": "1", "boot_id": address, "marker": "m"}).encode()
        with suppress(OSError):  # Who asked may have given up.
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def poller() -> Iterator[Poller]:
    Application.silent, Application.is_free = set(), threading.Event()
    Application.takes_s = 0.0
    server = ThreadingHTTPServer(("0.0.0.0", free_port()), Application)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    poller = Poller(ADDRESSES, port=server.server_address[1], timeout_s=0.5)
    poller.start()
    wait_for_up(poller, {"a", "b", "c"})
    poller.end_phase()
    yield poller
    poller.stop()
    Application.is_free.set()
    server.shutdown()
    server.server_close()


def wait_for_polls(poller: Poller, count: int) -> None:
    """So many rounds have been begun since the call."""
    begun = poller.rounds
    while poller.rounds < begun + count:
        time.sleep(0.01)


def wait_for_up(poller: Poller, names: set[str]) -> None:
    deadline = time.monotonic() + WAIT_MAX_S
    while {name for name, seen in poller.seen.items() if seen.up} != names:
        assert time.monotonic() < deadline, "they never were"
        time.sleep(0.01)


def test_it_counts_who_is_down_at_one_moment(poller: Poller) -> None:
    Application.silent = {ADDRESSES["a"], ADDRESSES["b"]}
    wait_for_up(poller, {"c"})
    tally = poller.end_phase()
    assert tally.down_max == 2
    assert tally.polls_failed == 0
    assert tally.polls % 3 == 0
    Application.silent = set()
    wait_for_up(poller, {"a", "b", "c"})


def test_a_moment_without_any_answer_is_told(poller: Poller) -> None:
    Application.silent = set(ADDRESSES.values())
    wait_for_up(poller, set())
    assert poller.end_phase().polls_failed > 0


def test_a_silent_machine_does_not_slow_the_questions_to_the_others(poller: Poller) -> None:
    Application.silent = {ADDRESSES["a"]}
    wait_for_up(poller, {"b", "c"})
    before = poller.seen["b"].asked_at
    asked = {poller.seen["b"].asked_at}
    deadline = time.monotonic() + WAIT_MAX_S
    while max(asked) < before + 20:
        assert time.monotonic() < deadline
        asked.add(poller.seen["b"].asked_at)
        time.sleep(INTERVAL_S / 10)
    # With one question at a time, every fifth number at most would have been asked.
    assert len(asked) > 10


def test_its_own_sleep_is_nobodys_failure(poller: Poller) -> None:
    async def oversleep() -> None:
        time.sleep(2.0)

    assert poller.loop is not None
    Application.takes_s = 0.3  # So that questions are on their way when it falls asleep.
    wait_for_polls(poller, 20)
    asyncio.run_coroutine_threadsafe(oversleep(), poller.loop).result()
    wait_for_up(poller, {"a", "b", "c"})
    assert poller.end_phase().down_max == 0
