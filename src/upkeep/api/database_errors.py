"""What it means for whoever asked that the database could not do it.

A transaction is whole or not at all, so after any of these nothing is half-written, and the same
request may be sent again once the cause is gone.
"""

import sqlite3
from typing import Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from upkeep.api.problems import InputError, ProblemKind

RETRY_AFTER_S = 15

# Of an extended code the low byte is the kind.
_SQLITE_FULL = frozenset({sqlite3.SQLITE_FULL})
_SQLITE_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_SQLITE_DISK = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
)
# Source: PostgreSQL's errcodes appendix.  53100 disk_full; classes 08, 57, 53 are outages.
_POSTGRES_FULL = frozenset({"53100"})
_POSTGRES_AWAY = ("08", "53", "57")


def from_database(error: SQLAlchemyError) -> InputError | None:
    """The answer to give, or None if it is no outage but a mistake of ours."""
    if isinstance(error, PoolTimeout):
        return _busy("too many requests use the database at once")
    if not isinstance(error, DBAPIError):
        return None
    code, state = _codes(error.orig)
    if code in _SQLITE_FULL or state in _POSTGRES_FULL:
        return InputError(
            ProblemKind.NO_SPACE,
            "nothing was written, since the disk with the database is full: make room there and"
            " send the request again",
            retry_after_s=RETRY_AFTER_S,
        )
    if code in _SQLITE_BUSY:
        return _busy("another write takes long")
    if code in _SQLITE_DISK:
        return _busy("the database's files cannot be written; see the server's log and its disk")
    if state.startswith(_POSTGRES_AWAY):
        return _busy("the database cannot be reached; see that it runs")
    return None


def _codes(cause: Any) -> tuple[int, str]:
    """SQLite's code and PostgreSQL's SQLSTATE, of which the other is empty."""
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF, ""
    state = getattr(cause, "sqlstate", None) or ""
    if not state and type(cause).__name__ == "OperationalError":
        return 0, "08000"  # A connection that was never made has no state.
    return 0, str(state)


def _busy(why: str) -> InputError:
    return InputError(
        ProblemKind.UNAVAILABLE,
        f"nothing was written: {why}; send the request again",
        retry_after_s=RETRY_AFTER_S,
    )
