"""Server-sent events: `changed` with a group's name, whenever anything of the group has changed.

An event only says "look": whoever misses one looks again later.  A slow listener costs no memory,
since each group waits at most once.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from litestar import get
from litestar.di import NamedDependency
from litestar.response import ServerSentEvent, ServerSentEventMessage

from upkeep.api.auth import READ, Actor
from upkeep.api.services import Services
from upkeep.api.shapes import too_many
from upkeep.store import groups

LISTENERS_MAX = 1_000
# A comment this often keeps proxies from closing, and finds listeners that are gone.
KEEP_ALIVE_S = 15.0
# A busy group is told of at most so often.
TOLD_EVERY_S = 0.1


@dataclass(slots=True)
class Streams:
    """The event streams of one app; `close` ends them, so that a server can stop."""

    names: dict[str, tuple[str, str]] = field(default_factory=dict)
    open: set[asyncio.Event] = field(default_factory=set)
    is_closed: bool = False

    def close(self) -> None:
        self.is_closed = True
        for woken in self.open:
            woken.set()


@get("/v1/events", opt=READ)
async def listen(
    services: NamedDependency[Services],
    actor: NamedDependency[Actor],
    streams: NamedDependency[Streams],
) -> ServerSentEvent:
    """Listen to what changes."""
    if len(streams.open) >= LISTENERS_MAX:
        raise too_many(f"{LISTENERS_MAX} listeners are connected to this server")
    return ServerSentEvent(_events(services, actor, streams))


ROUTES = [listen]


async def _events(
    services: Services, actor: Actor, streams: Streams
) -> AsyncGenerator[ServerSentEventMessage, None]:
    pending: dict[str, None] = {}
    woken = asyncio.Event()

    def changed(group: str) -> None:
        pending[group] = None
        woken.set()

    stop = services.notify.listen(changed)
    streams.open.add(woken)
    try:
        yield ServerSentEventMessage(comment="connected")
        while not streams.is_closed:
            try:
                await asyncio.wait_for(woken.wait(), KEEP_ALIVE_S)
            except TimeoutError:
                yield ServerSentEventMessage(comment="still here")
                continue
            woken.clear()
            ids, pending = list(pending), {}
            for name in await _names(services, streams, ids, actor.scope):
                yield ServerSentEventMessage(event="changed", data=name)
            await asyncio.sleep(TOLD_EVERY_S)
    finally:
        streams.open.discard(woken)
        stop()


async def _names(services: Services, streams: Streams, ids: list[str], scope: str) -> list[str]:
    """Names of the groups that the listener may see; a group's name never changes."""
    unknown = [group for group in ids if group not in streams.names]
    if unknown:

        def read() -> dict[str, tuple[str, str]]:
            with services.database.read() as connection:
                return groups.read_names(connection, unknown)

        streams.names.update(await asyncio.to_thread(read))
    known = [streams.names[group] for group in ids if group in streams.names]
    return [name for name, its_scope in known if not scope or its_scope == scope]
