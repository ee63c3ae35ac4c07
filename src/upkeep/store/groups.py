"""Groups as operators see and change them.

The planner owns capacity (a deleted machine lowers it), baked and its counters; an operator's
change of anything the planner reads raises the group's fence beside marking it, in one
transaction, so that a plan that was made from the old values fails and is made again.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    delete,
    false,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from upkeep.core.model import Lifecycle
from upkeep.store import machine_models
from upkeep.store import tables as t
from upkeep.store.database import to_us
from upkeep.store.paging import read_page
from upkeep.store.policies import policy_from_json
from upkeep.store.wakes import marked

_LIVE = t.groups.c.deleted_at.is_(None)


def in_scope(scope: str) -> Any:
    """The condition that a token narrowed to `scope` puts on groups; empty: none."""
    return t.groups.c.scope == scope if scope else t.groups.c.scope.is_not(None)


def create(
    connection: Connection,
    *,
    group_id: str,
    budget_id: str,
    values: Mapping[str, Any],
    now: datetime,
) -> bool:
    """Add the group with its own budget, due at once; False if the name is taken."""
    name = values["name"]
    if connection.execute(select(t.groups.c.id).where(t.groups.c.name == name)).first():
        return False
    model = machine_models.put(
        connection, group_id, {"user_data": b"", "scripts": "[]", **values}, now=now
    )
    connection.execute(
        insert(t.groups).values(
            id=group_id,
            created_at=to_us(now),
            marks=1,
            wake_at=to_us(now),
            baked_model=model["model"],
            **model,
            **values,
        )
    )
    connection.execute(
        insert(t.budgets).values(
            id=budget_id,
            name=f"group {name}",
            group_id=group_id,
            max_down=policy_from_json(values["policy"]).max_batch_percent,
            percent=1,
            created_at=to_us(now),
        )
    )
    return True


def find(connection: Connection, name: str, *, scope: str = "") -> Row[Any] | None:
    """A group that is there, by name or id."""
    query = select(t.groups).where(
        or_(t.groups.c.name == name, t.groups.c.id == name), _LIVE, in_scope(scope)
    )
    return connection.execute(query).first()


def read_list(
    connection: Connection, *, scope: str, after: str | None, limit: int
) -> tuple[list[Row[Any]], bool]:
    query = select(t.groups).where(_LIVE, in_scope(scope))
    return read_page(connection, query, t.groups.c.name, after=after, limit=limit)


def read_names(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name and scope by id, of those that are there."""
    rows = connection.execute(
        select(t.groups.c.id, t.groups.c.name, t.groups.c.scope).where(t.groups.c.id.in_(ids))
    )
    return {row.id: (row.name, row.scope) for row in rows}


def ids_by_name(connection: Connection, names: Sequence[str]) -> dict[str, str]:
    rows = connection.execute(
        select(t.groups.c.id, t.groups.c.name).where(t.groups.c.name.in_(names), _LIVE)
    )
    return {row.name: row.id for row in rows}


def change(
    connection: Connection, group_id: str, values: Mapping[str, Any], *, now: datetime
) -> None:
    """Write operator-owned columns; plans in flight fail and are made again.

    The group's budget comes first, as in a commit: see budget_rows.py.
    """
    if "policy" in values:
        connection.execute(
            update(t.budgets)
            .where(t.budgets.c.group_id == group_id)
            .values(
                max_down=policy_from_json(values["policy"]).max_batch_percent,
                version=t.budgets.c.version + 1,
            )
        )
    if not values.keys().isdisjoint(machine_models.COLUMNS):
        # Two changes at once, of the data and of the scripts, are one after the other.
        row = connection.execute(
            select(t.groups).where(t.groups.c.id == group_id).with_for_update()
        ).one()
        whole = {name: values.get(name, getattr(row, name)) for name in machine_models.COLUMNS}
        values = {**values, **machine_models.put(connection, group_id, whole, now=now)}
    connection.execute(
        update(t.groups)
        .where(t.groups.c.id == group_id)
        .values(fence=t.groups.c.fence + 1, **marked(now), **values)
    )


def mark_where(
    connection: Connection, condition: Any, *, now: datetime, raise_fence: bool = False
) -> list[str]:
    """Make every live group of a condition due; answers their ids.

    Args:
        raise_fence: what has changed must hold at once: plans in flight fail.
    """
    ids = list(
        connection.execute(select(t.groups.c.id).where(condition, _LIVE).order_by(t.groups.c.id))
        .scalars()
        .all()
    )
    if ids:
        connection.execute(
            update(t.groups)
            .where(condition, _LIVE)
            .values(fence=t.groups.c.fence + int(raise_fence), **marked(now))
        )
    return ids


def mark_all(connection: Connection, *, now: datetime) -> list[str]:
    """A budget came, went or changed: plans in flight fail, every group is due."""
    return mark_where(connection, t.groups.c.id.is_not(None), now=now, raise_fence=True)


def mark_users_of_image(connection: Connection, image: str, *, now: datetime) -> list[str]:
    """A version came or went: plans in flight fail, every group that runs the image is due."""
    condition = t.groups.c.image_name == image
    return mark_where(connection, condition, now=now, raise_fence=True)


def names_by_rollout(connection: Connection, rollouts: Sequence[str]) -> dict[str, str]:
    """The name of the group of each of these rollouts."""
    rows = connection.execute(
        select(t.rollouts.c.id, t.groups.c.name)
        .join(t.groups, t.groups.c.id == t.rollouts.c.group_id)
        .where(t.rollouts.c.id.in_(rollouts) if rollouts else false())
    )
    return {row.id: row.name for row in rows}


def regions(connection: Connection) -> set[str]:
    return set(connection.execute(select(t.groups.c.region).where(_LIVE).distinct()).scalars())


def would_collide(connection: Connection, name: str) -> str | None:
    """A machine whose name the group's own machines would take, if there is one."""
    rows = connection.execute(
        select(t.machines.c.name).where(
            t.machines.c.name.startswith(f"{name}-", autoescape=True),
            t.machines.c.lifecycle != Lifecycle.DELETED,
        )
    )
    return next((n for n in rows.scalars() if n[len(name) + 1 :].isdigit()), None)


def counts(connection: Connection, ids: Sequence[str]) -> Sequence[Row[Any]]:
    """Machines by group, health, version and lifecycle."""
    m = t.machines.c
    query: Select[Any] = (
        select(m.group_id, m.health, m.image, m.lifecycle, func.count().label("machines"))
        .where(m.group_id.in_(ids) if ids else false(), m.lifecycle != Lifecycle.DELETED)
        .group_by(m.group_id, m.health, m.image, m.lifecycle)
    )
    return connection.execute(query).all()


def begin_removal(connection: Connection, group: Row[Any], *, now: datetime) -> None:
    """Capacity zero, no new rollout, the running ones end; `remove_if_empty` does the rest.

    Who was to stay when the group shrinks goes with the group.
    """
    change(
        connection,
        group.id,
        {"capacity": 0, "auto_upgrade": 0, "paused": 0, "delete_requested_at": to_us(now)},
        now=now,
    )
    connection.execute(
        update(t.machines).where(t.machines.c.group_id == group.id).values(scale_in_protected=0)
    )
    connection.execute(
        update(t.rollouts)
        .where(
            t.rollouts.c.group_id == group.id,
            t.rollouts.c.ended_at.is_(None),
            t.rollouts.c.system == "os_image",
        )
        .values(cancel_requested=1)
    )


def machine_ids(connection: Connection, group_id: str) -> list[str]:
    """The machines that are there, in id order."""
    return list(
        connection.execute(
            select(t.machines.c.id)
            .where(t.machines.c.group_id == group_id, t.machines.c.lifecycle != Lifecycle.DELETED)
            .order_by(t.machines.c.id)
        ).scalars()
    )


def protected_machines(connection: Connection, group_id: str) -> list[str]:
    return list(
        connection.execute(
            select(t.machines.c.name)
            .where(
                t.machines.c.group_id == group_id,
                t.machines.c.protected == 1,
                t.machines.c.lifecycle != Lifecycle.DELETED,
            )
            .order_by(t.machines.c.name)
        ).scalars()
    )


def remove_if_empty(connection: Connection, group_id: str, *, now: datetime) -> bool:
    """End the removal of a group whose last machine is gone; True if it is removed now.

    For the server's loop, after each plan of a group.  The group's name and its machines' names
    become free; its rollouts and its story stay.
    """
    group = connection.execute(
        select(t.groups.c.name).where(
            t.groups.c.id == group_id, _LIVE, t.groups.c.delete_requested_at.is_not(None)
        )
    ).first()
    if group is None:
        return False
    left = select(t.machines.c.id).where(
        t.machines.c.group_id == group_id, t.machines.c.lifecycle != Lifecycle.DELETED
    )
    busy = select(t.rollouts.c.id).where(
        t.rollouts.c.group_id == group_id, t.rollouts.c.ended_at.is_(None)
    )
    for reason in (left, busy):
        if connection.execute(reason.limit(1)).first() is not None:
            return False
    of_group = select(t.machines.c.id).where(t.machines.c.group_id == group_id)
    connection.execute(delete(t.agents).where(t.agents.c.machine_id.in_(of_group)))
    connection.execute(delete(t.enrol_tokens).where(t.enrol_tokens.c.machine_id.in_(of_group)))
    connection.execute(delete(t.budgets).where(t.budgets.c.group_id == group_id))
    connection.execute(delete(t.holds).where(t.holds.c.group_id == group_id))
    connection.execute(delete(t.arm_documents).where(t.arm_documents.c.key == group_id))
    connection.execute(delete(t.assignments).where(t.assignments.c.group_id == group_id))
    connection.execute(delete(t.alarms).where(t.alarms.c.group_id == group_id))
    connection.execute(delete(t.machine_models).where(t.machine_models.c.group_id == group_id))
    # No name that a person can give has a space in it.
    connection.execute(
        update(t.machines)
        .where(t.machines.c.group_id == group_id)
        .values(name=t.machines.c.name + literal(" of ") + literal(group_id))
    )
    connection.execute(
        update(t.groups)
        .where(t.groups.c.id == group_id)
        .values(deleted_at=to_us(now), wake_at=None, name=f"{group.name} {group_id}")
    )
    return True


def is_removed(connection: Connection, group_id: str, *, scope: str) -> bool | None:
    """Whether the group's removal has ended; None if there never was such a group."""
    row = connection.execute(
        select(t.groups.c.deleted_at).where(t.groups.c.id == group_id, in_scope(scope))
    ).first()
    return None if row is None else row.deleted_at is not None


def awaiting_removal(connection: Connection) -> list[str]:
    """Groups whose removal has been asked for and has not ended."""
    return list(
        connection.execute(
            select(t.groups.c.id).where(and_(_LIVE, t.groups.c.delete_requested_at.is_not(None)))
        ).scalars()
    )
