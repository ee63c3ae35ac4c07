"""Migrations: what they end at is tables.py, on each database; and each is applied once."""

from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    LargeBinary,
    MetaData,
    Table,
    Text,
    insert,
    inspect,
    select,
)

from upkeep.store import tables as t
from upkeep.store.database import Database
from upkeep.store.machine_models import digest_of
from upkeep.store.migrate import migrate
from upkeep.store.tables import metadata


def differences(connection: Connection) -> list[object]:
    """Between the database and tables.py, as Alembic sees them."""
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


def schema(connection: Connection) -> dict[str, object]:
    """All of it as text: also defaults and conditions of indexes, which Alembic leaves out."""
    found: dict[str, object] = {}
    look = inspect(connection)
    for table in sorted(metadata.tables):
        columns = [{**c, "type": str(c["type"])} for c in look.get_columns(table)]
        columns.sort(key=lambda column: column["name"])  # A column of a later file comes last.
        indexes = [
            (index["name"], index["column_names"], bool(index["unique"]), _options(index))
            for index in sorted(look.get_indexes(table), key=lambda index: str(index["name"]))
        ]
        found[table] = (columns, look.get_pk_constraint(table)["constrained_columns"], indexes)
    return found


def _options(index: Any) -> dict[str, str]:
    return {name: str(value) for name, value in index.get("dialect_options", {}).items()}


def test_all_migrations_end_at_the_tables(database: Database) -> None:
    migrate(database)
    with database.write() as connection:
        assert differences(connection) == []
        migrated = schema(connection)
        metadata.drop_all(connection)
        metadata.create_all(connection)
        assert migrated == schema(connection)


@pytest.mark.parametrize(
    "change",
    [
        "DROP INDEX story_group",
        "ALTER TABLE settings ADD COLUMN of_tomorrow INTEGER",
        "ALTER TABLE machines DROP COLUMN uuid",
    ],
)
def test_what_differs_is_seen(database: Database, change: str) -> None:
    migrate(database)
    with database.write() as connection:
        connection.exec_driver_sql(change)
        assert len(differences(connection)) == 1


def test_migrating_again_changes_nothing(database: Database) -> None:
    migrate(database)
    with database.write() as connection:
        connection.exec_driver_sql("INSERT INTO settings (key, value) VALUES ('kept', '1')")
    migrate(database)
    with database.read() as connection:
        kept = connection.exec_driver_sql("SELECT value FROM settings").scalars().all()
    assert kept == ["1"]


def test_groups_from_before_models_had_names_keep_what_their_disks_are_told(
    database: Database,
) -> None:
    migrate(database, to="0011")
    script = b"#!/bin/sh\n\xff"
    with database.write() as connection:
        row = {"name": "told", "user_data": script, "scripts": "[1]", "created_at": 7}
        connection.execute(insert(_GROUPS_BEFORE).values(id="g_1", **row))
        connection.execute(insert(_GROUPS_BEFORE).values(id="g_2", name="plain", created_at=8))
    migrate(database)
    with database.read() as connection:
        groups = {row.id: row for row in connection.execute(select(t.groups))}
        models = {row.group_id: row for row in connection.execute(select(t.machine_models))}
    told = models["g_1"]
    assert (told.user_data, told.scripts, told.set_at) == (script, "[1]", 7)
    assert told.digest == digest_of(script, "[1]")
    assert groups["g_1"].model == groups["g_1"].baked_model == told.digest
    assert groups["g_2"].model == models["g_2"].digest == digest_of(b"", "[]")
    assert {group.upgrade_mode for group in groups.values()} == {"manual"}


_GROUPS_BEFORE = Table(
    "groups",
    MetaData(),
    Column("id", Text),
    Column("name", Text),
    Column("user_data", LargeBinary),
    Column("scripts", Text),
    Column("created_at", BigInteger),
)
