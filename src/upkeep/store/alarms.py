"""Alarms of groups: what is asked, and what was answered last."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from upkeep.core.alarm import Alarm, AlarmAction, AlarmState, told
from upkeep.store import story
from upkeep.store import tables as t
from upkeep.store.database import from_us, from_us_or_none, to_us, to_us_or_none
from upkeep.store.groups import in_scope
from upkeep.store.paging import read_page
from upkeep.store.wakes import mark

_WITH_GROUP = select(t.alarms, t.groups.c.name.label("group_name")).join(
    t.groups, t.groups.c.id == t.alarms.c.group_id
)


def create(
    connection: Connection,
    group_id: str,
    alarm: Alarm,
    *,
    alarm_id: str,
    url: str,
    query: str,
    now: datetime,
) -> None:
    connection.execute(
        insert(t.alarms).values(
            id=alarm_id,
            group_id=group_id,
            name=alarm.name,
            url=url,
            query=query,
            action=alarm.action,
            **_told(alarm),
        )
    )
    _mark(connection, group_id, now)


def find(connection: Connection, alarm_id: str, *, scope: str = "") -> Row[Any] | None:
    query = _WITH_GROUP.where(t.alarms.c.id == alarm_id, in_scope(scope))
    return connection.execute(query).first()


def is_taken(connection: Connection, group_id: str, name: str) -> bool:
    query = select(t.alarms.c.id).where(t.alarms.c.group_id == group_id, t.alarms.c.name == name)
    return connection.execute(query).first() is not None


def read_list(
    connection: Connection, *, scope: str, after: str | None, limit: int
) -> tuple[list[Row[Any]], bool]:
    """By id."""
    query = _WITH_GROUP.where(in_scope(scope))
    return read_page(connection, query, t.alarms.c.id, after=after, limit=limit)


def read_all(connection: Connection) -> list[Row[Any]]:
    """For whoever asks them."""
    return list(connection.execute(select(t.alarms).order_by(t.alarms.c.id)))


def read_group(connection: Connection, group_id: str) -> tuple[Alarm, ...]:
    rows = connection.execute(select(t.alarms).where(t.alarms.c.group_id == group_id))
    return tuple(sorted((alarm_from(row) for row in rows), key=lambda alarm: alarm.name))


def tell(
    connection: Connection, alarm_id: str, state: AlarmState, detail: str, *, now: datetime
) -> str | None:
    """Write an answer; answers the group that was made due: None if nothing has changed."""
    row = connection.execute(select(t.alarms).where(t.alarms.c.id == alarm_id)).first()
    if row is None or row.state == state:
        return None
    alarm = told(alarm_from(row), state, detail, now=now)
    connection.execute(update(t.alarms).where(t.alarms.c.id == alarm_id).values(**_told(alarm)))
    story.tell(connection, row.group_id, f"alarm {row.name} is {state}: {detail}", now=now)
    _mark(connection, row.group_id, now)
    return str(row.group_id)


def remove(connection: Connection, alarm: Row[Any], *, now: datetime) -> None:
    connection.execute(delete(t.alarms).where(t.alarms.c.id == alarm.id))
    _mark(connection, alarm.group_id, now)


def alarm_from(row: Row[Any]) -> Alarm:
    return Alarm(
        name=row.name,
        action=AlarmAction(row.action),
        state=AlarmState(row.state),
        since=from_us(row.since),
        fired_at=from_us_or_none(row.fired_at),
        quiet_at=from_us_or_none(row.quiet_at),
        detail=row.detail,
    )


def _told(alarm: Alarm) -> dict[str, Any]:
    return {
        "state": alarm.state,
        "since": to_us(alarm.since),
        "fired_at": to_us_or_none(alarm.fired_at),
        "quiet_at": to_us_or_none(alarm.quiet_at),
        "detail": alarm.detail,
    }


def _mark(connection: Connection, group_id: str, now: datetime) -> None:
    """A plan in flight that saw the alarm quiet may begin no batch: the fence rises."""
    mark(connection, group_id, now, raise_fence=True)
