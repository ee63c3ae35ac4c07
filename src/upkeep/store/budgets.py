"""Operators' budgets: how many of the machines that a selector names may be down at once."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update

from upkeep.core.model import Lifecycle
from upkeep.store import groups
from upkeep.store import tables as t
from upkeep.store.database import to_us
from upkeep.store.paging import read_page
from upkeep.store.selectors import condition


def create(
    connection: Connection, *, budget_id: str, values: Mapping[str, Any], now: datetime
) -> list[str] | None:
    """The groups that were made due; None if the name is taken."""
    if find(connection, values["name"]) is not None:
        return None
    connection.execute(insert(t.budgets).values(id=budget_id, created_at=to_us(now), **values))
    return groups.mark_all(connection, now=now)


def find(connection: Connection, name: str) -> Row[Any] | None:
    """By name or id."""
    query = select(t.budgets).where(or_(t.budgets.c.name == name, t.budgets.c.id == name))
    return connection.execute(query).first()


def read_list(
    connection: Connection, *, after: str | None, limit: int
) -> tuple[list[Row[Any]], bool]:
    """By id; the groups' own budgets are among them."""
    return read_page(connection, select(t.budgets), t.budgets.c.id, after=after, limit=limit)


def claimed(connection: Connection, ids: list[str]) -> dict[str, int]:
    """Places taken, by budget."""
    rows = connection.execute(
        select(t.claims.c.budget_id, func.count().label("places"))
        .where(t.claims.c.budget_id.in_(ids))
        .group_by(t.claims.c.budget_id)
    )
    return {row.budget_id: row.places for row in rows}


def usage(connection: Connection, budget: Row[Any]) -> tuple[int, int]:
    """How many present machines the budget selects, and how many are down or claimed."""
    row = connection.execute(
        select(func.count(), func.coalesce(func.sum(t.machines.c.down), 0)).where(
            condition(budget), t.machines.c.lifecycle == Lifecycle.PRESENT
        )
    ).one()
    return int(row[0]), int(row[1])


def change(
    connection: Connection, budget_id: str, values: Mapping[str, Any], *, now: datetime
) -> list[str]:
    """Plans that counted on the old values fail; every group is looked at anew."""
    connection.execute(
        update(t.budgets)
        .where(t.budgets.c.id == budget_id)
        .values(version=t.budgets.c.version + 1, **values)
    )
    return groups.mark_all(connection, now=now)


def remove(connection: Connection, budget_id: str, *, now: datetime) -> list[str]:
    connection.execute(delete(t.claims).where(t.claims.c.budget_id == budget_id))
    connection.execute(delete(t.starts).where(t.starts.c.budget_id == budget_id))
    connection.execute(delete(t.budgets).where(t.budgets.c.id == budget_id))
    return groups.mark_all(connection, now=now)
