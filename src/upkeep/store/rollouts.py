"""Rollouts as operators see and stop them.

`paused`, `cancel_requested` and `promoted` of a rollout and `approved` of a task are the operator's
columns: a plan's commit never writes them.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    false,
    func,
    literal,
    not_,
    select,
    tuple_,
    update,
)

from upkeep.core.model import System, Verb
from upkeep.core.task import TaskState
from upkeep.store import tables as t
from upkeep.store.database import to_us
from upkeep.store.groups import in_scope
from upkeep.store.wakes import mark

# Source: Azure shows the last five OS upgrades of two months (sheet os-image §9).
HISTORY_MAX = 5
HISTORY_KEPT = timedelta(days=62)


def _query() -> Select[Any]:
    return select(t.rollouts, t.groups.c.name.label("group_name"), t.groups.c.scope).join(
        t.groups, t.groups.c.id == t.rollouts.c.group_id
    )


def find(connection: Connection, rollout_id: str, *, scope: str = "") -> Row[Any] | None:
    query = _query().where(t.rollouts.c.id == rollout_id, in_scope(scope))
    return connection.execute(query).first()


def read_list(
    connection: Connection,
    *,
    scope: str,
    group_id: str = "",
    state: str = "",
    after: tuple[int, str] | None,
    limit: int,
) -> tuple[list[Row[Any]], bool]:
    """Newest first; the cursor is (started_at, id) of a page's last row."""
    query = _query().where(in_scope(scope))
    if group_id:
        query = query.where(t.rollouts.c.group_id == group_id)
    if state:
        query = query.where(t.rollouts.c.state == state)
    if after is not None:
        query = query.where(
            tuple_(t.rollouts.c.started_at, t.rollouts.c.id)
            < tuple_(literal(after[0]), literal(after[1]))
        )
    query = query.order_by(t.rollouts.c.started_at.desc(), t.rollouts.c.id.desc())
    rows = list(connection.execute(query.limit(limit + 1)))
    return rows[:limit], len(rows) > limit


def history(connection: Connection, group_id: str, *, now: datetime) -> list[Row[Any]]:
    """The open ones and, of each system, the last five that ended within two months; those of a
    version and those of a model are counted apart."""
    of_group = t.rollouts.c.group_id == group_id
    open_rows = connection.execute(
        _query()
        .where(of_group, t.rollouts.c.ended_at.is_(None))
        .order_by(t.rollouts.c.started_at.desc(), t.rollouts.c.id.desc())
    ).all()
    ended: list[Row[Any]] = []
    is_of_model = and_(t.rollouts.c.system == System.OS_IMAGE, t.rollouts.c.verb == Verb.REIMAGE)
    kinds = [is_of_model, *(and_(t.rollouts.c.system == s, not_(is_of_model)) for s in System)]
    for kind in kinds:
        ended += connection.execute(
            _query()
            .where(
                of_group,
                kind,
                t.rollouts.c.ended_at > to_us(now - HISTORY_KEPT),
            )
            .order_by(t.rollouts.c.ended_at.desc(), t.rollouts.c.id.desc())
            .limit(HISTORY_MAX)
        ).all()
    ended.sort(key=lambda row: (row.ended_at, row.id), reverse=True)
    return [*open_rows, *ended]


def open_os_image(connection: Connection, group_ids: Sequence[str]) -> dict[str, str]:
    """The running OS image rollout of each group that has one."""
    rows = connection.execute(
        select(t.rollouts.c.group_id, t.rollouts.c.id).where(
            t.rollouts.c.group_id.in_(group_ids) if group_ids else false(),
            t.rollouts.c.ended_at.is_(None),
            t.rollouts.c.system == System.OS_IMAGE,
        )
    )
    return {row.group_id: row.id for row in rows}


def task_counts(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """Tasks by state, by rollout."""
    rows = connection.execute(
        select(t.tasks.c.rollout_id, t.tasks.c.state, func.count().label("tasks"))
        .where(t.tasks.c.rollout_id.in_(ids) if ids else false())
        .group_by(t.tasks.c.rollout_id, t.tasks.c.state)
        .order_by(t.tasks.c.rollout_id, t.tasks.c.state)
    )
    counts: dict[str, dict[str, int]] = {rollout: {} for rollout in ids}
    for row in rows:
        counts[row.rollout_id][row.state] = row.tasks
    return counts


def tasks(connection: Connection, rollout_id: str) -> list[Row[Any]]:
    """A rollout's machines, in the order of their batches; those not taken yet come last."""
    rows = connection.execute(
        select(t.tasks, t.machines.c.name.label("machine_name"), t.machines.c.zone)
        .outerjoin(t.machines, t.machines.c.id == t.tasks.c.machine_id)
        .where(t.tasks.c.rollout_id == rollout_id)
        .order_by(t.tasks.c.batch == 0, t.tasks.c.batch, t.tasks.c.machine_id)
    )
    return list(rows)


def started_by_call(
    connection: Connection, group_id: str, verb: str, *, since: datetime, machine: str
) -> Row[Any] | None:
    """The rollout that a person's call became: the newest of its kind since the call was made.

    A call for a new OS disk may have become a rollout of a version or of the model.
    """
    of_kind = and_(t.rollouts.c.system == System.OPERATOR, t.rollouts.c.verb == verb)
    if verb == Verb.REPLACE_OS_DISK:
        of_kind = t.rollouts.c.system == System.OS_IMAGE
    query = _query().where(
        t.rollouts.c.group_id == group_id,
        of_kind,
        t.rollouts.c.started_by == "user",
        t.rollouts.c.started_at >= to_us(since),
    )
    if machine:
        query = query.join(
            t.tasks,
            and_(t.tasks.c.rollout_id == t.rollouts.c.id, t.tasks.c.machine_id == machine),
        )
    query = query.order_by(t.rollouts.c.started_at.desc(), t.rollouts.c.id.desc())
    return connection.execute(query.limit(1)).first()


def change(
    connection: Connection,
    rollout: Row[Any],
    *,
    paused: bool | None = None,
    cancel: bool = False,
    promote: bool = False,
    now: datetime,
) -> bool:
    """Pause, resume, promote or cancel; False if it has ended.  Plans in flight are made again."""
    values: dict[str, int] = {}
    if paused is not None:
        values["paused"] = int(paused)
    if promote:
        values["promoted"] = 1
    if cancel:
        # A cancelled rollout that stayed paused would never get to its end.
        values |= {"cancel_requested": 1, "paused": 0}
    done = connection.execute(
        update(t.rollouts)
        .where(t.rollouts.c.id == rollout.id, t.rollouts.c.ended_at.is_(None))
        .values(values)
    )
    if done.rowcount == 0:
        return False
    mark(connection, rollout.group_id, now, raise_fence=True)
    return True


def approve(
    connection: Connection, rollout: Row[Any], machines: Sequence[str] | None, *, now: datetime
) -> int:
    """Let it take the named machines that wait in it, all with None; answers how many waited."""
    waiting = [t.tasks.c.rollout_id == rollout.id, t.tasks.c.state == TaskState.HELD]
    if machines is not None:
        waiting.append(t.tasks.c.machine_id.in_(machines))
    done = connection.execute(update(t.tasks).where(*waiting).values(approved=1))
    if done.rowcount:
        mark(connection, rollout.group_id, now)
    return done.rowcount
