"""Why machines that are not up to date are not being worked on: the holds of the last plan."""

from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from upkeep.store import tables as t
from upkeep.store.groups import in_scope
from upkeep.store.paging import read_page


def _query() -> Select[Any]:
    return (
        select(
            t.holds,
            t.machines.c.name.label("machine_name"),
            t.groups.c.name.label("group_name"),
            t.budgets.c.name.label("budget_name"),
        )
        .join(t.machines, t.machines.c.id == t.holds.c.machine_id)
        .join(t.groups, t.groups.c.id == t.holds.c.group_id)
        .outerjoin(t.budgets, t.budgets.c.id == t.holds.c.budget_id)
    )


def read_list(
    connection: Connection,
    *,
    scope: str,
    group_id: str = "",
    reason: str = "",
    after: str | None,
    limit: int,
) -> tuple[list[Row[Any]], bool]:
    """By machine and system; the cursor is `cursor_of` of a page's last row."""
    key = t.holds.c.machine_id + "/" + t.holds.c.system
    query = _query().where(in_scope(scope))
    if group_id:
        query = query.where(t.holds.c.group_id == group_id)
    if reason:
        query = query.where(t.holds.c.reason == reason)
    return read_page(connection, query, key, after=after, limit=limit)


def cursor_of(row: Row[Any]) -> str:
    return f"{row.machine_id}/{row.system}"


def of_machine(connection: Connection, machine_id: str) -> list[Row[Any]]:
    query = _query().where(t.holds.c.machine_id == machine_id).order_by(t.holds.c.system)
    return list(connection.execute(query))


def counts_by_reason(connection: Connection, group_id: str) -> dict[str, int]:
    rows = connection.execute(
        select(t.holds.c.reason, func.count().label("machines"))
        .where(t.holds.c.group_id == group_id)
        .group_by(t.holds.c.reason)
        .order_by(t.holds.c.reason)
    )
    return {row.reason: row.machines for row in rows}
