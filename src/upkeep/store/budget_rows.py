"""Keeps what budgets count in step with machines and claims: the `down` flag and the versions.

Whoever changes a machine's health, lifecycle or claims calls `recount` in the same transaction.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, case, exists, or_, select, update

from upkeep.core.model import Health, Lifecycle
from upkeep.store import tables as t
from upkeep.store.database import to_us
from upkeep.store.selectors import selects

_CLAIMED = exists(
    select(t.claims.c.machine_id).where(t.claims.c.machine_id == t.machines.c.id)
).correlate(t.machines)

_ILL = (t.machines.c.lifecycle == Lifecycle.PRESENT) & (t.machines.c.health != Health.HEALTHY)


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
    touched = connection.execute(
        select(t.machines.c.group_id, t.machines.c.zone, t.machines.c.host)
        .where(t.machines.c.id.in_(machines))
        .distinct()
    ).all()
    groups = sorted({row.group_id for row in touched})
    budgets = connection.execute(
        select(t.budgets)
        .where(or_(t.budgets.c.group_id == "", t.budgets.c.group_id.in_(groups)))
        .order_by(t.budgets.c.id)
    ).all()
    concerned = [b.id for b in budgets if any(selects(b, machine) for machine in touched)]
    if concerned:
        connection.execute(
            update(t.budgets)
            .where(t.budgets.c.id.in_(concerned))
            .values(version=t.budgets.c.version + 1)
        )
        waiting = select(t.holds.c.group_id).where(
            t.holds.c.budget_id.in_(concerned), t.holds.c.group_id != planned
        )
        connection.execute(
            update(t.groups)
            .where(t.groups.c.id.in_(waiting))
            .values(marks=t.groups.c.marks + 1, wake_at=to_us(now))
        )
