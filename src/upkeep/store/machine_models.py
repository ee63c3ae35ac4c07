"""The models of groups: what a new OS disk is told at its first boot, by digest, never changed.

Kept are those that something still names (the group, a machine's disks, an action that waits) and
the newest others, so that going back to what was there is a change like any other.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, select, union

from upkeep.store import tables as t
from upkeep.store.database import insert_for, to_us

# Digits of SHA-256 that name a model: short enough to be read out, and no accident in one group.
DIGEST_LENGTH = 12
# Models of a group that are kept though nothing names them.
UNNAMED_MAX = 20

COLUMNS = ("user_data", "scripts")


def digest_of(user_data: bytes | str, scripts: str) -> str:
    """The name of a model; `scripts` is the column's JSON text, written one way only."""
    if isinstance(user_data, str):
        user_data = user_data.encode()  # SQLite gives a column's default back as text.
    lengths = f"{len(user_data)} "
    whole = hashlib.sha256(lengths.encode() + user_data + scripts.encode())
    return whole.hexdigest()[:DIGEST_LENGTH]


def put(
    connection: Connection, group_id: str, values: Mapping[str, Any], *, now: datetime
) -> dict[str, str]:
    """Keep the model that these columns of a group are; what they say of the group's `model`."""
    digest = digest_of(values["user_data"], values["scripts"])
    row = {name: values[name] for name in COLUMNS}
    statement = insert_for(connection, t.machine_models).values(
        group_id=group_id, digest=digest, set_at=to_us(now), **row
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["group_id", "digest"], set_={"set_at": to_us(now)}
        )
    )
    _forget_unnamed(connection, group_id)
    return {"model": digest}


def find(connection: Connection, group_id: str, digest: str) -> Row[Any] | None:
    c = t.machine_models.c
    query = select(t.machine_models).where(c.group_id == group_id, c.digest == digest)
    return connection.execute(query).first()


def _forget_unnamed(connection: Connection, group_id: str) -> None:
    c = t.machine_models.c
    is_open = (t.rollouts.c.group_id == group_id, t.rollouts.c.ended_at.is_(None))
    of_tasks = select(t.tasks.c.model_before).join(
        t.rollouts, t.rollouts.c.id == t.tasks.c.rollout_id
    )
    named = union(
        select(t.machines.c.model).where(t.machines.c.group_id == group_id),
        select(t.machines.c.kept_model).where(t.machines.c.group_id == group_id),
        select(t.actions.c.model).where(
            t.actions.c.group_id == group_id, t.actions.c.ended_at.is_(None)
        ),
        select(t.groups.c.model).where(t.groups.c.id == group_id),
        select(t.groups.c.baked_model).where(t.groups.c.id == group_id),
        select(t.rollouts.c.target).where(*is_open),
        of_tasks.where(*is_open),
    )
    unnamed = (
        select(c.digest)
        .where(c.group_id == group_id, c.digest.not_in(named))
        .order_by(c.set_at.desc(), c.digest)
    )
    old = connection.execute(unnamed.offset(UNNAMED_MAX)).scalars().all()
    if old:
        connection.execute(
            delete(t.machine_models).where(c.group_id == group_id, c.digest.in_(old))
        )
