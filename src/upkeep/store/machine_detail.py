"""What the page of one machine reads: the row, its agent, its work, its holds."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from upkeep.core.hold import HoldReason
from upkeep.core.model import Failure, System, Verb
from upkeep.core.task import TaskState
from upkeep.store import tables as t
from upkeep.store.database import from_us, from_us_or_none
from upkeep.store.overview import MachineRow, machine_named

# Works of one machine that are shown, newest first.
TASKS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineHold:
    system: System
    reason: HoldReason
    since: datetime
    until: datetime | None
    lifted_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineTask:
    """One work on the machine, in hand or long over."""

    rollout: str
    verb: Verb
    target: str
    previous: str
    batch: int
    state: TaskState
    since: datetime
    failure: Failure
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineAction:
    """What the executor has in hand or waits to do.

    Attributes:
        state: of the journal's row, `ready` or `leased`.
        detail: what the last attempt said.
    """

    key: str
    verb: Verb
    state: str
    attempts: int
    since: datetime
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineDetail:
    """One machine with all that is said of it.

    Attributes:
        facts: what is known, as label and text, in the order in which it is shown.
        budgets: names of the budgets in which it holds a place now.
    """

    machine: MachineRow
    group: str
    facts: tuple[tuple[str, str], ...]
    seen_at: datetime | None
    busy: str
    conflict: str
    actions: tuple[MachineAction, ...]
    holds: tuple[MachineHold, ...]
    tasks: tuple[MachineTask, ...]
    budgets: tuple[str, ...]


def read_machine(connection: Connection, name: str, *, scope: str = "") -> MachineDetail | None:
    """The machine, or None if there is none of that name in the scope."""
    machine = machine_named(connection, name)
    if machine is None:
        return None
    group = connection.execute(select(t.groups).where(t.groups.c.id == machine.group)).first()
    if group is None or (scope and group.scope != scope):
        return None
    row = connection.execute(select(t.machines).where(t.machines.c.id == machine.id)).one()
    agent = connection.execute(select(t.agents).where(t.agents.c.machine_id == machine.id)).first()
    return MachineDetail(
        machine=machine,
        group=group.name,
        facts=_facts(row, agent),
        seen_at=from_us_or_none(agent.seen_at) if agent else None,
        busy=agent.busy if agent else "",
        conflict=agent.conflict if agent else "",
        actions=_actions(connection, machine.id),
        holds=_holds(connection, machine.id),
        tasks=_tasks(connection, machine.id),
        budgets=_budgets(connection, machine.id),
    )


def _facts(row: Any, agent: Any) -> tuple[tuple[str, str], ...]:
    facts = [
        ("version", row.image),
        ("kept version", row.kept),
        ("model", row.model),
        ("zone", row.zone),
        ("update domain", str(row.update_domain)),
        ("fault domain", str(row.fault_domain)),
        ("host", row.host),
        ("address", row.address),
        ("starts", str(row.boots)),
        ("protected", "yes" if row.protected else ""),
        ("kept at scale-in", "yes" if row.scale_in_protected else ""),
        ("opted out", "yes" if row.opted_out else ""),
        ("asks to be skipped", "yes" if row.skip else ""),
        ("rolling phase", "" if row.phase is None else str(row.phase)),
        ("hardware id", row.uuid),
    ]
    if agent is not None:
        facts += [
            ("operating system", agent.os),
            ("agent", agent.agent_version),
            ("first boot", " ".join((agent.first_boot, agent.first_boot_detail)).strip()),
            ("needs a reboot", agent.reboot_required),
        ]
    return tuple((label, text) for label, text in facts if text)


def _actions(connection: Connection, machine: str) -> tuple[MachineAction, ...]:
    a = t.actions.c
    rows = connection.execute(
        select(t.actions)
        .where(a.machine_id == machine, a.ended_at.is_(None))
        .order_by(a.created_at, a.key)
    )
    return tuple(
        MachineAction(
            key=row.key,
            verb=Verb(row.verb),
            state=row.state,
            attempts=row.attempts,
            since=from_us(row.started_at or row.created_at),
            detail=row.detail,
        )
        for row in rows
    )


def _holds(connection: Connection, machine: str) -> tuple[MachineHold, ...]:
    rows = connection.execute(
        select(t.holds).where(t.holds.c.machine_id == machine).order_by(t.holds.c.system)
    )
    return tuple(
        MachineHold(
            system=System(row.system),
            reason=HoldReason(row.reason),
            since=from_us(row.since),
            until=from_us_or_none(row.until),
            lifted_by=row.lifted_by,
        )
        for row in rows
    )


def _tasks(connection: Connection, machine: str) -> tuple[MachineTask, ...]:
    k, r = t.tasks.c, t.rollouts.c
    rows = connection.execute(
        select(t.tasks, r.verb, r.target)
        .join(t.rollouts, r.id == k.rollout_id)
        .where(k.machine_id == machine)
        .order_by(r.started_at.desc(), r.id.desc())
        .limit(TASKS_MAX)
    )
    return tuple(
        MachineTask(
            rollout=row.rollout_id,
            verb=Verb(row.verb),
            target=row.target,
            previous=row.previous,
            batch=row.batch,
            state=TaskState(row.state),
            since=from_us(row.state_since),
            failure=Failure(row.failure),
            detail=row.detail,
        )
        for row in rows
    )


def _budgets(connection: Connection, machine: str) -> tuple[str, ...]:
    rows = connection.execute(
        select(t.budgets.c.name)
        .join(t.claims, t.claims.c.budget_id == t.budgets.c.id)
        .where(t.claims.c.machine_id == machine)
        .order_by(t.budgets.c.name)
    )
    return tuple(rows.scalars())
