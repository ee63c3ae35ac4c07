"""Machines as operators see and change them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    false,
    insert,
    or_,
    select,
    update,
)

from upkeep.core.model import Health, Lifecycle
from upkeep.store import tables as t
from upkeep.store.budget_rows import recount
from upkeep.store.database import to_us
from upkeep.store.groups import in_scope
from upkeep.store.paging import read_page

_AGENT_COLUMNS = tuple(
    column.label(f"agent_{column.name}") for column in t.agents.c if column.name != "secret_hash"
)


def _query() -> Select[Any]:
    return (
        select(
            t.machines,
            t.groups.c.name.label("group_name"),
            t.groups.c.scope,
            t.groups.c.platform,
            *_AGENT_COLUMNS,
        )
        .join(t.groups, t.groups.c.id == t.machines.c.group_id)
        .outerjoin(t.agents, t.agents.c.machine_id == t.machines.c.id)
        .where(t.machines.c.lifecycle != Lifecycle.DELETED)
    )


def find(connection: Connection, name: str, *, scope: str = "") -> Row[Any] | None:
    """A machine that is there, by name or id, with its group and its agent."""
    query = _query().where(or_(t.machines.c.name == name, t.machines.c.id == name), in_scope(scope))
    return connection.execute(query).first()


def read_list(
    connection: Connection,
    *,
    scope: str,
    group_id: str = "",
    state: str = "",
    after: str | None,
    limit: int,
) -> tuple[list[Row[Any]], bool]:
    """By name.  `state` is a lifecycle or a health; a health means machines that are present."""
    query = _query().where(in_scope(scope))
    if group_id:
        query = query.where(t.machines.c.group_id == group_id)
    if state:
        query = query.where(_in_state(state))
    return read_page(connection, query, t.machines.c.name, after=after, limit=limit)


def of_group(connection: Connection, group_id: str) -> list[Row[Any]]:
    """All machines of a group that are there: id, name, lifecycle, image, model; by name."""
    m = t.machines.c
    query = select(m.id, m.name, m.lifecycle, m.image, m.model).where(
        m.group_id == group_id, m.lifecycle != Lifecycle.DELETED
    )
    return list(connection.execute(query.order_by(m.name)))


def names(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    """By id; those that are gone keep the name that they had."""
    rows = connection.execute(
        select(t.machines.c.id, t.machines.c.name).where(
            t.machines.c.id.in_(ids) if ids else false()
        )
    )
    return {row.id: row.name for row in rows}


def _in_state(state: str) -> ColumnElement[bool]:
    if state in set(Health):
        return and_(t.machines.c.health == state, t.machines.c.lifecycle == Lifecycle.PRESENT)
    return t.machines.c.lifecycle == state


def add_existing(
    connection: Connection,
    *,
    machine_id: str,
    group_id: str,
    name: str,
    zone: str,
    now: datetime,
) -> bool:
    """A machine that is there already joins a group; False if its name is taken.

    It begins UNKNOWN: nobody has heard of it until its agent enrols.
    """
    known = connection.execute(
        select(t.machines.c.id, t.machines.c.lifecycle).where(t.machines.c.name == name)
    ).first()
    if known is not None:
        if known.lifecycle != Lifecycle.DELETED:
            return False
        # The name of a machine that is gone is free again; no given name has a space in it.
        connection.execute(
            update(t.machines).where(t.machines.c.id == known.id).values(name=f"{name} {known.id}")
        )
    connection.execute(
        insert(t.machines).values(
            id=machine_id,
            group_id=group_id,
            name=name,
            zone=zone,
            lifecycle=Lifecycle.PRESENT,
            health=Health.UNKNOWN,
            health_since=to_us(now),
            watch_from=to_us(now),
            created_at=to_us(now),
        )
    )
    recount(connection, [machine_id], now=now)
    return True


def change_flags(connection: Connection, machine_id: str, flags: Mapping[str, bool | None]) -> None:
    """`protected`, `scale_in_protected`, `opted_out`; None leaves one as it is."""
    values = {name: int(value) for name, value in flags.items() if value is not None}
    if values:
        connection.execute(update(t.machines).where(t.machines.c.id == machine_id).values(values))


def action_in_hand(connection: Connection, machine_id: str) -> Row[Any] | None:
    """The action on the machine that has begun or is about to, the oldest first."""
    return connection.execute(
        select(t.actions)
        .where(t.actions.c.machine_id == machine_id, t.actions.c.ended_at.is_(None))
        .order_by(t.actions.c.created_at, t.actions.c.key)
        .limit(1)
    ).first()


def task_in_hand(connection: Connection, machine_id: str) -> Row[Any] | None:
    """The machine's task in an open rollout that has gone furthest (not merely held)."""
    return connection.execute(
        select(t.tasks, t.rollouts.c.system, t.rollouts.c.verb, t.rollouts.c.target)
        .join(t.rollouts, t.rollouts.c.id == t.tasks.c.rollout_id)
        .where(
            t.tasks.c.machine_id == machine_id,
            t.rollouts.c.ended_at.is_(None),
            t.tasks.c.state.in_(
                ("announced", "draining", "running", "verifying", "baking", "rolling_back")
            ),
        )
        .order_by(t.tasks.c.state_since.desc())
        .limit(1)
    ).first()
