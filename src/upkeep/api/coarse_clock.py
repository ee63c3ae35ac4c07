"""The engine's time for the asyncio loop: read from memory, never from the database.

The engine's clock writes its high-water mark every few seconds; that must not stop the loop.  A
thread samples it, and between two samples the time goes on with the monotonic clock.
"""

import asyncio
import time
from datetime import datetime, timedelta

from upkeep.engine.clock import EngineClock

SAMPLE_EVERY_S = 1.0


class CoarseClock:
    def __init__(self, clock: EngineClock) -> None:
        self._clock = clock
        self.sample()

    def sample(self) -> None:
        self._sampled, self._sampled_at = self._clock.now(), time.monotonic()

    def now(self) -> datetime:
        return self._sampled + timedelta(seconds=time.monotonic() - self._sampled_at)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(SAMPLE_EVERY_S)
            await asyncio.to_thread(self.sample)
