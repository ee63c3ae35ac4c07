"""Azure's dialect: Azure's own clients, unmodified, against this server.

It translates and decides nothing.  `routes.py` is all that it has; each request is identified
before (api/app.py), compared with its route's role, handled, answered in Azure's shapes.
"""

from typing import Any
from urllib.parse import parse_qsl

import msgspec

from upkeep.api.arm.errors import error_reply
from upkeep.api.arm.login import Login
from upkeep.api.arm.route import ArmReply, ArmRequest, RouteTable
from upkeep.api.arm.routes import routes
from upkeep.api.auth import Actor, Authenticator, Role, actor_with_role
from upkeep.api.errors import input_error_from
from upkeep.api.plain_http import BODY_BYTES_MAX, header, read_body
from upkeep.api.problems import InputError, ProblemKind, invalid
from upkeep.api.services import Services

FIELDS_MAX = 100
NOBODY = Actor(token_id="", name="", role=Role.READER, scope="")


class ArmApp:
    """Plain ASGI; `has` says which paths are its own."""

    def __init__(self, services: Services, authenticator: Authenticator) -> None:
        self._services = services
        self.routes = routes(Login(authenticator))
        self._table = RouteTable(self.routes)

    def has(self, path: str) -> bool:
        return path[:15].casefold().startswith(("/subscriptions/", "/adfs/")) or self._table.has(
            path
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            reply = await self._reply(scope, receive)
        except Exception as error:
            reply = error_reply(input_error_from(error))
        await _send(send, reply)

    async def _reply(self, scope: Any, receive: Any) -> ArmReply:
        path = scope["path"]
        if "\x00" in path:  # PostgreSQL has no such text, so nothing here is called so.
            raise InputError(ProblemKind.BAD_REQUEST, "the path holds a zero byte")
        route, params = self._table.find(scope["method"], path)
        actor = actor_with_role(scope, route.role) if route.role is not None else NOBODY
        body = await read_body(scope, receive, bytes_max=BODY_BYTES_MAX)
        is_form = header(scope, b"content-type").startswith(b"application/x-www-form-urlencoded")
        host = header(scope, b"host").decode("latin-1")
        return await route.handler(
            ArmRequest(
                services=self._services,
                actor=actor,
                base=f"https://{host}",
                path=path,
                params=params,
                query=_pairs(scope["query_string"], fold=True),
                form=_pairs(body, fold=False) if is_form else {},
                body=None if is_form or not body.strip() else _json(body),
            )
        )


def _pairs(text: bytes, *, fold: bool) -> dict[str, str]:
    """A query or a form; of a name that comes twice the last counts.

    Raises:
        InputError: there are more than anybody sends.
    """
    if text.count(b"&") >= FIELDS_MAX:
        raise invalid(f"a query or a form has at most {FIELDS_MAX} fields")
    pairs = parse_qsl(text.decode("utf-8", "replace"), keep_blank_values=True)
    return {(name.casefold() if fold else name): value for name, value in pairs}


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(ProblemKind.BAD_REQUEST, f"the body must be JSON: {error}") from None


async def _send(send: Any, reply: ArmReply) -> None:
    body = b"" if reply.body is None else msgspec.json.encode(reply.body)
    headers = [(b"content-length", b"%d" % len(body)), (b"x-content-type-options", b"nosniff")]
    if body:
        headers.append((b"content-type", b"application/json; charset=utf-8"))
    headers += [(name.lower().encode(), text.encode()) for name, text in reply.headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
