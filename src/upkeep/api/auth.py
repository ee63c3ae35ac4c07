"""Who asks, and may they?  Tokens `upk_<id>.<secret>`, roles, scopes.

A request is identified before any handler runs (`Authenticator.identify`); the one guard of the
app (`guard`) then compares the token's role with what the handler asks for.  A handler that asks
for nothing needs a reader's token to read and an admin's to write: forgetting to ask opens
nothing.  What no token is needed for is listed here, and a test holds the list to the routes.

Handlers say what they need with `opt`: `opt=READ`, `opt=OPERATE`, `opt=ADMIN`, `opt=ANONYMOUS`.
Pages may bring the token in a cookie; with it, only reading and requests that the browser itself
says come from our own pages are taken.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from http.cookies import CookieError, SimpleCookie
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from upkeep.api.problems import InputError, ProblemKind
from upkeep.engine.clock import EngineClock
from upkeep.store import tokens
from upkeep.store.database import Database, from_us_or_none

# The prefix makes a browser refuse it unless it is Secure, for this host alone and for all paths:
# no neighbour in the domain and nobody without TLS can put a token of theirs in its place.
COOKIE = "__Host-upkeep_token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

# A revocation in another process is noticed here after so long; in this one at once.
REMEMBER_S = 5.0
REMEMBERED_MAX = 10_000

_TOKEN = re.compile(r"(upk_[0-9a-z]{1,40})\.([A-Za-z0-9_-]{20,100})")


class Role(StrEnum):
    READER = "reader"
    OPERATOR = "operator"
    ADMIN = "admin"


_RANK = {Role.READER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}

READ: Mapping[str, Any] = {"role": Role.READER}
OPERATE: Mapping[str, Any] = {"role": Role.OPERATOR}
# Beside the role: only a token for all scopes, since what is changed concerns every scope.
OPERATE_ALL: Mapping[str, Any] = {"role": Role.OPERATOR, "unscoped": True}
ADMIN: Mapping[str, Any] = {"role": Role.ADMIN, "unscoped": True}
ANONYMOUS: Mapping[str, Any] = {"anonymous": True}

# Every route that may say ANONYMOUS; the agents' check-in and poll bring a machine's secret.
ANONYMOUS_ROUTES = frozenset(
    {
        ("GET", "/v1/healthz"),
        ("GET", "/agent/v1/ca"),
        ("GET", "/agent/v1/install.sh"),
        ("GET", "/agent/v1/agent.pyz"),
        ("POST", "/agent/v1/enrol"),
        # The page's way in, and what draws it.
        ("GET", "/login"),
        ("POST", "/login"),
        ("GET", "/static/{name:str}"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who asks.  `scope` is empty for a token that holds in all of them."""

    token_id: str
    name: str
    role: Role
    scope: str

    def may(self, role: Role) -> bool:
        return _RANK[self.role] >= _RANK[role]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    actor: Actor
    secret_hash: str
    expires_at: datetime | None
    is_revoked: bool
    read_at: float


class Authenticator:
    """Identifies requests; for the asyncio loop.

    Args:
        threads: where the database is asked.
    """

    def __init__(self, database: Database, clock: EngineClock, threads: Executor) -> None:
        self._database = database
        self._clock = clock
        self._threads = threads
        self._known: dict[str, _Known] = {}

    async def identify(self, scope: Mapping[str, Any]) -> Actor:
        """Who sends this request.

        Raises:
            InputError: no token, or one that opens nothing.
        """
        return await self.check(_token_of(scope))

    async def check(self, text: str) -> Actor:
        """Whose token this is.

        Raises:
            InputError: nobody's, or one that has ended.
        """
        match = _TOKEN.fullmatch(text)
        if match is None:
            raise InputError(
                ProblemKind.TOKEN_UNKNOWN, "a token looks like upk_<id>.<secret>; copy it whole"
            )
        token_id, secret = match.groups()
        known = self._known.get(token_id)
        if known is None or time.monotonic() - known.read_at > REMEMBER_S:
            loop = asyncio.get_running_loop()
            known = await loop.run_in_executor(self._threads, self._read, token_id)
        # An unknown id is compared, too, so that it takes as long as a wrong secret.
        is_right = tokens.is_secret(secret, known.secret_hash if known else "0" * 64)
        if known is None or not is_right:
            raise InputError(ProblemKind.TOKEN_UNKNOWN, "this server has no such token")
        if known.is_revoked:
            raise InputError(ProblemKind.TOKEN_REVOKED, "ask an admin for a new token")
        if known.expires_at is not None and known.expires_at <= self._clock.peek():
            raise InputError(
                ProblemKind.TOKEN_EXPIRED,
                f"it ended at {known.expires_at.isoformat()}; ask an admin for a new token",
            )
        return known.actor

    def forget(self, token_id: str) -> None:
        """The token has been changed in this process; from any thread."""
        self._known.pop(token_id, None)

    def _read(self, token_id: str) -> _Known | None:
        with self._database.read() as connection:
            row = tokens.find(connection, token_id)
        if row is None:
            return None
        known = _Known(
            actor=Actor(token_id=row.id, name=row.name, role=Role(row.role), scope=row.scope),
            secret_hash=row.secret_hash,
            expires_at=from_us_or_none(row.expires_at),
            is_revoked=row.revoked_at is not None,
            read_at=time.monotonic(),
        )
        if len(self._known) >= REMEMBERED_MAX:
            self._known.clear()
        self._known[token_id] = known
        return known


def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """The one guard of the whole app.

    Raises:
        InputError: nobody who may.
    """
    if handler.opt.get("anonymous") is True:
        return
    scope: Mapping[str, Any] = connection.scope
    is_safe = scope.get("method", "GET") in SAFE_METHODS
    wanted = Role(handler.opt.get("role", Role.READER if is_safe else Role.ADMIN))
    actor = actor_with_role(scope, wanted)
    if handler.opt.get("unscoped") and actor.scope:
        raise InputError(
            ProblemKind.FORBIDDEN,
            f"this concerns every scope; the token {actor.name!r} holds only in {actor.scope!r}",
        )


def actor_with_role(scope: Mapping[str, Any], wanted: Role) -> Actor:
    """Who sends this request, which `Authenticator` has looked at, if the role is enough.

    Raises:
        InputError: nobody who may.
    """
    actor: Actor | None = scope.get("upkeep_actor")
    if actor is None:
        raise scope.get("upkeep_refusal") or no_token()
    if not actor.may(wanted):
        raise InputError(
            ProblemKind.FORBIDDEN,
            f"this needs the role {wanted}; the token {actor.name!r} is a {actor.role}'s",
        )
    return actor


def no_token() -> InputError:
    return InputError(
        ProblemKind.UNAUTHENTICATED,
        "send the header `Authorization: Bearer upk_<id>.<secret>`; the first admin's token is in"
        f" the file {tokens.ADMIN_TOKEN_FILE} in the server's state directory",
    )


def _token_of(scope: Mapping[str, Any]) -> str:
    headers: dict[bytes, bytes] = {k: v for k, v in scope["headers"] if k in _LOOKED_AT}
    bearer = headers.get(b"authorization", b"").decode("latin-1")
    if bearer:
        scheme, _, text = bearer.partition(" ")
        if scheme.lower() != "bearer":
            raise InputError(ProblemKind.UNAUTHENTICATED, "only the Bearer scheme is known here")
        return text.strip()
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        raise no_token() from None
    morsel = cookies.get(COOKIE)
    if morsel is None or not morsel.value:
        raise no_token()
    if scope["method"] not in SAFE_METHODS and headers.get(b"sec-fetch-site") != b"same-origin":
        raise InputError(
            ProblemKind.UNAUTHENTICATED,
            "a cookie is good for reading; to change something send the token as a Bearer token",
        )
    return str(morsel.value)


_LOOKED_AT = frozenset({b"authorization", b"cookie", b"sec-fetch-site"})
