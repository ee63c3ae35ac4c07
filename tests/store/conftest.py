"""An empty database of each kind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.postgres import cluster

from upkeep.store.database import Database
from upkeep.store.tables import metadata


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with cluster() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Without a table; every test leaves PostgreSQL as it found it."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'fleet.db'}")
    else:
        database = Database(request.getfixturevalue("postgres_url"))
    yield database
    with database.write() as connection:
        metadata.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")
    database.close()
