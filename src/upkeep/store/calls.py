"""What a person asks the planner for: restart, stop, start, delete, a rollout by hand."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, insert, select

from upkeep.core.model import Verb
from upkeep.store import tables as t
from upkeep.store.database import to_us
from upkeep.store.wakes import mark

OPEN, ACCEPTED, REFUSED = "open", "accepted", "refused"


def create(
    connection: Connection,
    *,
    call_id: str,
    group_id: str,
    verb: Verb,
    machines: Sequence[str] = (),
    target: str = "",
    force: bool,
    actor: str,
    now: datetime,
) -> None:
    """Write the call down and make its group due."""
    connection.execute(
        insert(t.calls).values(
            id=call_id,
            group_id=group_id,
            verb=verb,
            machines=msgspec.json.encode(list(machines)).decode(),
            target=target,
            force=int(force),
            actor=actor,
            created_at=to_us(now),
        )
    )
    mark(connection, group_id, now)


def find(connection: Connection, call_id: str) -> Row[Any] | None:
    return connection.execute(select(t.calls).where(t.calls.c.id == call_id)).first()
