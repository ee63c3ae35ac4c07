"""A page server over a database that a test fills, and a real browser to look at it.

The app here is as small as it can be: the page's routes behind the API's own guard and tokens.
TLS is real (a certificate of the test's own), because the sign-in cookie is Secure.
"""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from litestar import Litestar, Request
from litestar.di import Provide
from litestar.types import ASGIApp, Receive, Scope, Send
from playwright.sync_api import BrowserContext, Page
from sqlalchemy import insert, update

from upkeep.api.auth import Authenticator, guard
from upkeep.api.change_feed import ChangeFeed
from upkeep.api.events import Streams
from upkeep.api.problems import InputError
from upkeep.store import tables as t
from upkeep.store import tokens
from upkeep.store.database import Database, to_us
from upkeep.web.routes import ROUTES
from upkeep.web.words import moment

CHROMIUM_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class WallClock:
    def peek(self) -> datetime:
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class PageWorld:
    """What the routes take as `services`."""

    database: Database
    clock: WallClock
    notify: ChangeFeed


class Fleet:
    """Rows as the store keeps them, written straight into the tables."""

    def __init__(self, database: Database, notify: ChangeFeed) -> None:
        self.database = database
        self.notify = notify
        self.now = datetime.now(UTC)

    def ago(self, minutes: float) -> int:
        return to_us(self.now - timedelta(minutes=minutes))

    def written_ago(self, minutes: float) -> str:
        """As the page writes that moment: with the date, just after midnight."""
        return moment(self.now - timedelta(minutes=minutes), today=self.now)

    def write(self, table: Any, *rows: dict[str, Any]) -> None:
        with self.database.write() as connection:
            connection.execute(insert(table), list(rows))

    def group(self, name: str, size: int, *, version: str = "1.0.1", **columns: Any) -> str:
        """A group of well machines `name-0` … with a budget for one down; answers its id."""
        group_id = f"g_{name}"
        zones = columns.pop("in_zones", [""])
        row = {
            "id": group_id, "name": name, "capacity": size, "image_name": "debian",
            "platform": "nspawn", "created_at": self.ago(1000),
        }  # fmt: skip
        self.write(t.groups, row | columns)
        self.write(
            t.budgets,
            {"id": f"b_{name}", "name": name, "group_id": group_id, "max_down": 20, "percent": 1,
             "created_at": self.ago(1000)},
        )  # fmt: skip
        if size:
            self.write(
                t.machines,
                *[
                    {
                        "id": f"m_{name}_{n}", "group_id": group_id, "name": f"{name}-{n}",
                        "zone": zones[n % len(zones)], "lifecycle": "present", "image": version,
                        "health": "healthy", "health_since": self.ago(500),
                        "watch_from": self.ago(500), "created_at": self.ago(900),
                    }
                    for n in range(size)
                ],
            )  # fmt: skip
        return group_id

    def machine(self, named: str, /, **columns: Any) -> None:
        with self.database.write() as connection:
            changed = connection.execute(
                update(t.machines).where(t.machines.c.name == named).values(columns)
            )
            assert changed.rowcount == 1

    def rollout(self, name: str, group: str, size: int, **columns: Any) -> str:
        rollout_id = f"ro_{group}_{name}"
        row = {
            "id": rollout_id, "group_id": f"g_{group}", "system": "os_image",
            "verb": "replace_os_disk", "target": "1.0.2", "size": size, "state": "running",
            "started_by": "platform", "started_at": self.ago(12),
        }  # fmt: skip
        self.write(t.rollouts, row | columns)
        return rollout_id

    def task(self, rollout: str, machine: str, state: str, batch: int = 0, **columns: Any) -> None:
        row = {
            "rollout_id": rollout, "machine_id": machine, "state": state, "batch": batch,
            "state_since": self.ago(2), "clock_from": self.ago(2), "previous": "1.0.1",
        }  # fmt: skip
        self.write(t.tasks, row | columns)

    def hold(self, group: str, number: int, reason: str, lifted_by: str, **columns: Any) -> None:
        row = {
            "machine_id": f"m_{group}_{number}", "system": "os_image", "group_id": f"g_{group}",
            "reason": reason, "since": self.ago(10), "lifted_by": lifted_by,
        }  # fmt: skip
        self.write(t.holds, row | columns)

    def alarm(self, group: str, name: str, state: str, detail: str) -> None:
        row = {
            "id": f"al_{group}_{name}", "group_id": f"g_{group}", "name": name, "url": "http://p:9090",
            "query": "up == 0", "action": "halt", "state": state, "since": self.ago(12),
            "detail": detail,
        }  # fmt: skip
        self.write(t.alarms, row)

    def tell(self, group: str, *lines: str) -> None:
        count = len(lines)
        self.write(
            t.story,
            *[
                {"group_id": f"g_{group}", "at": self.ago(count - n), "line": line}
                for n, line in enumerate(lines)
            ],
        )

    def changed(self, group: str) -> None:
        self.notify.changed(f"g_{group}")


class PageServer:
    """The app on a port of its own, in a thread; `stop` and `start` are what a restart is."""

    def __init__(self, world: PageWorld, certificate: Path, key: Path) -> None:
        self._world = world
        self._files = (certificate, key)
        self._threads = ThreadPoolExecutor(2)
        self.authenticator = Authenticator(world.database, world.clock, self._threads)  # type: ignore[arg-type]
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = uvicorn.Config(
            self._app(), host="127.0.0.1", port=self.port, log_level="warning",
            ssl_certfile=str(self._files[0]), ssl_keyfile=str(self._files[1]),
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started:
            assert time.monotonic() < deadline, "the page server did not start"
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._streams.close)
        self._server.should_exit = True
        self._thread.join(10)

    def close(self) -> None:
        self.stop()
        self._threads.shutdown()

    def _app(self) -> Litestar:
        authenticator, world = self.authenticator, self._world
        streams = self._streams = Streams()

        def identify(app: ASGIApp) -> ASGIApp:
            async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
                if scope["type"] == "http":
                    try:
                        scope["upkeep_actor"] = await authenticator.identify(scope)  # type: ignore
                    except InputError as error:
                        scope["upkeep_refusal"] = error  # type: ignore
                await app(scope, receive, send)

            return middleware

        async def bind() -> None:
            self._loop = asyncio.get_running_loop()
            world.notify.bind(self._loop)

        def actor(request: Request[Any, Any, Any]) -> Any:
            return request.scope["upkeep_actor"]  # type: ignore

        return Litestar(
            ROUTES,
            guards=[guard],
            middleware=[identify],
            on_startup=[bind],
            openapi_config=None,
            dependencies={
                "services": Provide(lambda: world, sync_to_thread=False),
                "actor": Provide(actor, sync_to_thread=False),
                "streams": Provide(lambda: streams, sync_to_thread=False),
                "authenticator": Provide(lambda: authenticator, sync_to_thread=False),
            },
        )


def make_token(world: PageWorld, token_id: str, name: str, scope: str = "") -> str:
    with world.database.write() as connection:
        secret = tokens.create(
            connection, token_id=token_id, name=name, role="reader", scope=scope,
            expires_at=None, now=world.clock.peek(),
        )  # fmt: skip
    assert secret is not None
    return f"{token_id}.{secret}"


class Visitor:
    """Somebody with a browser who is signed in; what the console said is kept."""

    def __init__(self, context: BrowserContext, url: str, token: str) -> None:
        self.console: list[str] = []
        self.url = url
        self.page: Page = context.new_page()
        self.page.set_default_timeout(8_000)
        self.page.on("console", lambda message: self._heard(message.type, message.text))
        self.page.on("pageerror", lambda error: self.console.append(f"uncaught: {error}"))
        self._token = token

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.console.append(f"{kind}: {text}")

    def sign_in(self, path: str = "/") -> Page:
        self.page.goto(self.url + path)
        self.page.get_by_label("Token").fill(self._token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_selector('#live[data-state="live"]')
        return self.page
