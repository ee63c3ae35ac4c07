"""Tells whoever waits in this process that a group has changed: pages, long polls, callers.

`changed` may be called from any thread (the engine's, a handler's); listeners run on the asyncio
loop.  A burst of changes of one group reaches a listener once: what counts is that it looks
again, not how often.  Nothing is queued per listener, so a slow one costs no memory.
"""

import asyncio
import threading
from collections.abc import Callable

Listener = Callable[[str], None]


class ChangeFeed:
    """See the module text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: dict[str, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: list[Listener] = []

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver on this loop from now on; before that, changes have nobody to tell."""
        with self._lock:
            self._loop = loop

    def unbind(self) -> None:
        with self._lock:
            self._loop = None
            self._pending.clear()

    def changed(self, group: str) -> None:
        """A group's id; from any thread; never blocks and never raises."""
        with self._lock:
            if self._loop is None:
                return
            is_first = not self._pending
            self._pending[group] = None
            if is_first:
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:  # The loop has just been closed: the process ends.
                    self._loop = None

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each changed group's id, on the loop; answers how to stop it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def wait(self, group: str, *, timeout_s: float) -> bool:
        """Until the group changes, at most so long; True if it did."""
        seen = asyncio.Event()
        stop = self.listen(lambda changed: seen.set() if changed == group else None)
        try:
            await asyncio.wait_for(seen.wait(), timeout_s)
        except TimeoutError:
            return False
        finally:
            stop()
        return True

    def _deliver(self) -> None:
        with self._lock:
            groups, self._pending = self._pending, {}
        for listener in list(self._listeners):
            for group in groups:
                listener(group)
