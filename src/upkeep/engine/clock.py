"""The engine's own time: it never goes back, not even over a restart.

It advances with the monotonic clock from a stored high-water mark.  The wall clock is only
compared with it: while the two differ by more than 30 s nothing disruptive starts
(`CLOCK_STEPPED`), until they agree again or an operator accepts the step.  Source: DESIGN §5.
"""

from datetime import datetime, timedelta

from upkeep.engine.fleet_store import FleetStore
from upkeep.ports import Clock

STEP_MAX = timedelta(seconds=30)

# How far the stored mark may lag behind: what a crash can lose of the engine's time.
MARK_EVERY = timedelta(seconds=5)


class EngineClock:
    """Engine time for one process.

    After an outage the wall clock is believed if it is ahead of the mark (the server was down so
    long); if it is behind, the engine goes on from the mark and reports a step.
    """

    def __init__(self, clock: Clock, store: FleetStore) -> None:
        self._clock = clock
        self._store = store
        wall = clock.now()
        mark = store.raise_clock_mark(wall)
        # From where the time is counted, and the monotonic clock there; one value, since several
        # threads read it while another accepts a step.
        self._origin = (max(wall, mark), clock.monotonic())
        self._marked = self._origin[0]
        self._awake_since = self._origin[0]
        # The difference that has been accepted: zero, or what an operator agreed to.
        self._accepted = timedelta(0)

    def now(self) -> datetime:
        """Aware, UTC; never lower than any answer before, in this process or an earlier one.

        Every few seconds it writes the mark, in a transaction of its own: ask it before a write
        transaction begins, never inside of one, where the two would wait for one another.
        """
        now = self.peek()
        if now - self._marked >= MARK_EVERY:
            self._marked = self._store.raise_clock_mark(now)
        return now

    def peek(self) -> datetime:
        """The same from memory alone, for whoever only shows or compares, or must not wait.

        It works while the database cannot be written; the mark may lag behind its answers.
        """
        base, base_monotonic = self._origin
        return base + timedelta(seconds=self._clock.monotonic() - base_monotonic)

    @property
    def awake_since(self) -> datetime:
        """Since when this process can have seen anything: it began, or its time was put forward."""
        return self._awake_since

    def stepped(self) -> timedelta | None:
        """By how much the wall clock differs from what was accepted; None within 30 s."""
        difference = self._clock.now() - self.peek() - self._accepted
        return difference if abs(difference) > STEP_MAX else None

    def accept_step(self) -> timedelta:
        """An operator says that the wall clock is right; answers the step that was accepted.

        A step forward moves the engine's time to the wall clock.  A step back cannot: the engine
        goes on from where it is and tolerates the difference from now on.
        """
        wall, now = self._clock.now(), self.now()
        if wall > now:
            self._origin = (wall, self._clock.monotonic())
            self._accepted = timedelta(0)
            self._awake_since = wall
            self._marked = self._store.raise_clock_mark(wall)
        else:
            self._accepted = wall - now
        return wall - now
