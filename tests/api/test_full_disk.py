"""A disk that is full: nothing half-written, nothing lost, and on it goes when there is room.

The real server on a real file system that has no block left.  The disk is a tmpfs in the mount
namespace of the server alone; the test reaches into it through /proc.
"""

import hashlib
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from psycopg import errors as postgres_errors
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from tests import ballast
from tests.api.conftest import TestClock as ControlledClock

from upkeep.api.database_errors import from_database
from upkeep.engine.clock import EngineClock

READY_S = 60.0

_SQL = """\
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=30) as connection:
    print(connection.execute(sys.argv[2]).fetchone())
"""


def may_mount() -> bool:
    """Root, and in a container only if it may have namespaces of its own."""
    asked = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True
    )
    return asked.returncode == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallDisk:
    """Attributes:
    inside: the state directory as the server sees it; `state`: as the test does.
    """

    process: subprocess.Popen[bytes]
    inside: Path
    state: Path
    url: str
    log: Path

    def client(self, token: str) -> httpx.Client:
        trust = ssl.create_default_context(cafile=str(self.state / "ca" / "ca.pem"))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, verify=trust)

    def fill(self) -> None:
        """Until not a byte fits; the database's log starts anew, so that it has no room either."""
        self.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        ballast.fill(self.state)

    def make_room(self) -> None:
        ballast.make_room(self.state)

    def sql(self, statement: str) -> str:
        """The first row that it answers; asked inside, since SQLite resolves /proc's links."""
        done = subprocess.run(
            ["nsenter", f"--target={self.process.pid}", "--mount", sys.executable, "-c", _SQL,
             str(self.inside / "upkeep.db"), statement],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallDisk]:
    if not may_mount():
        pytest.skip("needs root and a mount namespace")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    disk, log = tmp_path / "state", tmp_path / "log"
    disk.mkdir()
    script = Path(__file__).with_name("server_on_a_small_disk.py")
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["unshare", "--mount", sys.executable, str(script), str(disk), str(port)],
            stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        eventually(lambda: _listens(port) or process.poll() is not None, READY_S)
        assert process.poll() is None, log.read_text()
        state = Path(f"/proc/{process.pid}/root{disk}")
        url = f"https://127.0.0.1:{port}"
        yield SmallDisk(process=process, inside=disk, state=state, url=url, log=log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def eventually(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)


def check_in(client: httpx.Client, nonce: str, **changes: Any) -> httpx.Response:
    body = {
        "nonce": nonce, "uuid": "u-1", "boot_id": "b-1", "agent": "0.1.0",
        "health": {"state": "healthy"}, "first_boot": {"state": "done"}, **changes,
    }  # fmt: skip
    return client.post("/agent/v1/check-in", json=body)


def test_a_full_disk_is_said_and_survived(small: SmallDisk) -> None:
    admin = small.client((small.state / "admin-token").read_text().strip())
    group = {"name": "db", "platform": "agent_only", "auto_upgrade": False}
    assert admin.post("/v1/groups", json=group).status_code == 201
    line = admin.post("/v1/machines", json={"name": "db-1", "group": "db"}).json()
    enrolled = small.client("").post(
        "/agent/v1/enrol", json={"token": line["token"], "machine": "db-1", "uuid": "u-1"}
    )
    identity = enrolled.json()
    agent = small.client(f"{identity['machine_id']}.{identity['secret']}")
    nonce = check_in(agent, identity["nonce"]).json()["nonce"]

    small.fill()

    refused = admin.post("/v1/groups", json={**group, "name": "web"})
    assert (refused.status_code, refused.json()["kind"]) == (507, "no_space"), refused.text
    assert "make room" in refused.json()["detail"]
    assert refused.headers["retry-after"]
    image = b"i" * 300_000
    digest = {"Digest": f"sha-256={hashlib.sha256(image).hexdigest()}"}
    upload = "/v1/images/web/versions/1.0.0/tar"
    too_much = admin.put(upload, content=image, headers=digest)
    assert (too_much.status_code, too_much.json()["kind"]) == (507, "no_space")
    told = check_in(agent, nonce, os="Debian 13")
    assert (told.status_code, told.json()["kind"]) == (507, "no_space")
    # What was known is still there to be looked at.
    assert [each["name"] for each in admin.get("/v1/groups").json()["items"]] == ["db"]
    assert admin.get("/v1/clock").status_code == 200
    assert admin.get("/v1/groups/db/rollouts").status_code == 200
    assert admin.get("/v1/machines/db-1").json()["agent"]["os"] != "Debian 13"
    assert admin.get("/", headers={"Accept": "text/html"}).status_code == 200
    assert os.listdir(small.state / "blobs" / "incoming") == []

    small.make_room()

    assert admin.post("/v1/groups", json={**group, "name": "web"}).status_code == 201
    assert admin.put(upload, content=image, headers=digest).status_code == 201
    # The refused check-in brought its nonce in vain: the agent says the same again.
    assert check_in(agent, nonce, os="Debian 13").status_code == 200
    assert admin.get("/v1/machines/db-1").json()["agent"]["os"] == "Debian 13"
    # What could not be audited then is audited now, in its order.
    entries = admin.get("/v1/audit").json()["items"]
    assert [(e["subject"], e["status"]) for e in entries][:4] == [
        (upload, 201), ("/v1/groups", 201), (upload, 507), ("/v1/groups", 507),
    ]  # fmt: skip
    assert small.process.poll() is None
    assert small.sql("PRAGMA integrity_check") == "('ok',)"
    assert small.sql("SELECT count(*) FROM groups") == "(2,)"


class Application(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""


@pytest.fixture
def application() -> Iterator[ThreadingHTTPServer]:
    serving = ThreadingHTTPServer(("127.0.0.1", 0), type("Mine", (Application,), {}))
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield serving
    serving.shutdown()
    thread.join()
    serving.server_close()


def test_a_disk_that_stays_full_stops_neither_the_planner_nor_the_prober(
    small: SmallDisk, application: ThreadingHTTPServer
) -> None:
    """Longer than the engine's clock goes without its mark: then every turn fails."""
    admin = small.client((small.state / "admin-token").read_text().strip())
    port = application.server_address[1]
    probe = {"protocol": "http", "port": port, "path": "/", "interval_ms": 1000}
    group = {"name": "db", "platform": "agent_only", "auto_upgrade": False, "probe": probe}
    made = admin.post("/v1/groups", json={**group, "health_source": "outside"})
    assert made.status_code == 201, made.text
    line = admin.post("/v1/machines", json={"name": "db-1", "group": "db"}).json()
    enrolled = small.client("").post(
        "/agent/v1/enrol", json={"token": line["token"], "machine": "db-1", "uuid": "u-1"}
    )
    assert enrolled.status_code == 200

    def health() -> str:
        return str(admin.get("/v1/machines/db-1").json()["health"])

    eventually(lambda: health() == "healthy")
    # As with any work that waits for a time: the planner knows when it is to wake next.
    small.sql(f"UPDATE groups SET wake_at = {time.time_ns() // 1000 + 3_600_000_000}")
    small.fill()
    application.RequestHandlerClass.status = 503  # type: ignore[attr-defined]
    eventually(lambda: small.log.read_text().count("in raise_clock_mark") >= 2)
    assert health() == "healthy"  # What was written last; nothing newer can be.
    assert "database or disk is full" in small.log.read_text()

    small.make_room()
    eventually(lambda: health() == "unhealthy")
    application.RequestHandlerClass.status = 200  # type: ignore[attr-defined]
    eventually(lambda: health() == "healthy")
    refused = admin.post("/v1/groups/db/rollouts", json={})
    assert (refused.status_code, refused.json()["kind"]) == (409, "refused"), refused.text


class MarksOnce:
    """A store that could write when the process began and cannot any more."""

    def __init__(self) -> None:
        self.marks = 0

    def raise_clock_mark(self, now: datetime) -> datetime:
        self.marks += 1
        if self.marks > 1:
            raise failed(sqlite_error(sqlite3.SQLITE_FULL))
        return now


def test_the_time_is_seen_while_it_cannot_be_marked() -> None:
    wall = ControlledClock()
    clock = EngineClock(wall, MarksOnce())  # type: ignore[arg-type]
    before = clock.peek()
    wall.moved += timedelta(minutes=1)
    assert clock.peek() - before >= timedelta(minutes=1)
    assert clock.stepped() is None
    with pytest.raises(OperationalError):
        clock.now()


# --- What an error of the database means ----------------------------------------------------------


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorcode = code  # type: ignore[misc]
    return error


def failed(cause: BaseException) -> DBAPIError:
    return OperationalError("INSERT", {}, cause)


@pytest.mark.parametrize(
    ("cause", "status"),
    [
        (sqlite_error(sqlite3.SQLITE_FULL), 507),
        (sqlite_error(sqlite3.SQLITE_BUSY), 503),
        (sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT), 503),
        (sqlite_error(sqlite3.SQLITE_IOERR_WRITE), 503),
        (sqlite_error(sqlite3.SQLITE_READONLY), 503),
        (postgres_errors.DiskFull("disk"), 507),
        (postgres_errors.AdminShutdown("going down"), 503),
        (postgres_errors.TooManyConnections("53300"), 503),
        (postgres_errors.OperationalError("connection refused"), 503),
    ],
)
def test_an_outage_of_the_database_says_what_to_do(cause: BaseException, status: int) -> None:
    answer = from_database(failed(cause))
    assert answer is not None
    assert answer.status == status
    assert answer.retry_after_s > 0
    assert "nothing was written" in answer.detail


def test_too_few_connections_are_an_outage_and_a_mistake_of_ours_is_not() -> None:
    busy = from_database(PoolTimeout("QueuePool limit"))
    assert busy is not None
    assert busy.status == 503
    assert from_database(IntegrityError("INSERT", {}, sqlite3.IntegrityError("UNIQUE"))) is None
    assert from_database(failed(postgres_errors.UndefinedColumn("no such column"))) is None
    assert from_database(failed(sqlite_error(sqlite3.SQLITE_ERROR))) is None
