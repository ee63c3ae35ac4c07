"""A running server over a fresh database: real sockets, real TLS, the real engine, no platform."""

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import update

from upkeep.api.app import EdgeApp, create_app
from upkeep.api.certificates import open_certificates
from upkeep.api.change_feed import ChangeFeed
from upkeep.api.serve_http import EdgeServer
from upkeep.api.services import AgentTimes, Services
from upkeep.catalogue.blobs import BlobStore
from upkeep.engine.clock import EngineClock
from upkeep.engine.health_watch import HealthWatch
from upkeep.engine.loop import Engine
from upkeep.engine.prometheus import Prometheus
from upkeep.store import tables as t
from upkeep.store.database import Database
from upkeep.store.fleet import SqlFleetStore
from upkeep.store.migrate import migrate

PROBE = {"protocol": "http", "port": 8080, "path": "/health"}


class TestClock:
    """Real time, moved by the test."""

    __test__ = False

    def __init__(self) -> None:
        self.moved = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.moved

    def monotonic(self) -> float:
        return time.monotonic() + self.moved.total_seconds()


class CountingIds:
    def __init__(self) -> None:
        self._number = 0
        self._lock = threading.Lock()

    def new(self, prefix: str) -> str:
        with self._lock:
            self._number += 1
            return f"{prefix}_{self._number}"


@dataclass
class Server:
    """One running server; `plan` is what the engine's thread does at a wake."""

    services: Services
    app: EdgeApp
    clock: TestClock
    base_url: str
    admin: str
    engine: Engine
    planning: bool = True
    clients: list[httpx.Client] = field(default_factory=list)

    def client(self, token: str | None = None) -> httpx.Client:
        bearer = self.admin if token is None else token
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        trust = ssl.create_default_context(cadata=self.services.certificates.ca_pem)
        client = httpx.Client(base_url=self.base_url, headers=headers, timeout=20, verify=trust)
        self.clients.append(client)
        return client

    def token(self, role: str, **more: Any) -> str:
        """A new token's text."""
        name = f"{role}-{time.monotonic_ns()}"
        made = self.client().post("/v1/tokens", json={"name": name, "role": role, **more})
        assert made.status_code == 201, made.text
        return str(made.json()["token"])

    def read(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with self.services.database.read() as connection:
            return function(connection, *arguments)

    def write(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """A change behind the planner's back, which a plan in flight may not write over."""
        with self.services.database.write() as connection:
            connection.execute(update(t.groups).values(fence=t.groups.c.fence + 1))
            return function(connection, *arguments, **named)


def make_services(directory: Path, url: str = "https://127.0.0.1:8443") -> tuple[Services, Engine]:
    """Services over an empty database, with an engine that nobody drives yet."""
    database = Database(f"sqlite:///{directory}/upkeep.db")
    migrate(database)
    notify = ChangeFeed()
    clock = TestClock()
    store = SqlFleetStore(database, on_mark=notify.changed)
    engine_clock = EngineClock(clock, store)
    services = Services(
        database=database,
        store=store,
        clock=engine_clock,
        watch=HealthWatch(store),
        blobs=BlobStore(directory / "blobs", bytes_max=4 * 1024 * 1024),
        certificates=open_certificates(
            directory / "ca", ["localhost", "127.0.0.1"], now=datetime.now(UTC)
        ),
        ids=CountingIds(),
        notify=notify,
        url=url,
        state_dir=directory,
        platforms=frozenset({"simulated"}),
        network="10.92.0.0/24",
        ask_alarm=Prometheus(allow_local=True).ask,
        wake=lambda: None,
        is_ready=lambda: True,
        agent_times=AgentTimes(long_s=5, interval_s=300),
    )
    engine = Engine(store, engine_clock, on_plan=lambda plan: notify.changed(plan.group.id))
    return services, engine


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    services, engine = make_services(tmp_path)
    clock = services.clock._clock
    assert isinstance(clock, TestClock)
    woken = threading.Event()
    services.store._on_mark = lambda group: (services.notify.changed(group), woken.set())
    services = replace(services, wake=woken.set)
    app = create_app(services)
    running = EdgeServer(
        uvicorn.Config(
            app, host="127.0.0.1", port=0, lifespan="on", log_level="warning", loop="uvloop",
            http="httptools", timeout_graceful_shutdown=2,
            ssl_certfile=str(services.certificates.chain),
            ssl_keyfile=str(services.certificates.key),
        ),
        app,
    )  # fmt: skip
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.005)
    port = running.servers[0].sockets[0].getsockname()[1]
    made = Server(
        services=services,
        app=app,
        clock=clock,
        base_url=f"https://127.0.0.1:{port}",
        admin=(tmp_path / "admin-token").read_text().strip(),
        engine=engine,
    )
    stopping = threading.Event()

    def plan() -> None:
        while not stopping.is_set():
            woken.wait(0.02)
            woken.clear()
            if made.planning:
                engine.tick()

    planner = threading.Thread(target=plan, daemon=True)
    planner.start()
    yield made
    stopping.set()
    planner.join()
    for client in made.clients:
        client.close()
    running.should_exit = True
    thread.join(10)
    assert not thread.is_alive(), "the server did not stop"
    services.database.close()


@pytest.fixture
def admin(server: Server) -> httpx.Client:
    return server.client()
