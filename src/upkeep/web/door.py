"""What the page needs of the process around it: a small part of `upkeep.api.services.Services`."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from upkeep.store.database import Database


class PageClock(Protocol):
    def peek(self) -> datetime:
        """The engine's time: aware, UTC; asked without a write, so it works on a full disk."""
        ...


class Changes(Protocol):
    def listen(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call `listener`, on the asyncio loop, with the id of each group that changes; answers
        how to stop it."""
        ...


class PageServices(Protocol):
    @property
    def database(self) -> Database: ...

    @property
    def clock(self) -> PageClock: ...

    @property
    def notify(self) -> Changes: ...
