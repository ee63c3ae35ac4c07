"""When a group is due: marks, wakes, parking.

`groups.wake_at` is the moment since or from which the group is due.  A mark never moves it later:
a group that is marked again and again keeps its place before those that became due after it.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, case, func, insert, or_, select, update

from upkeep.store import tables as t
from upkeep.store.database import from_us_or_none, to_us

_LIVE = t.groups.c.deleted_at.is_(None)


def marked(now: datetime) -> dict[str, Any]:
    """What a mark writes to a group's row; a mark made while it is being planned is not lost."""
    wake_at = t.groups.c.wake_at
    return {
        "marks": t.groups.c.marks + 1,
        "wake_at": case((wake_at <= to_us(now), wake_at), else_=to_us(now)),
    }


def mark(connection: Connection, group: str, now: datetime, *, raise_fence: bool = False) -> None:
    """Make the group due at once, unless it has been removed.

    Args:
        raise_fence: what has changed must hold at once: plans in flight fail.
    """
    fence = t.groups.c.fence + int(raise_fence)
    connection.execute(
        update(t.groups).where(t.groups.c.id == group, _LIVE).values(fence=fence, **marked(now))
    )


def due(connection: Connection, now: datetime, limit: int) -> list[str]:
    """Longest due first."""
    parked_until = t.groups.c.parked_until
    query = (
        select(t.groups.c.id)
        .where(
            t.groups.c.wake_at <= to_us(now),
            or_(parked_until.is_(None), parked_until <= to_us(now)),
        )
        .order_by(t.groups.c.wake_at, t.groups.c.id)
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def next_wake(connection: Connection) -> datetime | None:
    """The earliest moment at which a group is due.  Few are parked, so they are asked apart."""
    wake_at, parked_until = t.groups.c.wake_at, t.groups.c.parked_until
    later = case((parked_until > wake_at, parked_until), else_=wake_at)
    queries = (
        select(func.min(wake_at)).where(parked_until.is_(None)),
        select(func.min(later)).where(parked_until.is_not(None), wake_at.is_not(None)),
    )
    moments = [connection.execute(query).scalar() for query in queries]
    return from_us_or_none(min((us for us in moments if us is not None), default=None))


def park(connection: Connection, group: str, *, trace: str, until: datetime) -> None:
    """See `FleetStore.park_group`; the next plan that is written ends it."""
    parked = connection.execute(
        update(t.groups).where(t.groups.c.id == group, _LIVE).values(parked_until=to_us(until))
    )
    if parked.rowcount:
        line = f"planning failed (our mistake): {trace}"
        connection.execute(insert(t.story).values(group_id=group, at=to_us(until), line=line))
