"""Keeps what budgets count in step with machines and claims: the `down` flag and the versions.

Whoever changes a machine's health, lifecycle or claims calls `lock_budgets` before it locks
anything else but an action, and `recount` after the change, in the same transaction.

The order in which every transaction locks rows, so that none waits for another in a circle:
actions by key, budgets by id, the group, its machines, then other groups that wait for a place.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, case, exists, or_, select, update

from upkeep.core.model import Health, Lifecycle
from upkeep.store import tables as t
from upkeep.store.selectors import selects
from upkeep.store.wakes import marked

_CLAIMED = exists(
    select(t.claims.c.machine_id).where(t.claims.c.machine_id == t.machines.c.id)
).correlate(t.machines)

_ILL = (t.machines.c.lifecycle == Lifecycle.PRESENT) & (t.machines.c.health != Health.HEALTHY)


def lock_budgets(
    connection: Connection,
    machines: Sequence[str],
    *,
    new: Iterable[Any] = (),
    also: Iterable[str] = (),
) -> dict[str, int]:
    """Lock the rows of all budgets that select one of the machines; answers their versions.

    Args:
        new: machines without a row yet: anything with group_id, zone and host.
        also: budgets that are locked whatever they select, and whose versions are asked for.
    """
    wanted = sorted(also)
    if connection.dialect.name != "sqlite":  # It has one writer at a time, and no rows to lock.
        places = [*_places(connection, machines), *new]
        wanted += [b.id for b in _concerned(connection, places)]
    if not wanted:
        return {}
    rows = connection.execute(
        select(t.budgets.c.id, t.budgets.c.version)
        .where(t.budgets.c.id.in_(wanted))
        .order_by(t.budgets.c.id)
        .with_for_update()
    )
    return {row.id: row.version for row in rows}


def recount(
    connection: Connection, machines: Sequence[str], *, now: datetime, planned: str = ""
) -> None:
    """Set `down` of the machines anew and raise the version of every budget that selects one.

    Groups that wait for a place in one of those budgets become due, but for `planned`, the group
    whose plan is being written: it has just been judged with these very changes.
    """
    if not machines:
        return
    connection.execute(
        update(t.machines)
        .where(t.machines.c.id.in_(machines))
        .values(down=case((or_(_ILL, _CLAIMED), 1), else_=0))
    )
    concerned = [b.id for b in _concerned(connection, _places(connection, machines))]
    if not concerned:
        return
    connection.execute(
        update(t.budgets)
        .where(t.budgets.c.id.in_(concerned))
        .values(version=t.budgets.c.version + 1)
    )
    waiting = (
        select(t.groups.c.id)
        .where(
            t.groups.c.id.in_(
                select(t.holds.c.group_id).where(
                    t.holds.c.budget_id.in_(concerned), t.holds.c.group_id != planned
                )
            )
        )
        .order_by(t.groups.c.id)
        .with_for_update()
    )
    if groups := connection.execute(waiting).scalars().all():
        connection.execute(update(t.groups).where(t.groups.c.id.in_(groups)).values(marked(now)))


def _places(connection: Connection, machines: Sequence[str]) -> list[Any]:
    """Where the machines are, each place once; a machine never moves."""
    if not machines:
        return []
    rows = connection.execute(
        select(t.machines.c.group_id, t.machines.c.zone, t.machines.c.host)
        .where(t.machines.c.id.in_(machines))
        .distinct()
    )
    return list(rows)


def _concerned(connection: Connection, places: Sequence[Any]) -> list[Any]:
    """The budgets that select a machine in one of the places."""
    if not places:
        return []
    groups = sorted({place.group_id for place in places})
    rows = connection.execute(
        select(t.budgets)
        .where(or_(t.budgets.c.group_id == "", t.budgets.c.group_id.in_(groups)))
        .order_by(t.budgets.c.id)
    )
    return [row for row in rows if any(selects(row, place) for place in places)]
