"""Writes who changed what, after the change and before its answer leaves.

What cannot be written (the disk is full, the database is away) is kept, logged whole, and written
ahead of the next entry: the change is done, so its answer must not say that it failed.  A process
that is killed in that state leaves the entry in its log alone.
"""

import logging
import threading
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from upkeep.store import audit
from upkeep.store.database import Database

# A few hundred kilobytes; on a full disk nearly every write is refused, so few entries matter.
KEPT_MAX = 1_000

log = logging.getLogger("upkeep.api")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    at: datetime
    actor: str
    source: str
    verb: str
    subject: str
    detail: str
    status: int


class AuditTrail:
    """For any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._kept: list[Entry] = []

    def record(self, entry: Entry) -> None:
        """Write it, after what was kept; never raises for a database that cannot write."""
        with self._lock:
            kept, self._kept = self._kept, []
        try:
            with self._database.write() as connection:
                for each in (*kept, entry):
                    _write(connection, each)
        except SQLAlchemyError as error:
            log.error("audit_not_written %s", entry, exc_info=error)
            with self._lock:
                self._kept = [*kept, entry, *self._kept][-KEPT_MAX:]


def _write(connection: Connection, entry: Entry) -> None:
    audit.write(
        connection,
        actor=entry.actor,
        source=entry.source,
        verb=entry.verb,
        subject=entry.subject,
        detail=entry.detail,
        status=entry.status,
        now=entry.at,
    )
