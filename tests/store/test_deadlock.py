"""PostgreSQL ends a deadlock by failing one transaction; ours is then begun again."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, update
from sqlalchemy.exc import OperationalError

from upkeep.store import tables as t
from upkeep.store.database import Database
from upkeep.store.migrate import migrate

PATIENCE_S = 60


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    migrate(database)
    with database.write() as connection:
        for key in "ab":
            connection.exec_driver_sql(f"INSERT INTO settings (key, value) VALUES ('{key}', '')")
    yield database
    with database.write() as connection:
        t.metadata.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE alembic_version")
    database.close()


def write(connection: Connection, key: str) -> None:
    row = t.settings.c
    connection.execute(update(t.settings).where(row.key == key).values(value=row.value + "x"))


def opposite(database: Database) -> list[Callable[[Connection], int]]:
    """Two steps that lock two rows in opposite order, each after the other has its first."""
    barrier = threading.Barrier(2)
    begun = {"ab": 0, "ba": 0}

    def step(order: str) -> Callable[[Connection], int]:
        def run(connection: Connection) -> int:
            begun[order] += 1
            write(connection, order[0])
            if begun[order] == 1:
                barrier.wait(PATIENCE_S)
            write(connection, order[1])
            return begun[order]

        return run

    return [step("ab"), step("ba")]


def test_both_are_written(postgres: Database) -> None:
    with ThreadPoolExecutor(2) as pool:
        times = list(pool.map(postgres.run, opposite(postgres)))
    assert min(times) == 1
    assert max(times) > 1
    with postgres.read() as connection:
        values = connection.exec_driver_sql("SELECT value FROM settings").scalars().all()
    assert values == ["xx", "xx"]


def test_what_is_no_deadlock_is_told(database: Database) -> None:
    tries: list[int] = []

    def step(connection: Connection) -> None:
        tries.append(1)
        raise OperationalError("SELECT", {}, Exception("the disk is full"))

    with pytest.raises(OperationalError):
        database.run(step)
    assert len(tries) == 1
