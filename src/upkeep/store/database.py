"""The one door to the database: engine, transactions, moments.

SQLite runs in WAL mode with `synchronous=FULL`: an intent or an outcome that was committed
survives a power cut.  A write transaction begins IMMEDIATE, so two writers queue instead of
failing half-way.  PostgreSQL runs READ COMMITTED with row locks taken where a noun's file says so.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError

# How long one writer waits for another before it gives up.
BUSY_MS = 30_000
POOL_SIZE = 16

# PostgreSQL ends a deadlock by failing one of its transactions.  Ours lock rows in one order (see
# budget_rows.py), so this is rare; begun again so often, it is somebody else's fault.
DEADLOCK_RETRIES = 10
# The other one, which has waited longer, is let in first: else both meet in the same way again.
DEADLOCK_PAUSE_S = 0.02
_DEADLOCK = "40P01"

R = TypeVar("R")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def to_us_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else to_us(moment)


def from_us(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def from_us_or_none(us: int | None) -> datetime | None:
    return None if us is None else from_us(us)


class Database:
    """Connections and transactions over one URL: `sqlite:////var/lib/upkeep/upkeep.db` or
    `postgresql+psycopg://…`."""

    def __init__(self, url: str) -> None:
        self.is_sqlite = url.startswith("sqlite")
        arguments: dict[str, Any] = {}
        if self.is_sqlite:
            arguments["connect_args"] = {"timeout": BUSY_MS / 1000, "check_same_thread": False}
        self.engine: Engine = create_engine(
            url, pool_size=POOL_SIZE, max_overflow=POOL_SIZE, **arguments
        )
        if self.is_sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        self._writer = self.engine.execution_options(upkeep_write=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view; nothing is written."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction: whole or not at all."""
        with self._writer.connect() as connection, connection.begin():
            yield connection

    def run(self, step: Callable[[Connection], R]) -> R:
        """One write transaction, begun again if it was chosen to end a deadlock."""
        for _ in range(DEADLOCK_RETRIES):
            try:
                with self.write() as connection:
                    return step(connection)
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", "") != _DEADLOCK:
                    raise
            time.sleep(DEADLOCK_PAUSE_S)
        with self.write() as connection:
            return step(connection)

    def close(self) -> None:
        self.engine.dispose()


def _prepare_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None  # We begin transactions ourselves, below.
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_MS}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("upkeep_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def insert_for(connection: Connection, table: Table) -> Any:
    """The dialect's own insert, which can say what happens to a row that is there already."""
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(table)


def upsert(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that name the same columns, over those of the same primary key."""
    if not rows:
        return
    statement = insert_for(connection, table)
    keys = [column.name for column in table.primary_key]
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    connection.execute(
        statement.on_conflict_do_update(index_elements=keys, set_=changed), list(rows)
    )


def insert_ignoring(connection: Connection, table: Table, keys: Sequence[str]) -> Any:
    """An insert that leaves rows with a known key as they are."""
    return insert_for(connection, table).on_conflict_do_nothing(index_elements=keys)
