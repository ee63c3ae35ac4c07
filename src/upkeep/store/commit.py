"""Writes one plan: state change and journal in one transaction, or nothing.

What the plan relied on is checked first, under lock: the group's fence (another planner may have
been faster) and the version of every budget in which places are taken (another group may have
taken the last one).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, insert, select, tuple_, update

from upkeep.core.hold import Hold
from upkeep.core.model import Group, Lifecycle, Machine, Rollout, Task
from upkeep.core.snapshot import Action, Plan
from upkeep.engine.fleet_store import REVOKED, ReadMark
from upkeep.store import hook_events
from upkeep.store import tables as t
from upkeep.store.budget_rows import lock_budgets, recount
from upkeep.store.database import insert_ignoring, to_us, to_us_or_none, upsert
from upkeep.store.policies import policy_to_json

# Lines of a group's history that are kept.
STORY_LINES_MAX = 2_000


def write_plan(connection: Connection, plan: Plan, read: ReadMark, *, now: datetime) -> bool:
    """See `FleetStore.commit_plan`.  Locks in the order of budget_rows.py."""
    touched = _recounted(plan)
    versions = lock_budgets(
        connection, touched, new=_places_of_new(plan), also=plan.budget_versions
    )
    group = connection.execute(
        select(t.groups.c.fence, t.groups.c.marks)
        .where(t.groups.c.id == plan.group.id, t.groups.c.deleted_at.is_(None))
        .with_for_update()
    ).first()
    if group is None or group.fence != read.fence:
        return False
    if any(versions.get(budget) != version for budget, version in plan.budget_versions.items()):
        return False
    _write_machines(connection, plan.machines, plan, now)
    upsert(connection, t.rollouts, [_rollout_row(r) for r in plan.rollouts])
    upsert(connection, t.tasks, [_task_row(task) for task in plan.tasks])
    hook_events.write(connection, plan.hook_events, group_id=plan.group.id)
    _write_claims(connection, plan, now)
    _write_actions(connection, plan.actions, now)
    _revoke(connection, plan.revoked, now)
    _write_holds(connection, plan, now)
    _close_calls(connection, plan)
    _write_story(connection, plan, now)
    recount(connection, touched, now=now, planned=plan.group.id)
    still_due = group.marks != read.marks
    connection.execute(
        update(t.groups)
        .where(t.groups.c.id == plan.group.id)
        .values(
            capacity=plan.group.capacity,
            baked=plan.group.baked,
            baked_model=plan.group.baked_model,
            next_ordinal=plan.group.next_ordinal,
            next_rollout=plan.group.next_rollout,
            repairs_suspended_at=_suspended_at(plan.group),
            fence=read.fence + 1,
            planned_at=to_us(now),
            wake_at=to_us(now) if still_due else to_us_or_none(plan.next_wake),
            parked_until=None,
        )
    )
    return True


def _suspended_at(group: Group) -> int | None:
    return None if group.repairs is None else to_us_or_none(group.repairs.suspended_at)


@dataclass(frozen=True, slots=True)
class _Place:
    group_id: str
    zone: str
    host: str


def _places_of_new(plan: Plan) -> list[_Place]:
    return [
        _Place(plan.group.id, machine.zone, machine.host)
        for machine in plan.machines
        if machine.lifecycle is Lifecycle.CREATING
    ]


def _recounted(plan: Plan) -> list[str]:
    ids = {m.id for m in plan.machines}
    ids.update(claim.machine for claim in plan.claims)
    ids.update(machine for _, machine in plan.released)
    return sorted(ids)


def _write_machines(
    connection: Connection, machines: Sequence[Machine], plan: Plan, now: datetime
) -> None:
    known = set()
    if machines:
        known = set(
            connection.execute(
                select(t.machines.c.id).where(t.machines.c.id.in_([m.id for m in machines]))
            ).scalars()
        )
    for machine in machines:
        if machine.id in known:
            # Observed columns belong to sightings: the plan may have read them a moment ago.
            connection.execute(
                update(t.machines)
                .where(t.machines.c.id == machine.id)
                .values(
                    lifecycle=machine.lifecycle,
                    worked_at=to_us_or_none(machine.worked_at),
                )
            )
        else:
            connection.execute(insert(t.machines).values(_machine_row(machine, plan, now)))
        if machine.lifecycle is Lifecycle.DELETED:
            connection.execute(delete(t.claims).where(t.claims.c.machine_id == machine.id))
            connection.execute(delete(t.holds).where(t.holds.c.machine_id == machine.id))


def _machine_row(machine: Machine, plan: Plan, now: datetime) -> dict[str, Any]:
    return {
        "id": machine.id,
        "group_id": plan.group.id,
        "name": machine.name,
        "zone": machine.zone,
        "update_domain": machine.update_domain,
        "fault_domain": machine.fault_domain,
        "host": machine.host,
        "lifecycle": machine.lifecycle,
        "image": machine.image,
        "health": machine.health,
        "health_since": to_us(machine.health_since),
        "watch_from": to_us(now),
        "created_at": to_us(now),
    }


def _rollout_row(rollout: Rollout) -> dict[str, Any]:
    return {
        "id": rollout.id,
        "group_id": rollout.group,
        "system": rollout.system,
        "verb": rollout.verb,
        "target": rollout.target,
        "policy": policy_to_json(rollout.policy),
        "size": rollout.size,
        "state": rollout.state,
        "started_by": rollout.started_by,
        "started_at": to_us(rollout.started_at),
        "ended_at": to_us_or_none(rollout.ended_at),
        "batch": rollout.batch,
        "begun_at": to_us_or_none(rollout.begun_at),
        "batch_closed_at": to_us_or_none(rollout.batch_closed_at),
        "force": int(rollout.force),
        "guilty": int(rollout.guilty),
        "code": rollout.code,
        "evidence": rollout.evidence,
    }


def _task_row(task: Task) -> dict[str, Any]:
    return {
        "rollout_id": task.rollout,
        "machine_id": task.machine,
        "state": task.state,
        "state_since": to_us(task.state_since),
        "clock_from": to_us(task.clock_from),
        "batch": task.batch,
        "not_before": to_us_or_none(task.not_before),
        "previous": task.previous,
        "boots_before": task.boots_before,
        "repair": int(task.repair),
        "attempt": task.attempt,
        "failure": task.failure,
        "healed": int(task.healed),
        "surge": int(task.surge),
        "stand_in": task.stand_in,
        "model": task.model,
        "model_before": task.model_before,
        "detail": task.detail,
    }


def _write_claims(connection: Connection, plan: Plan, now: datetime) -> None:
    if plan.released:
        connection.execute(
            delete(t.claims).where(
                tuple_(t.claims.c.budget_id, t.claims.c.machine_id).in_(plan.released)
            )
        )
    if not plan.claims:
        return
    connection.execute(
        insert(t.claims),
        [
            {
                "budget_id": claim.budget,
                "machine_id": claim.machine,
                "rollout_id": claim.rollout,
                "taken_at": to_us(claim.taken_at),
                "overdraft": int(claim.overdraft),
            }
            for claim in plan.claims
        ],
    )
    rated = set(
        connection.execute(
            select(t.budgets.c.id).where(
                t.budgets.c.id.in_({c.budget for c in plan.claims}), t.budgets.c.rate > 0
            )
        ).scalars()
    )
    _forget_old_starts(connection, sorted(rated), now)
    starts = [{"budget_id": c.budget, "at": to_us(now)} for c in plan.claims if c.budget in rated]
    if starts:
        connection.execute(insert(t.starts), starts)


def _forget_old_starts(connection: Connection, budgets: list[str], now: datetime) -> None:
    """Those that no rate counts any more."""
    for budget in connection.execute(
        select(t.budgets.c.id, t.budgets.c.rate_period_us).where(t.budgets.c.id.in_(budgets))
    ).all():
        connection.execute(
            delete(t.starts).where(
                t.starts.c.budget_id == budget.id,
                t.starts.c.at <= to_us(now) - budget.rate_period_us,
            )
        )


def _write_actions(connection: Connection, actions: Sequence[Action], now: datetime) -> None:
    """Intents, in key order (unsorted, two writers could lock each other out)."""
    if not actions:
        return
    connection.execute(
        insert_ignoring(connection, t.actions, ["key"]),
        [
            {
                "key": action.key,
                "group_id": action.group,
                "machine_id": action.machine,
                "rollout_id": action.rollout,
                "verb": action.verb,
                "version": action.version,
                "model": action.model,
                "state": "ready",
                "ready_at": to_us(now),
                "created_at": to_us(now),
            }
            for action in sorted(actions, key=lambda action: action.key)
        ],
    )


def _revoke(connection: Connection, keys: Sequence[str], now: datetime) -> None:
    """Commands that wait for their agents and are wanted no more; what has ended stays as it is."""
    if not keys:
        return
    connection.execute(
        update(t.actions)
        .where(t.actions.c.key == bindparam("revoked"), t.actions.c.ended_at.is_(None))
        .values(state="failed", detail=REVOKED, ended_at=to_us(now)),
        [{"revoked": key} for key in keys],
    )


def _write_holds(connection: Connection, plan: Plan, now: datetime) -> None:
    """Only differences are written; `since` stays while the reason stays."""
    known = {
        (row.machine_id, row.system): row
        for row in connection.execute(select(t.holds).where(t.holds.c.group_id == plan.group.id))
    }
    wanted: dict[tuple[str, str], Hold] = {}
    for hold in plan.holds:
        wanted.setdefault((hold.machine, hold.system), hold)
    lifted = [key for key in known if key not in wanted]
    if lifted:
        connection.execute(
            delete(t.holds).where(tuple_(t.holds.c.machine_id, t.holds.c.system).in_(lifted))
        )
    changed = []
    for key, hold in sorted(wanted.items()):
        before = known.get(key)
        same_reason = before is not None and before.reason == hold.reason
        row = {
            "machine_id": hold.machine,
            "system": hold.system,
            "group_id": plan.group.id,
            "reason": hold.reason,
            "since": before.since if before is not None and same_reason else to_us(now),
            "until": to_us_or_none(hold.until),
            "lifted_by": hold.lifted_by,
            "budget_id": hold.budget,
            "priority": int(hold.priority),
        }
        if before is None or any(getattr(before, name) != value for name, value in row.items()):
            changed.append(row)
    upsert(connection, t.holds, changed)


def _close_calls(connection: Connection, plan: Plan) -> None:
    for call, refusal in plan.calls_done:
        connection.execute(
            update(t.calls)
            .where(t.calls.c.id == call)
            .values(state="refused" if refusal else "accepted", refusal=refusal)
        )


def _write_story(connection: Connection, plan: Plan, now: datetime) -> None:
    if not plan.story:
        return
    connection.execute(
        insert(t.story),
        [{"group_id": plan.group.id, "at": to_us(now), "line": line} for line in plan.story],
    )
    oldest = connection.execute(
        select(t.story.c.id)
        .where(t.story.c.group_id == plan.group.id)
        .order_by(t.story.c.id.desc())
        .offset(STORY_LINES_MAX)
        .limit(1)
    ).scalar()
    if oldest is not None:
        connection.execute(
            delete(t.story).where(and_(t.story.c.group_id == plan.group.id, t.story.c.id <= oldest))
        )
