"""Tells an open page which groups have changed, as server-sent events.

`hello` when the line stands, `changed` with group ids separated by spaces (none: look at
everything), `ping` when nothing happens, so that a dead line is noticed.  What has changed is not
said: the page fetches the parts it shows.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from litestar.response import ServerSentEventMessage

from upkeep.api.events import Streams
from upkeep.web.door import Changes

# A page looks at most this often, however much changes.
CHANGED_EVERY_S = 0.5
PING_EVERY_S = 15
# Groups named in one event; with more the page looks at everything.
GROUPS_NAMED_MAX = 20
# Lines open in one process, pages and programs together: a few kilobytes each.
LINES_MAX = 1_000


async def changes(
    feed: Changes,
    streams: Streams,
    *,
    names_groups: bool,
    may_go_on: Callable[[], Awaitable[bool]],
) -> AsyncGenerator[ServerSentEventMessage, None]:
    """The events of one page, until it goes away, its token ends or the server stops.

    Args:
        names_groups: False for a narrowed token, which is not told of other scopes' groups.
        may_go_on: asked whenever nothing has happened for a while.
    """
    pending: set[str] = set()
    woken = asyncio.Event()

    def heard(group: str) -> None:
        pending.add(group)
        woken.set()

    stop = feed.listen(heard)
    streams.open.add(woken)
    try:
        yield ServerSentEventMessage(event="hello", data="")
        while not streams.is_closed:
            try:
                await asyncio.wait_for(woken.wait(), PING_EVERY_S)
            except TimeoutError:
                if not await may_go_on():
                    return
                yield ServerSentEventMessage(event="ping", data="")
                continue
            woken.clear()
            groups = sorted(pending)
            pending.clear()
            named = names_groups and len(groups) <= GROUPS_NAMED_MAX
            yield ServerSentEventMessage(event="changed", data=" ".join(groups) if named else "")
            await asyncio.sleep(CHANGED_EVERY_S)
    finally:
        streams.open.discard(woken)
        stop()
