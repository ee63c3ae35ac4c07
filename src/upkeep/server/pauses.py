"""Keeps Python's garbage collector from stopping the server for as long as the fleet is large.

A full collection looks at every container in memory while all threads stand still: a quarter of a
second with 100,000 machines, 0.7 s with 19,000 polls beside them.  Nearly all of that lives as
long as the process.  So what a slow full collection has just found alive is frozen, and later
ones pass it by.

What is frozen and then becomes garbage in a cycle (a connection that has closed, an exception) is
not found by them.  So once they have together taken as long as the last look at everything, all
is thawed, and the next one looks at everything again.  A slow collection's time is what it froze:
at most as much again as was alive waits as garbage, and while the fleet stands still, no full
collection is slow.

Source: https://docs.python.org/3/library/gc.html, `callbacks`, `freeze`.
"""

import gc
import time
from collections.abc import Callable
from typing import Any

# Some 50,000 containers: agents do not notice.
SLOW_S = 0.02


class ShortPauses:
    """A callback of the collector; `begin` once in a process.

    Args:
        slow_s: a full collection that takes so long has what it found alive frozen.
        clock: the thread's processor time; a busy neighbour makes no collection slow.
    """

    def __init__(
        self, *, slow_s: float = SLOW_S, clock: Callable[[], float] = time.thread_time
    ) -> None:
        self._slow_s = slow_s
        self._clock = clock
        self._began_at = 0.0
        self._sees_all = True
        self._all_took = 0.0
        # What slow collections have taken since all was looked at.
        self._took = 0.0

    def begin(self) -> None:
        gc.callbacks.append(self)

    def end(self) -> None:
        gc.callbacks.remove(self)
        gc.unfreeze()

    def __call__(self, phase: str, info: dict[str, Any]) -> None:
        if info["generation"] != 2:
            return
        if phase == "start":
            self._began_at = self._clock()
            return
        took = self._clock() - self._began_at
        if took < self._slow_s:
            return
        gc.freeze()
        if self._sees_all:
            self._sees_all, self._all_took, self._took = False, took, 0.0
            return
        self._took += took
        if self._took >= self._all_took:
            gc.unfreeze()
            self._sees_all = True
