"""One request of Azure's dialect, its answer, how a path finds its handler, what handlers share.

Azure's paths and query names are compared without case, and any api-version is taken.  A route is
a row: method, path, the role that it needs (none: anonymous), handler.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Connection

from upkeep.api.auth import Actor, Role
from upkeep.api.problems import InputError, ProblemKind
from upkeep.api.services import Services

T = TypeVar("T")

PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRequest:
    """What a handler is given.

    Attributes:
        base: `https://host:port` as the client wrote it: it takes links to us from our answers.
        path: as the client wrote it.
        params: what stands in the path's braces, in the client's spelling.
        query: names in lower case.
        form: of a form's body.
        body: of a JSON body; None without one.
    """

    services: Services
    actor: Actor
    base: str
    path: str
    params: Mapping[str, str]
    query: Mapping[str, str]
    form: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmReply:
    """A body of None is no body at all."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


# Without it clients wait 30 s between two looks.  Source: sheet os-image §9.2.
RETRY_AFTER_S = 1


def resource_reply(document: dict[str, Any], *, status: int = 200) -> ArmReply:
    """A thing as it is; clients that wait for its provisioningState are told to come soon."""
    is_settled = document["properties"]["provisioningState"] == "Succeeded"
    headers = {} if is_settled else {"Retry-After": str(RETRY_AFTER_S)}
    return ArmReply(body=document, status=status, headers=headers)


def is_final(reply: ArmReply) -> bool:
    """Whether a `resource_reply` leaves nothing to wait for."""
    return "Retry-After" not in reply.headers


def link(request: ArmRequest, path: str) -> str:
    """A place on this server as the client reaches it, with the api-version that it speaks."""
    return f"{request.base}{quote(path)}?api-version={quote(request.query.get('api-version', ''))}"


Handler = Callable[[ArmRequest], Awaitable[ArmReply]]


async def look(request: ArmRequest, read: Callable[[Connection, ArmRequest], T]) -> T:
    """What it reads, in one consistent view and beside the loop."""

    def reading() -> T:
        with request.services.database.read() as connection:
            return read(connection, request)

    return await asyncio.to_thread(reading)


def reads(read: Callable[[Connection, ArmRequest], ArmReply]) -> Handler:
    """The handler of a route that only looks."""

    async def handle(request: ArmRequest) -> ArmReply:
        return await look(request, read)

    return handle


# What a change has made: the groups that are to be planned after it, and the answer.
Changed = tuple[Sequence[str], ArmReply]


def writes(change: Callable[[Connection, ArmRequest, datetime], Changed]) -> Handler:
    """The handler of a route that changes rows, all of them in one transaction or none."""

    async def handle(request: ArmRequest) -> ArmReply:
        services = request.services

        def writing() -> ArmReply:
            now = services.clock.now()
            with services.database.write() as connection:
                groups, reply = change(connection, request, now)
            services.announce(*groups)
            return reply

        return await asyncio.to_thread(writing)

    return handle


def page_reply(request: ArmRequest, value: list[Any], *, after: str | None) -> ArmReply:
    """One page of a list; `after` leads to the next, which the client asks for as it is told."""
    body: dict[str, Any] = {"value": value}
    if after is not None:
        expand = request.query.get("$expand")
        kept = f"&$expand={quote(expand)}" if expand is not None else ""
        body["nextLink"] = f"{link(request, request.path)}{kept}&$skiptoken={quote(after)}"
    return ArmReply(body=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    path: str
    role: Role | None
    handler: Handler


class RouteTable:
    """Finds the route of a path; parts in braces take anything that is not empty."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._by_length: dict[int, list[tuple[tuple[str, ...], Route]]] = {}
        for route in routes:
            parts = tuple(route.path.split("/")[1:])
            self._by_length.setdefault(len(parts), []).append((parts, route))

    def has(self, path: str) -> bool:
        """The path belongs to the dialect, whatever the method."""
        return bool(self._matches(path))

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and what stands in its braces.

        Raises:
            InputError: NOT_FOUND, METHOD_NOT_ALLOWED.
        """
        matches = self._matches(path)
        for route, params in matches:
            if route.method == method:
                return route, params
        if matches:
            allowed = ", ".join(sorted({route.method for route, _ in matches}))
            raise InputError(ProblemKind.METHOD_NOT_ALLOWED, f"send one of {allowed}")
        raise InputError(ProblemKind.NOT_FOUND, f"this server has nothing at {path[:300]}")

    def _matches(self, path: str) -> list[tuple[Route, dict[str, str]]]:
        given = path.rstrip("/").split("/")[1:]
        found = []
        for parts, route in self._by_length.get(len(given), ()):
            params = _params(parts, given)
            if params is not None:
                found.append((route, params))
        return found


def _params(parts: tuple[str, ...], given: list[str]) -> dict[str, str] | None:
    params: dict[str, str] = {}
    for part, text in zip(parts, given, strict=True):
        if part.startswith("{"):
            if not text:
                return None
            params[part.strip("{}")] = text
        elif part.casefold() != text.casefold():
            return None
    return params
