"""What a person asks the planner for: restart, stop, start, delete, a rollout by hand."""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, insert, select

from upkeep.core.snapshot import OperatorCall
from upkeep.store import tables as t
from upkeep.store.database import to_us
from upkeep.store.wakes import mark

OPEN, ACCEPTED, REFUSED = "open", "accepted", "refused"


def create(connection: Connection, group_id: str, call: OperatorCall, *, now: datetime) -> None:
    """Write the call down and make its group due."""
    connection.execute(
        insert(t.calls).values(
            id=call.id,
            group_id=group_id,
            verb=call.verb,
            machines=msgspec.json.encode(call.machines).decode(),
            target=call.target,
            force=int(call.force),
            actor=call.actor,
            created_at=to_us(now),
        )
    )
    mark(connection, group_id, now)


def find(connection: Connection, call_id: str) -> Row[Any] | None:
    return connection.execute(select(t.calls).where(t.calls.c.id == call_id)).first()
