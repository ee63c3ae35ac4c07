"""The server's edges as one ASGI app: the native API, Azure's dialect, the agents, the pages.

Outermost are a few lines of dispatch: the two hot paths of the agents go straight to their
handlers; every other request is identified (auth.py), handled by Azure's dialect (arm/) or by
Litestar behind one guard, and, if it is a write by somebody known, audited before its answer
leaves.
"""

import asyncio
import importlib.util
import logging
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

from litestar import Litestar, Request, Router, post
from litestar.datastructures import ResponseHeader
from litestar.di import Provide
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import JSONBody
from litestar.status_codes import HTTP_200_OK

from upkeep.api import (
    alarms,
    audit,
    audit_trail,
    blackouts,
    budgets,
    clock,
    events,
    groups,
    holds,
    images,
    install,
    lifecycle_hooks,
    machines,
    rollouts,
    schedules,
    tokens,
)
from upkeep.api.agent_wire import EnrolReply, EnrolRequest
from upkeep.api.agents import CHECK_IN_PATH, POLL_PATH, AgentEdge
from upkeep.api.arm.app import ArmApp
from upkeep.api.auth import ANONYMOUS, SAFE_METHODS, Actor, Authenticator, guard, no_token
from upkeep.api.errors import handle
from upkeep.api.plain_http import BODY_BYTES_MAX, header, source_of
from upkeep.api.problems import InputError
from upkeep.api.services import Services
from upkeep.store import subscriptions
from upkeep.store.tokens import ensure_admin_token

# Looks at tokens and identities that are not in memory; short reads.
THREADS_MAX = 8

log = logging.getLogger("upkeep.api")

_NOUNS = (
    groups,
    machines,
    rollouts,
    lifecycle_hooks,
    holds,
    images,
    budgets,
    schedules,
    blackouts,
    alarms,
    tokens,
    audit,
    clock,
    events,
    install,
)


def create_app(services: Services) -> "EdgeApp":
    """The app for one process; at the very first start it writes the admin's token file, and draws
    the ids by which Azure's dialect knows this server."""
    made = ensure_admin_token(
        services.database, services.state_dir, services.ids, now=services.clock.now()
    )
    if made is not None:
        log.info("the first admin's token is in %s", made)
    with services.database.write() as connection:
        subscriptions.ensure(connection)
    return EdgeApp(services)


class EdgeApp:
    """Attributes:
    arm: Azure's dialect.
    litestar: everything else but the agents' check-in and poll.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._trail = audit_trail.AuditTrail(services.database)
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="edge")
        self._streams = events.Streams()
        self._authenticator = Authenticator(services.database, services.clock, self._threads)
        self.agents = AgentEdge(services, self._threads)
        self.arm = ArmApp(services, self._authenticator)
        self.litestar = self._litestar()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path == CHECK_IN_PATH:
                await self.agents.check_in(scope, receive, send)
            elif path == POLL_PATH:
                await self.agents.poll(scope, receive, send)
            else:
                app = self.arm if self.arm.has(path) else self.litestar
                await self._identified(app, scope, receive, send)
        else:
            await self.litestar(scope, receive, send)

    def close(self) -> None:
        """End what would stay open for long: polls and event streams.  On the loop's thread."""
        self.agents.close()
        self._streams.close()

    async def _identified(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        actor: Actor | None = None
        if header(scope, b"authorization") or header(scope, b"cookie"):
            try:
                actor = await self._authenticator.identify(scope)
            except InputError as error:
                scope["upkeep_refusal"] = error
        scope["upkeep_actor"] = actor
        if actor is None or scope["method"] in SAFE_METHODS:
            await app(scope, receive, send)
            return

        async def send_audited(message: Any) -> None:
            if message["type"] == "http.response.start":
                await asyncio.to_thread(self._audit, scope, actor, message["status"])
            await send(message)

        await app(scope, receive, send_audited)

    def _audit(self, scope: Any, actor: Actor, status: int) -> None:
        self._trail.record(
            audit_trail.Entry(
                at=self._services.clock.peek(),
                actor=f"{actor.name} ({actor.token_id})",
                source=source_of(scope),
                verb=scope["method"],
                subject=scope["path"].replace("\x00", " "),
                detail=scope.get("upkeep_detail", ""),
                status=status,
            )
        )

    def _litestar(self) -> Litestar:
        services, authenticator, streams = self._services, self._authenticator, self._streams
        return Litestar(
            # Through one router: registered flat, Litestar wraps a threaded handler once more for
            # each further handler of its path, and the third one's answer is a coroutine.
            route_handlers=[
                Router(
                    path="/",
                    route_handlers=[
                        *(route for noun in _NOUNS for route in noun.ROUTES),
                        _enrol_route(self.agents),
                        *_page_routes(),
                    ],
                )
            ],
            dependencies={
                "services": Provide(lambda: services, sync_to_thread=False),
                "authenticator": Provide(lambda: authenticator, sync_to_thread=False),
                "streams": Provide(lambda: streams, sync_to_thread=False),
                "actor": Provide(_actor, sync_to_thread=False),
            },
            guards=[guard],
            exception_handlers={Exception: handle},
            response_headers=[ResponseHeader(name="X-Content-Type-Options", value="nosniff")],
            request_max_body_size=BODY_BYTES_MAX,
            openapi_config=OpenAPIConfig(
                title="upkeep",
                version="1",
                path="/v1",
                render_plugins=[JsonRenderPlugin(path="/openapi.json")],
                use_handler_docstrings=True,
                operation_id_creator=_operation_id,
            ),
            on_startup=[self._start],
            on_shutdown=[self._stop],
            logging_config=None,
            debug=False,
        )

    async def _start(self) -> None:
        self._services.notify.bind(asyncio.get_running_loop())
        await self.agents.start()

    async def _stop(self) -> None:
        self.close()
        self._services.notify.unbind()
        await self.agents.stop()
        self._threads.shutdown(wait=False)


def _operation_id(handler: Any, method: Any, path: list[Any]) -> str:
    """`get_v1_groups_group`: the method and the path, which no two operations share."""
    parts = [getattr(part, "name", part) for part in path]
    return "_".join([str(method).lower(), *(str(part).replace("-", "_") for part in parts)])


def _actor(request: Request[Any, Any, Any]) -> Actor:
    actor: Actor | None = request.scope.get("upkeep_actor")  # type: ignore[assignment]
    if actor is None:
        raise no_token()
    return actor


def _enrol_route(agents: AgentEdge) -> Any:
    @post("/agent/v1/enrol", opt=ANONYMOUS, status_code=HTTP_200_OK)
    async def enrol(request: Request[Any, Any, Any], data: JSONBody[EnrolRequest]) -> EnrolReply:
        """Trade a one-time token for a machine's secret."""
        return await agents.enrol(data, source_of(request.scope))

    return enrol


def _page_routes() -> list[Any]:
    """The pages, where they are installed."""
    if importlib.util.find_spec("upkeep.web.routes") is None:
        return []
    return list(import_module("upkeep.web.routes").ROUTES)
