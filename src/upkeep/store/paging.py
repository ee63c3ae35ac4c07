"""One page of a list: rows after a cursor, in the order of one unique column."""

from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, Select

# A page of the largest rows (rollouts with evidence) stays under a megabyte.
LIMIT_MAX = 1_000
LIMIT_DEFAULT = 100


def read_page(
    connection: Connection,
    query: Select[Any],
    column: Column[Any] | ColumnElement[Any],
    *,
    after: Any,
    limit: int,
    newest_first: bool = False,
) -> tuple[list[Row[Any]], bool]:
    """Up to `limit` rows beyond `after` (None: from the start), and whether there are more."""
    assert 0 < limit <= LIMIT_MAX
    if after is not None:
        query = query.where(column < after if newest_first else column > after)
    query = query.order_by(column.desc() if newest_first else column).limit(limit + 1)
    rows = list(connection.execute(query))
    return rows[:limit], len(rows) > limit
