"""Times in which nothing disruptive starts, for one group or for all."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, or_, select

from upkeep.store import groups
from upkeep.store import tables as t
from upkeep.store.database import to_us
from upkeep.store.groups import in_scope
from upkeep.store.paging import read_page

_WITH_GROUP = select(t.blackouts, t.groups.c.name.label("group_name")).outerjoin(
    t.groups, t.groups.c.id == t.blackouts.c.group_id
)


def create(
    connection: Connection,
    *,
    blackout_id: str,
    name: str,
    group_id: str,
    opens: datetime,
    closes: datetime,
    now: datetime,
) -> list[str]:
    """Answers the groups that were made due."""
    connection.execute(
        insert(t.blackouts).values(
            id=blackout_id,
            name=name,
            group_id=group_id,
            opens=to_us(opens),
            closes=to_us(closes),
        )
    )
    return _mark(connection, group_id, now)


def find(connection: Connection, blackout_id: str, *, scope: str = "") -> Row[Any] | None:
    query = _WITH_GROUP.where(t.blackouts.c.id == blackout_id, _visible(scope))
    return connection.execute(query).first()


def read_list(
    connection: Connection, *, scope: str, after: str | None, limit: int
) -> tuple[list[Row[Any]], bool]:
    """By id; those for all groups are everybody's to see."""
    query = _WITH_GROUP.where(_visible(scope))
    return read_page(connection, query, t.blackouts.c.id, after=after, limit=limit)


def remove(connection: Connection, blackout: Row[Any], *, now: datetime) -> list[str]:
    connection.execute(delete(t.blackouts).where(t.blackouts.c.id == blackout.id))
    return _mark(connection, blackout.group_id, now)


def _visible(scope: str) -> Any:
    return or_(t.blackouts.c.group_id == "", in_scope(scope))


def _mark(connection: Connection, group_id: str, now: datetime) -> list[str]:
    """A plan in flight that saw no blackout may not start work in it: the fence rises."""
    condition = t.groups.c.id == group_id if group_id else t.groups.c.id.is_not(None)
    return groups.mark_where(connection, condition, now=now, raise_fence=True)
