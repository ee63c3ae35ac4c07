"""Writes what was seen of a machine, and only what has changed."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, or_, select, update

from upkeep.core.model import Health, Lifecycle, MachineId
from upkeep.core.task import IN_HAND, TaskState
from upkeep.engine.fleet_store import Sighting
from upkeep.store import tables as t
from upkeep.store.budget_rows import lock_budgets, recount
from upkeep.store.database import to_us


def observe(
    connection: Connection, machine: MachineId, sighting: Sighting, *, now: datetime
) -> str | None:
    """See `FleetStore.observe`; the group to mark, or None if nothing changed."""
    row = _read(connection, machine, lock=False)
    if row is None or not _changes(connection, row, sighting, now):
        return None  # As most: it costs a read, and holds nobody up.
    if sighting.health is not None:
        lock_budgets(connection, [machine])
    lock_group = select(t.groups.c.id).where(t.groups.c.id == row.group_id).with_for_update()
    connection.execute(lock_group)
    row = _read(connection, machine, lock=True)
    values = _changes(connection, row, sighting, now) if row is not None else {}
    if row is None or not values:
        return None
    connection.execute(update(t.machines).where(t.machines.c.id == machine).values(values))
    if "health" in values:
        recount(connection, [machine], now=now)
    return str(row.group_id)


def _read(connection: Connection, machine: MachineId, *, lock: bool) -> Row[Any] | None:
    query = select(t.machines).where(
        t.machines.c.id == machine, t.machines.c.lifecycle != Lifecycle.DELETED
    )
    return connection.execute(query.with_for_update() if lock else query).first()


def _changes(
    connection: Connection, row: Row[Any], sighting: Sighting, now: datetime
) -> dict[str, Any]:
    """The columns that the sighting changes."""
    values: dict[str, Any] = {}
    if sighting.boots is not None and sighting.boots > row.boots:
        values["boots"] = sighting.boots  # It only rises: a lower one was seen earlier.
    for name in ("image", "address", "phase"):
        seen = getattr(sighting, name)
        if seen is not None and seen != getattr(row, name):
            values[name] = seen
    if sighting.powered_off is not None and int(sighting.powered_off) != row.powered_off:
        values["powered_off"] = int(sighting.powered_off)
    if sighting.skip is not None and int(sighting.skip) != row.skip:
        values["skip"] = int(sighting.skip)
    is_new = sighting.watch_from is None or to_us(sighting.watch_from) == row.watch_from
    if sighting.health is not None and sighting.health != row.health and is_new:
        values |= _health_values(connection, row, sighting, now)
    return values


def _health_values(
    connection: Connection, row: Row[Any], sighting: Sighting, now: datetime
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "health": sighting.health,
        "health_since": to_us(now),
        "health_detail": sighting.detail or "",
    }
    if sighting.health is Health.UNKNOWN:
        if not _in_somebodys_hands(connection, row):
            values["lost_at"] = to_us(now)
    elif sighting.health is not Health.INITIALIZING and _is_away(row):
        # Also after work that began while it was away: it has been seen again.
        values["back_at"] = to_us(now)
    return values


def _is_away(row: Row[Any]) -> bool:
    return row.lost_at is not None and (row.back_at is None or row.back_at < row.lost_at)


def _in_somebodys_hands(connection: Connection, row: Row[Any]) -> bool:
    """Away because of work on it, or while its new version bakes: nobody has lost it.

    The work on a machine that stands in for another is that other's task.
    """
    if row.in_work:
        return True
    in_hand = (
        select(t.tasks.c.machine_id)
        .join(t.rollouts, t.rollouts.c.id == t.tasks.c.rollout_id)
        .where(
            t.rollouts.c.group_id == row.group_id,
            t.rollouts.c.ended_at.is_(None),
            t.tasks.c.state.in_(_OURS),
            or_(t.tasks.c.machine_id == row.id, t.tasks.c.stand_in == row.id),
        )
    )
    return connection.execute(in_hand.limit(1)).first() is not None


_OURS = (*sorted(IN_HAND), TaskState.BAKING)
