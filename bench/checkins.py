"""Agents at the server: check-ins a second, memory of a large fleet, memory of an idle poll.

One uvicorn process, as `upkeep serve` runs it (TLS, uvloop, httptools), pinned to one core, over
SQLite with 100,000 enrolled machines; its clients are other processes on the other cores.  The
sketch behind the budgets: 1,000,000 agents at 5 minutes are 3,333 check-ins a second (DESIGN §11),
an idle TLS long poll costs about 34 KiB (DESIGN §8).

python -m bench.checkins
"""

import argparse
import asyncio
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from sqlalchemy import insert

from bench.figure import Figure
from upkeep.api.agents import FILES_RESERVED
from upkeep.api.app import create_app
from upkeep.api.certificates import open_certificates
from upkeep.api.change_feed import ChangeFeed
from upkeep.api.serve_http import EdgeServer, raise_file_limit
from upkeep.api.services import AgentTimes, Services
from upkeep.catalogue.blobs import BlobStore
from upkeep.core.model import RollingPolicy
from upkeep.engine.clock import EngineClock
from upkeep.engine.health_watch import HealthWatch
from upkeep.server.main import RandomIds, SystemClock
from upkeep.store import tables as t
from upkeep.store.database import Database, to_us
from upkeep.store.fleet import SqlFleetStore
from upkeep.store.migrate import migrate
from upkeep.store.policies import policy_to_json
from upkeep.store.tokens import hash_secret

MACHINES = 100_000
GROUP_SIZE = 500
CONNECTIONS = 100
MACHINES_PER_CONNECTION = 10
MEASURE_S = 10.0
POLLS = 20_000
POLL_CLIENTS = 2
POLL_WAIT_S = 300
PROBE = (
    '{"protocol":"http","port":8080,"path":"/health","number_of_probes":1,"rich":false,'
    '"interval_s":5}'
)


# --- The server ----------------------------------------------------------------------------------


def secret_of(machine: int) -> str:
    return f"secret-of-machine-number-{machine}"


def fill(database: Database, machines: int) -> None:
    """Groups of enrolled, healthy machines."""
    now = to_us(datetime.now(UTC))
    policy = policy_to_json(RollingPolicy())
    with database.write() as connection:
        groups = range((machines + GROUP_SIZE - 1) // GROUP_SIZE)
        connection.execute(
            insert(t.groups),
            [
                {"id": f"g_{g}", "name": f"web-{g:04}", "policy": policy, "platform": "nspawn",
                 "probe": PROBE, "health_source": "inside", "image_name": "web",
                 "capacity": GROUP_SIZE, "created_at": now}
                for g in groups
            ],
        )  # fmt: skip
        for start in range(0, machines, 10_000):
            numbers = range(start, min(start + 10_000, machines))
            connection.execute(
                insert(t.machines),
                [
                    {"id": f"m_{n}", "group_id": f"g_{n // GROUP_SIZE}", "name": f"web-{n:06}",
                     "lifecycle": "present", "image": "1.0.1", "health": "healthy",
                     "health_since": now, "watch_from": now, "created_at": now,
                     "uuid": f"uuid-{n}", "address": "10.0.0.1"}
                    for n in numbers
                ],
            )  # fmt: skip
            connection.execute(
                insert(t.agents),
                [
                    {"machine_id": f"m_{n}", "secret_hash": hash_secret(secret_of(n)),
                     "uuid": f"uuid-{n}", "enrolled_at": now, "seen_at": now}
                    for n in numbers
                ],
            )  # fmt: skip


def serve(directory: Path, machines: int) -> None:
    """Runs until its standard input ends; prints its port once it serves."""
    raise_file_limit()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    database = Database(f"sqlite:///{directory}/upkeep.db")
    migrate(database)
    fill(database, machines)
    notify = ChangeFeed()
    store = SqlFleetStore(database, on_mark=notify.changed)
    clock = EngineClock(SystemClock(), store)
    watch = HealthWatch(store)
    watch.load(store.watched(), now=clock.now())
    certificates = open_certificates(directory, ["127.0.0.1"], now=datetime.now(UTC))
    services = Services(
        database=database, store=store, clock=clock, watch=watch,
        blobs=BlobStore(directory / "blobs"), certificates=certificates, ids=RandomIds(),
        notify=notify, url="https://127.0.0.1", state_dir=directory,
        platforms=frozenset({"nspawn"}), wake=lambda: None, is_ready=lambda: True,
        agent_times=AgentTimes(),
    )  # fmt: skip
    app = create_app(services)
    server = EdgeServer(
        uvicorn.Config(
            app, host="127.0.0.1", port=0, loop="uvloop", http="httptools",
            lifespan="on", access_log=False, log_level="warning", backlog=4096,
            ssl_certfile=str(certificates.chain), ssl_keyfile=str(certificates.key),
            timeout_graceful_shutdown=5,
        ),
        app,
    )  # fmt: skip

    def sweep() -> None:
        """The engine's own look for silent agents goes on beside the requests."""
        while True:
            time.sleep(2)
            watch.sweep(now=clock.now())

    def control() -> None:
        while not server.started:
            time.sleep(0.01)
        print(server.servers[0].sockets[0].getsockname()[1], flush=True)
        sys.stdin.read()
        server.should_exit = True

    for work in (control, sweep):
        threading.Thread(target=work, daemon=True).start()
    server.run()


# --- Clients --------------------------------------------------------------------------------------


class Connection:
    """One kept TLS connection that speaks just enough HTTP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext, source: str) -> "Connection":
        return cls(
            *await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, local_addr=(source, 0), limit=16_384
            )
        )

    def send(self, path: str, machine: int, nonce: str) -> None:
        body = (
            f'{{"nonce":"{nonce}","uuid":"uuid-{machine}","boot_id":"4fe1b2aa-0000-4000-8000-'
            f'{machine:012}","agent":"0.1.0","image":{{"name":"web","version":"1.0.1"}},'
            '"os":"Debian GNU/Linux 12 (bookworm)","health":{"state":"healthy",'
            '"since":"2026-11-24T09:00:00Z","detail":"200 OK","phase":null,"skip":false},'
            '"busy":null,"reboot_required":"","first_boot":{"state":"done","detail":""},"done":[]}'
        )
        self._writer.write(
            (
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Authorization: Bearer m_{machine}.{secret_of(machine)}\r\n"
                "Content-Type: application/json\r\nAccept: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}"
            ).encode()
        )

    async def receive(self) -> bytes:
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        marker = head.lower().index(b"content-length:") + 15
        length = int(head[marker : head.index(b"\r\n", marker)])
        return await self._reader.readexactly(length)


def context_of(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(directory / "ca.pem")
    return context


async def check_in(directory: Path, port: int) -> dict[str, Any]:
    """Kept connections, each machine in turn, as fast as the server answers."""
    context = context_of(directory)
    times: list[float] = []
    counted: list[int] = []
    stop_at = begin_at = 0.0

    async def one(connection: Connection, machines: range) -> None:
        nonces = dict.fromkeys(machines, "")
        rounds = 0
        while rounds < 2 or time.perf_counter() < stop_at:
            for machine in machines:
                sent = time.perf_counter()
                connection.send("/agent/v1/check-in", machine, nonces[machine])
                reply = await connection.receive()
                took = time.perf_counter() - sent
                nonces[machine] = json.loads(reply)["nonce"]
                if rounds >= 2 and begin_at and sent >= begin_at:
                    times.append(took)
            rounds += 1
            if rounds == 2:
                await ready.wait()
        counted.extend(int(nonce.partition(".")[2]) for nonce in nonces.values())

    ready = asyncio.Barrier(CONNECTIONS + 1)
    connections = [await Connection.open(port, context, "127.0.0.1") for _ in range(CONNECTIONS)]
    size = MACHINES_PER_CONNECTION
    tasks = [
        asyncio.create_task(one(each, range(n * size, (n + 1) * size)))
        for n, each in enumerate(connections)
    ]

    async def begin() -> None:
        nonlocal stop_at, begin_at
        begin_at = time.perf_counter()
        stop_at = begin_at + MEASURE_S

    # Everything said once: from here on nothing changes.
    stop_at = float("inf")
    while ready.n_waiting < CONNECTIONS:
        await asyncio.sleep(0.01)
    await begin()
    await ready.wait()
    await asyncio.gather(*tasks)
    times.sort()
    # The server's own count agrees: a nonce says how many it has issued to its machine.
    assert sum(counted) >= len(times), (sum(counted), len(times))
    return {
        "per_s": len(times) / MEASURE_S,
        "p50_ms": times[len(times) // 2] * 1e3,
        "p99_ms": times[len(times) * 99 // 100] * 1e3,
    }


async def poll(directory: Path, port: int, first: int, count: int) -> None:
    """Open `count` idle polls, say so, and keep them until standard input ends."""
    raise_file_limit()
    context = context_of(directory)
    gate = asyncio.Semaphore(50)
    kept: list[Connection] = []

    async def one(machine: int) -> None:
        async with gate:
            source = f"127.0.0.{2 + machine % 8}"
            connection = await Connection.open(port, context, source)
            connection.send("/agent/v1/check-in", machine, "")
            await connection.receive()
            connection.send(f"/agent/v1/poll?wait={POLL_WAIT_S}", machine, "")
            kept.append(connection)

    await asyncio.gather(*(one(machine) for machine in range(first, first + count)))
    await asyncio.sleep(1)
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)


# --- Measuring ------------------------------------------------------------------------------------


def rss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    port: int
    pid: int
    directory: Path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "bench.checkins", *map(str, arguments)]


@contextmanager
def running_server(machines: int) -> Iterator[Running]:
    directory = Path(tempfile.mkdtemp(prefix="upkeep-bench-"))
    server = subprocess.Popen(
        command("serve", directory, machines),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        port = int(server.stdout.readline())
        yield Running(port=port, pid=server.pid, directory=directory)
    finally:
        assert server.stdin is not None
        server.stdin.close()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        shutil.rmtree(directory)


def polls_measured() -> int:
    """20,000, or what this machine's limit of open files leaves to one process."""
    return min(POLLS, raise_file_limit() - FILES_RESERVED - CONNECTIONS)


@contextmanager
def idle_polls(server: Running) -> Iterator[None]:
    share = polls_measured() // POLL_CLIENTS
    clients = [
        subprocess.Popen(
            command("poll", server.directory, server.port, 10_000 + n * share, share),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(POLL_CLIENTS)
    ]
    try:
        for client in clients:
            assert client.stdout is not None
            if client.stdout.readline() != "open\n":
                raise RuntimeError("a client could not open its polls")
        yield
    finally:
        for client in clients:
            assert client.stdin is not None
            client.stdin.close()
            client.wait()


def measure() -> list[Figure]:
    with running_server(MACHINES) as server:
        answer = subprocess.run(
            command("check-in", server.directory, server.port),
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        seen = json.loads(answer.stdout)
        fleet_kib = rss_kib(server.pid)
        with idle_polls(server):
            poll_kib = (rss_kib(server.pid) - fleet_kib) / polls_measured()
    where = f"{MACHINES:,} machines, TLS, {CONNECTIONS} kept connections, server on one core"
    return [
        Figure(name="checkins.per_s", value=seen["per_s"], unit="1/s", budget=3_000,
               bound="at_least", note=where),
        Figure(name="checkins.p50", value=seen["p50_ms"], unit="ms", budget=25,
               note=f"{where}, at full load"),
        Figure(name="checkins.p99", value=seen["p99_ms"], unit="ms", budget=25,
               note=f"{where}, at full load"),
        Figure(name="checkins.server_rss", value=fleet_kib / 1024**2, unit="GiB", budget=1.5,
               note=f"after the check-ins, {MACHINES:,} machines known and watched"),
        Figure(name="checkins.idle_poll", value=poll_kib, unit="KiB",
               budget=40, note=f"{polls_measured():,} idle TLS long polls"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.checkins")
    parser.add_argument("role", nargs="?", choices=["serve", "check-in", "poll"])
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("numbers", nargs="*", type=int)
    asked = parser.parse_args()
    match asked.role:
        case "serve":
            serve(asked.directory, *asked.numbers)
        case "check-in":
            print(json.dumps(uvloop.run(check_in(asked.directory, *asked.numbers))))
        case "poll":
            uvloop.run(poll(asked.directory, *asked.numbers))
        case _:
            print(json.dumps([figure.to_json() for figure in measure()], indent=2))


if __name__ == "__main__":
    main()
