"""Virtual time: a heap of events, one random stream per part, and the transcript of a run.

Time is `now`, float seconds from the world's beginning; the wall clock is made from it where the
code under test asks for one.  Two events at one moment run in the order in which they were
scheduled, so a run depends on its seed and on nothing else.
"""

import hashlib
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

BEGINNING = datetime(2026, 1, 5, tzinfo=UTC)

# What a failure shows.
LINES_SHOWN = 40


def stream(seed: int, part: str) -> random.Random:
    """One generator per part: a new draw in one leaves the others unchanged."""
    return random.Random(f"{seed}/{part}")  # A str seed does not depend on PYTHONHASHSEED.


def moment(seconds: float) -> datetime:
    """True time as a wall clock that is right would show it."""
    return BEGINNING + timedelta(seconds=seconds)


class Kernel:
    """Runs events in the order of their time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self.after_each: Callable[[], None] = lambda: None
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._digest = hashlib.sha256()
        self.last_lines: deque[str] = deque(maxlen=LINES_SHOWN)

    def at(self, when: float, run: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (max(when, self.now), next(self._order), run))

    def after(self, seconds: float, run: Callable[[], None]) -> None:
        self.at(self.now + seconds, run)

    def run_until(self, end: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= end:
            self.now, _, run = heapq.heappop(heap)
            self.events += 1
            run()
            self.after_each()
        self.now = max(self.now, end)

    def tell(self, text: str) -> None:
        """One line of the transcript; it is hashed whole and the last lines are kept."""
        day, rest = divmod(self.now, 86_400)
        hours, rest = divmod(rest, 3_600)
        minutes, seconds = divmod(rest, 60)
        line = f"{day:.0f}d {hours:02.0f}:{minutes:02.0f}:{seconds:06.3f} {text}"
        self.last_lines.append(line)
        self._digest.update(line.encode())
        self._digest.update(b"\n")

    def digest(self) -> str:
        return self._digest.hexdigest()
