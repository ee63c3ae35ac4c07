"""Tells an open page which groups have changed, as server-sent events.

`hello` when the line stands, `changed` with group ids separated by spaces (none: look at
everything), `ping` when nothing happens, so that a dead line is noticed.  What has changed is not
said: the page fetches the parts it shows.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from litestar.response import ServerSentEventMessage

from upkeep.web.door import Changes

# A page looks at most this often, however much changes.
CHANGED_EVERY_S = 0.5
PING_EVERY_S = 15
# Groups named in one event; with more the page looks at everything.
GROUPS_NAMED_MAX = 20
# Open pages in one process: each is one connection and a few kilobytes.
PAGES_MAX = 500


class Lines:
    """How many pages listen to this process."""

    def __init__(self) -> None:
        self.open = 0


LINES = Lines()


async def changes(
    feed: Changes, *, names_groups: bool, may_go_on: Callable[[], Awaitable[bool]]
) -> AsyncGenerator[ServerSentEventMessage, None]:
    """The events of one page, until it goes away or its token ends.

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
    LINES.open += 1
    try:
        yield ServerSentEventMessage(event="hello", data="")
        while True:
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
        LINES.open -= 1
        stop()
