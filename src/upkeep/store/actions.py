"""The journal of actions: claimed in small batches by any replica, fenced, kept by key.

Rules learnt by measuring (DESIGN §6): claims take rows with SKIP LOCKED on PostgreSQL, apart from
the sweep for leases that have run out; a heartbeat never shortens a lease.  A fence is drawn from
the machine's own counter, so it rises over all actions of one machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    case,
    exists,
    or_,
    select,
    update,
)

from upkeep.core.health import AGENT_VERBS, renews_health
from upkeep.core.model import GroupId, Health, Lifecycle, MachineId, RolloutId, Verb
from upkeep.core.snapshot import Action
from upkeep.engine.fleet_store import AGENT, ActionResult, LeasedAction
from upkeep.ports import DriverErrorKind, MachineStatus, Power
from upkeep.store import tables as t
from upkeep.store.budget_rows import lock_budgets, recount
from upkeep.store.database import to_us
from upkeep.store.wakes import mark


def claimable(now: datetime) -> tuple[Select[Any], Select[Any]]:
    """Keys of what nobody performs any more, soonest first, and of what nobody has begun."""
    row = t.actions.c
    expired = (
        select(row.key)
        .where(row.state == "leased", row.lease_until <= to_us(now))
        .order_by(row.lease_until, row.key)
    )
    ready = (
        select(row.key)
        .where(row.state == "ready", row.ready_at <= to_us(now), row.verb.not_in(AGENT_VERBS))
        .order_by(row.ready_at, row.key)
    )
    return expired, ready


def claim(
    connection: Connection, owner: str, *, now: datetime, lease_until: datetime, limit: int
) -> list[LeasedAction]:
    """See `FleetStore.claim_actions`."""
    keys: list[str] = []
    for query in claimable(now):
        if len(keys) < limit:
            rows = query.limit(limit - len(keys)).with_for_update(skip_locked=True)
            keys += connection.execute(rows).scalars()
    keys = _of_present(connection, sorted(keys), now)
    machines = select(t.actions.c.machine_id).where(t.actions.c.key.in_(keys)).distinct()
    lock_budgets(connection, connection.execute(machines).scalars().all())
    return [_lease(connection, key, owner, now, lease_until) for key in keys]


def _of_present(connection: Connection, keys: list[str], now: datetime) -> list[str]:
    """Those whose machine is still there; nobody performs the others any more."""
    gone = set(
        connection.execute(
            select(t.actions.c.key)
            .join(t.machines, t.machines.c.id == t.actions.c.machine_id)
            .where(t.actions.c.key.in_(keys), t.machines.c.lifecycle == Lifecycle.DELETED)
        ).scalars()
    )
    if gone:
        connection.execute(
            update(t.actions)
            .where(t.actions.c.key.in_(gone))
            .values(state="cancelled", ended_at=to_us(now), lease_until=None)
        )
    return [key for key in keys if key not in gone]


def _lease(
    connection: Connection, key: str, owner: str, now: datetime, lease_until: datetime
) -> LeasedAction:
    row = connection.execute(
        select(
            t.actions,
            t.machines.c.name.label("machine_name"),
            t.machines.c.fence.label("machine_fence"),
            t.groups.c.platform,
            t.groups.c.image_name,
        )
        .select_from(
            t.actions.join(t.machines, t.machines.c.id == t.actions.c.machine_id).join(
                t.groups, t.groups.c.id == t.actions.c.group_id
            )
        )
        .where(t.actions.c.key == key)
    ).one()
    fence = row.machine_fence + 1
    machine_values: dict[str, Any] = {"fence": fence, "in_work": 1}
    if renews_health(Verb(row.verb)):
        machine_values |= _renewed(now)
    connection.execute(
        update(t.machines).where(t.machines.c.id == row.machine_id).values(machine_values)
    )
    recount(connection, [row.machine_id], now=now)
    connection.execute(
        update(t.actions)
        .where(t.actions.c.key == key)
        .values(
            state="leased",
            owner=owner,
            fence=fence,
            attempts=row.attempts + 1,
            lease_until=to_us(lease_until),
            started_at=row.started_at or to_us(now),
        )
    )
    return LeasedAction(
        action=action_from(row),
        fence=fence,
        attempts=row.attempts + 1,
        machine_name=row.machine_name,
        platform=row.platform,
        image_name=row.image_name,
        was_with_agent=row.owner == AGENT,
    )


def _renewed(now: datetime) -> dict[str, Any]:
    """Health begins anew; if it was about to already, since then."""
    m = t.machines.c
    since = case((m.health == Health.INITIALIZING, m.health_since), else_=to_us(now))
    return {"health": Health.INITIALIZING, "health_since": since}


def action_from(row: Row[Any]) -> Action:
    return Action(
        key=row.key,
        group=GroupId(row.group_id),
        machine=MachineId(row.machine_id),
        rollout=RolloutId(row.rollout_id),
        verb=Verb(row.verb),
        version=row.version,
        model=row.model,
    )


def give_to_agent(
    connection: Connection, key: str, *, fence: int, lease_until: datetime
) -> str | None:
    """See `FleetStore.give_to_agent`; the group whose agents have new mail."""
    mine = (t.actions.c.key == key, t.actions.c.fence == fence, t.actions.c.state == "leased")
    group = connection.execute(select(t.actions.c.group_id).where(*mine)).scalar()
    connection.execute(
        update(t.actions).where(*mine).values(owner=AGENT, lease_until=to_us(lease_until))
    )
    return group


def extend_lease(connection: Connection, key: str, *, fence: int, lease_until: datetime) -> bool:
    mine = (t.actions.c.key == key, t.actions.c.fence == fence, t.actions.c.state == "leased")
    if connection.execute(select(t.actions.c.key).where(*mine)).first() is None:
        return False
    connection.execute(
        update(t.actions)
        .where(*mine, t.actions.c.lease_until < to_us(lease_until))
        .values(lease_until=to_us(lease_until))
    )
    return True


def retry(
    connection: Connection, key: str, *, fence: int, result: ActionResult, not_before: datetime
) -> None:
    connection.execute(
        update(t.actions)
        .where(t.actions.c.key == key, t.actions.c.fence == fence, t.actions.c.state == "leased")
        .values(
            state="ready",
            ready_at=to_us(not_before),
            lease_until=None,
            kind=result.kind,
            detail=result.detail,
        )
    )


def finish(
    connection: Connection, key: str, *, fence: int, result: ActionResult, now: datetime
) -> tuple[str | None, bool]:
    """Record the outcome once; the group that was marked, and whether the fence was the present."""
    row = connection.execute(
        select(t.actions).where(t.actions.c.key == key).with_for_update()
    ).first()
    if row is None:
        return None, False
    is_mine = row.fence == fence and row.state == "leased"
    lock_budgets(connection, [row.machine_id])
    mark(connection, row.group_id, now)
    _write_status(connection, row.machine_id, result.status)
    if is_mine:
        _end(connection, key, result, now)
        _begin_watch(connection, row.machine_id, now)
    return str(row.group_id), is_mine


def _end(connection: Connection, key: str, result: ActionResult, now: datetime) -> None:
    connection.execute(
        update(t.actions)
        .where(t.actions.c.key == key)
        .values(
            state="succeeded" if result.succeeded else "failed",
            kind=result.kind,
            detail=result.detail,
            ended_at=to_us(now),
            lease_until=None,
        )
    )


def _write_status(connection: Connection, machine: str, status: MachineStatus | None) -> None:
    """What the platform said of the machine is true whoever asked, unless it is old.

    Fewer starts than are known mean that it was said before the last work.
    """
    if status is None or status.power in (Power.ABSENT, Power.UNKNOWN):
        return
    m = t.machines.c
    connection.execute(
        update(t.machines)
        .where(m.id == machine, m.boots <= status.boots, m.lifecycle != Lifecycle.DELETED)
        .values(
            image=status.image_version,
            kept=status.kept_version,
            model=status.model,
            kept_model=status.kept_model,
            boots=status.boots,
            address=status.address,
            powered_off=int(status.power is Power.OFF),
        )
    )


def _begin_watch(connection: Connection, machine: str, now: datetime) -> None:
    """An action has ended: whatever it did, what was seen before it says nothing of now."""
    begun = exists(
        select(t.actions.c.key).where(
            t.actions.c.machine_id == machine,
            t.actions.c.ended_at.is_(None),
            t.actions.c.attempts > 0,
        )
    )
    connection.execute(
        update(t.machines)
        .where(t.machines.c.id == machine, t.machines.c.lifecycle != Lifecycle.DELETED)
        .values(in_work=case((begun, 1), else_=0), watch_from=to_us(now), **_renewed(now))
    )
    recount(connection, [machine], now=now)


def waits_for_agent() -> ColumnElement[bool]:
    """Rows that a machine's agent is offered: its own verbs, and what was given to it."""
    row = t.actions.c
    return or_(
        and_(row.state == "ready", row.verb.in_(AGENT_VERBS)),
        and_(row.state == "leased", row.owner == AGENT),
    )


def mailbox(connection: Connection, machine: str) -> Sequence[Row[Any]]:
    """The commands that wait for a machine's agent, oldest first.

    `machine_fence` is what to send: an agent refuses a command with a lower fence than the
    highest it has seen, whatever action that belonged to.
    """
    return connection.execute(
        select(t.actions, t.machines.c.fence.label("machine_fence"))
        .join(t.machines, t.machines.c.id == t.actions.c.machine_id)
        .where(t.actions.c.machine_id == machine, waits_for_agent())
        .order_by(t.actions.c.created_at, t.actions.c.key)
    ).all()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An action that an agent has ended.

    Attributes:
        renews_health: what was seen of the machine before is worth nothing.
    """

    group: str
    renews_health: bool


def finish_by_agent(
    connection: Connection, machine: str, key: str, *, succeeded: bool, detail: str, now: datetime
) -> Answered | None:
    """An agent says how a command ended that it was offered; None if it was not, or has ended."""
    row = connection.execute(
        select(t.actions.c.group_id, t.actions.c.verb)
        .where(t.actions.c.key == key, t.actions.c.machine_id == machine, waits_for_agent())
        .with_for_update()
    ).first()
    if row is None:
        return None
    renews = renews_health(Verb(row.verb))
    if renews:
        lock_budgets(connection, [machine])
    kind = "" if succeeded else DriverErrorKind.FAILED
    _end(connection, key, ActionResult(succeeded=succeeded, kind=kind, detail=detail), now)
    if renews:
        _begin_watch(connection, machine, now)
    return Answered(group=str(row.group_id), renews_health=renews)
