"""A group that has been removed is gone for the planner, whatever still arrives for it."""

from datetime import UTC, datetime

from sqlalchemy import Connection, select

from upkeep.core.model import GroupId
from upkeep.core.snapshot import Plan
from upkeep.store import groups
from upkeep.store import tables as t
from upkeep.store.database import Database
from upkeep.store.fleet import SqlFleetStore
from upkeep.store.migrate import migrate

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
WEB = GroupId("g_1")


def remove(connection: Connection) -> None:
    row = connection.execute(select(t.groups).where(t.groups.c.id == WEB)).one()
    groups.begin_removal(connection, row, now=NOW)
    assert groups.remove_if_empty(connection, WEB, now=NOW)


def test_it_is_neither_read_nor_written_nor_due(database: Database) -> None:
    migrate(database)
    store = SqlFleetStore(database)
    with database.write() as connection:
        values = {"name": "web", "policy": "{}"}
        assert groups.create(connection, group_id=WEB, budget_id="bu_1", values=values, now=NOW)
    found = store.read_group(WEB, now=NOW, clock_stepped=False)
    assert found is not None
    database.run(remove)
    with database.read() as connection:
        fence = connection.execute(select(t.groups.c.fence)).scalar_one()
    snapshot, mark = found
    store.mark_group(WEB, now=NOW)
    assert store.due_groups(NOW, 10) == []
    assert store.next_wake() is None
    assert store.read_group(WEB, now=NOW, clock_stepped=False) is None
    as_it_is = type(mark)(marks=mark.marks, fence=fence)
    assert not store.commit_plan(Plan(group=snapshot.group), as_it_is, now=NOW)
