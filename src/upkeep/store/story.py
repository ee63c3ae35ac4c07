"""What was decided in a group, newest first; the planner writes it, and people's own deeds."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from upkeep.store import tables as t
from upkeep.store.database import to_us
from upkeep.store.paging import read_page


def tell(connection: Connection, group: str, line: str, *, now: datetime) -> None:
    connection.execute(insert(t.story).values(group_id=group, at=to_us(now), line=line))


def read_list(
    connection: Connection, group: str, *, after: int | None, limit: int
) -> tuple[list[Row[Any]], bool]:
    query = select(t.story).where(t.story.c.group_id == group)
    return read_page(connection, query, t.story.c.id, after=after, limit=limit, newest_first=True)
