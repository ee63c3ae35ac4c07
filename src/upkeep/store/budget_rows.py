"""Keeps what budgets count in step with machines and claims: the `down` flag and the versions.

Whoever changes a machine's health, lifecycle or claims calls `recount` in the same transaction.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, case, exists, or_, select, update

from upkeep.core.model import Health, Lifecycle
from upkeep.store import tables as t
from upkeep.store.selectors import selects

_CLAIMED = exists(
    select(t.claims.c.machine_id).where(t.claims.c.machine_id == t.machines.c.id)
).correlate(t.machines)

_ILL = (t.machines.c.lifecycle == Lifecycle.PRESENT) & (t.machines.c.health != Health.HEALTHY)


def recount(connection: Connection, machines: Sequence[str]) -> None:
    """Set `down` of the machines anew and raise the version of every budget that selects one."""
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
