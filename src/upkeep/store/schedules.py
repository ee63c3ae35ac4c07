"""Schedules: windows that recur, and the groups whose OS image upgrades happen in them alone."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, false, insert, select, update

from upkeep.core.recurrence import Schedule, windows_of
from upkeep.core.snapshot import Interval
from upkeep.store import groups
from upkeep.store import tables as t
from upkeep.store.database import to_us, upsert
from upkeep.store.paging import read_page
from upkeep.store.wakes import mark


def create(
    connection: Connection,
    schedule_id: str,
    schedule: Schedule,
    *,
    scope: str,
    region: str,
    now: datetime,
) -> None:
    connection.execute(
        insert(t.schedules).values(
            id=schedule_id,
            name=schedule.name,
            scope=scope,
            region=region,
            created_at=to_us(now),
            **_values(schedule),
        )
    )


def change(
    connection: Connection, row: Row[Any], schedule: Schedule, *, now: datetime
) -> list[str]:
    """Answers the groups that were made due; a plan that has read the old windows fails."""
    connection.execute(
        update(t.schedules).where(t.schedules.c.id == row.id).values(**_values(schedule))
    )
    return _mark_users(connection, row.id, now)


def remove(connection: Connection, row: Row[Any], *, now: datetime) -> list[str]:
    """With its assignments: groups that have no other schedule may work at any time."""
    marked = _mark_users(connection, row.id, now)
    connection.execute(delete(t.assignments).where(t.assignments.c.schedule_id == row.id))
    connection.execute(delete(t.arm_documents).where(t.arm_documents.c.key == row.id))
    connection.execute(delete(t.schedules).where(t.schedules.c.id == row.id))
    return marked


def find(connection: Connection, name: str, *, scope: str = "") -> Row[Any] | None:
    query = select(t.schedules).where(t.schedules.c.name == name, _visible(scope))
    return connection.execute(query).first()


def read_list(
    connection: Connection, *, scope: str, after: str | None, limit: int
) -> tuple[list[Row[Any]], bool]:
    """By name."""
    query = select(t.schedules).where(_visible(scope))
    return read_page(connection, query, t.schedules.c.name, after=after, limit=limit)


def assign(
    connection: Connection, schedule: Row[Any], group: Row[Any], *, name: str, now: datetime
) -> bool:
    """The group works in the schedule's windows from now on; False if it did before."""
    known = connection.execute(select(t.assignments).where(_is(schedule, group))).first()
    row = {"schedule_id": schedule.id, "group_id": group.id, "name": name}
    upsert(connection, t.assignments, [row])
    mark(connection, group.id, now, raise_fence=True)
    return known is None


def unassign(connection: Connection, schedule: Row[Any], group: Row[Any], *, now: datetime) -> bool:
    """False if it was not assigned."""
    done = connection.execute(delete(t.assignments).where(_is(schedule, group)))
    mark(connection, group.id, now, raise_fence=True)
    return done.rowcount > 0


def groups_of(connection: Connection, ids: Sequence[str]) -> dict[str, list[str]]:
    """Names of the groups that are assigned to each schedule."""
    rows = connection.execute(
        select(t.assignments.c.schedule_id, t.groups.c.name)
        .join(t.groups, t.groups.c.id == t.assignments.c.group_id)
        .where(t.assignments.c.schedule_id.in_(ids) if ids else false())
        .order_by(t.groups.c.name)
    )
    found: dict[str, list[str]] = {schedule: [] for schedule in ids}
    for row in rows:
        found[row.schedule_id].append(row.name)
    return found


def of_group(connection: Connection, group_id: str) -> list[Row[Any]]:
    """The schedules in whose windows the group works, with the assignment's name, by name."""
    return list(
        connection.execute(
            select(t.schedules, t.assignments.c.name.label("assignment"))
            .join(t.assignments, t.assignments.c.schedule_id == t.schedules.c.id)
            .where(t.assignments.c.group_id == group_id)
            .order_by(t.schedules.c.name)
        )
    )


def read_windows(
    connection: Connection, group_id: str, *, now: datetime
) -> tuple[Interval, ...] | None:
    """Those that are open or open soon; None: the group has no schedule, and any time will do."""
    rows = of_group(connection, group_id)
    return windows_of([schedule_from(row) for row in rows], now=now) if rows else None


def schedule_from(row: Row[Any]) -> Schedule:
    return Schedule(
        name=row.name,
        starts=datetime.fromisoformat(row.starts),
        expires=datetime.fromisoformat(row.expires) if row.expires else None,
        zone=row.zone,
        length=timedelta(seconds=row.length_s),
        recur_every=row.recur_every,
    )


def _values(schedule: Schedule) -> dict[str, Any]:
    return {
        "starts": _text(schedule.starts),
        "expires": "" if schedule.expires is None else _text(schedule.expires),
        "zone": schedule.zone,
        "length_s": int(schedule.length.total_seconds()),
        "recur_every": schedule.recur_every,
    }


def _text(local: datetime) -> str:
    """A wall-clock time as Azure writes it, too."""
    return local.isoformat(" ", "minutes")


def _is(schedule: Row[Any], group: Row[Any]) -> Any:
    return and_(t.assignments.c.schedule_id == schedule.id, t.assignments.c.group_id == group.id)


def _visible(scope: str) -> Any:
    return t.schedules.c.scope == scope if scope else t.schedules.c.scope.is_not(None)


def _mark_users(connection: Connection, schedule_id: str, now: datetime) -> list[str]:
    users = select(t.assignments.c.group_id).where(t.assignments.c.schedule_id == schedule_id)
    return groups.mark_where(connection, t.groups.c.id.in_(users), now=now, raise_fence=True)
