"""Who changed what, from where, and what came of it; rows are only ever added."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from upkeep.store import tables as t
from upkeep.store.database import to_us
from upkeep.store.paging import read_page

DETAIL_LENGTH_MAX = 1_000
SUBJECT_LENGTH_MAX = 300


def write(
    connection: Connection,
    *,
    actor: str,
    source: str,
    verb: str,
    subject: str,
    detail: str,
    status: int,
    now: datetime,
) -> None:
    connection.execute(
        insert(t.audit).values(
            at=to_us(now),
            actor=actor,
            source=source,
            verb=verb,
            subject=subject[:SUBJECT_LENGTH_MAX],
            detail=detail[:DETAIL_LENGTH_MAX],
            status=status,
        )
    )


def read_list(
    connection: Connection, *, after: int | None, limit: int
) -> tuple[list[Row[Any]], bool]:
    """Newest first."""
    return read_page(
        connection, select(t.audit), t.audit.c.id, after=after, limit=limit, newest_first=True
    )
