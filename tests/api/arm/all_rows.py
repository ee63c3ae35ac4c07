"""All that a request could change: read to be compared, and put back as it was."""

from typing import Any

from sqlalchemy import delete, insert, select
from tests.api.agent_by_hand import eventually

from upkeep.store import tables as t
from upkeep.store.database import to_us

Rows = dict[str, list[Any]]

# The planner's own: it has looked at a group, whether or not there was anything to do.
BOOKKEEPING = ("marks", "fence", "wake_at", "planned_at")

LOOKS_MAX = 5


def rows(server: Any) -> Rows:
    """Everything but the audit log, the planner's bookkeeping and calls that it has refused."""

    def read(connection: Any) -> Rows:
        found: Rows = {}
        for name, table in t.metadata.tables.items():
            query = select(*(column for column in table.c if column.name not in BOOKKEEPING))
            if name == "calls":
                query = query.where(table.c.state != "refused")
            if name == "settings":  # The clock's mark.
                query = query.where(table.c.key != "engine_time_us")
            if name != "audit":
                found[name] = connection.execute(query.order_by(*table.primary_key)).all()
        return found

    found: Rows = server.read(read)
    return found


def rest(server: Any) -> None:
    """Wait until the planner has nothing to do now."""

    def is_at_rest() -> bool:
        due = select(t.groups.c.id).where(t.groups.c.wake_at <= to_us(server.services.clock.peek()))
        return server.read(lambda c: c.execute(due).first()) is None

    eventually(is_at_rest)


def at_rest(server: Any) -> Rows:
    """The same rows, once the planner has nothing to do now."""
    rest(server)
    return rows(server)


def settled(server: Any) -> Rows:
    """The same rows, once another look of the planner at every group changes nothing.

    The plan that opens a batch words the holds of the others otherwise than the plan after it, and
    a call that is refused is a look.
    """
    before = at_rest(server)
    for _ in range(LOOKS_MAX):
        now = server.services.clock.peek()
        for group in before["groups"]:
            server.services.store.mark_group(group.id, now=now)
        after = at_rest(server)
        if after == before:
            return after
        before = after
    raise AssertionError(f"the planner changes its mind for ever: {before['holds']}")


def copy_of_all(server: Any) -> Rows:
    """Every row of every table but the audit log, for `put_back`."""

    def read(connection: Any) -> Rows:
        tables = (table for name, table in t.metadata.tables.items() if name != "audit")
        return {table.name: connection.execute(select(table)).mappings().all() for table in tables}

    found: Rows = server.read(read)
    return found


def put_back(server: Any, copy: Rows) -> None:
    """The rows as they were when the planner was at rest."""
    rest(server)

    def write(connection: Any) -> None:
        for name, kept in copy.items():
            table = t.metadata.tables[name]
            connection.execute(delete(table))
            if kept:
                connection.execute(insert(table), [dict(row) for row in kept])

    server.write(write)
