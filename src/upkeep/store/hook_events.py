"""What rollouts ask at their lifecycle hooks; people answer, plans put and close the questions."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, select, update

from upkeep.core.hook_event import Answer, HookEvent, HookKind
from upkeep.core.model import MachineId, RolloutId
from upkeep.store import groups
from upkeep.store import tables as t
from upkeep.store.database import from_us, to_us, upsert
from upkeep.store.wakes import mark

# Of a group; a rollout asks once before each batch.
SHOWN_MAX = 100


def read(connection: Connection, rollouts: Sequence[str]) -> tuple[HookEvent, ...]:
    """Of these rollouts, in order, the closed ones too."""
    if not rollouts:
        return ()
    e, a = t.hook_events.c, t.hook_answers.c
    rows = connection.execute(select(t.hook_events).where(e.rollout_id.in_(rollouts))).all()
    if not rows:
        return ()
    answers: dict[tuple[str, int], dict[MachineId, Answer]] = {}
    for row in connection.execute(
        select(t.hook_answers).where(a.rollout_id.in_(rollouts)).order_by(a.machine_id)
    ):
        found = answers.setdefault((row.rollout_id, row.serial), {})
        found[MachineId(row.machine_id)] = Answer(row.answer)
    return tuple(
        HookEvent(
            rollout=RolloutId(row.rollout_id),
            serial=row.serial,
            kind=HookKind(row.kind),
            created_at=from_us(row.created_at),
            wait_until=from_us(row.wait_until),
            approves=bool(row.approves),
            answers=answers.get((row.rollout_id, row.serial), {}),
            closed=bool(row.closed),
        )
        for row in sorted(rows, key=lambda row: (row.rollout_id, row.serial))
    )


def write(connection: Connection, events: Sequence[HookEvent], *, group_id: str) -> None:
    """As a plan has put or closed them.  It has seen every answer: the group's fence says so."""
    rows = [
        {
            **_key(event),
            "group_id": group_id,
            "kind": event.kind,
            "created_at": to_us(event.created_at),
            "wait_until": to_us(event.wait_until),
            "approves": int(event.approves),
            "closed": int(event.closed),
        }
        for event in events
    ]
    upsert(connection, t.hook_events, rows)
    for event in events:
        _write_answers(connection, event, event.answers)


def of_group(connection: Connection, group_id: str) -> list[HookEvent]:
    """What its rollouts have asked lately, newest first."""
    e = t.hook_events.c
    rows = connection.execute(
        select(e.rollout_id, e.serial)
        .where(e.group_id == group_id)
        .order_by(e.created_at.desc(), e.serial.desc())
        .limit(SHOWN_MAX)
    )
    wanted = {(row.rollout_id, row.serial) for row in rows}
    found = read(connection, sorted({rollout for rollout, _ in wanted}))
    return _newest_first(event for event in found if (event.rollout, event.serial) in wanted)


def still_open(connection: Connection, *, scope: str) -> list[HookEvent]:
    """All that wait for an answer, in the groups of a scope; newest first."""
    e = t.hook_events.c
    query = (
        select(e.rollout_id)
        .distinct()
        .join(t.groups, t.groups.c.id == e.group_id)
        .where(e.closed == 0, groups.in_scope(scope))
    )
    found = read(connection, list(connection.execute(query).scalars()))
    return _newest_first(event for event in found if not event.closed)


def _newest_first(events: Iterable[HookEvent]) -> list[HookEvent]:
    return sorted(events, key=lambda event: (event.created_at, event.serial), reverse=True)


def find(connection: Connection, rollout: str, serial: int) -> HookEvent | None:
    return next((e for e in read(connection, [rollout]) if e.serial == serial), None)


def answer(
    connection: Connection,
    event: HookEvent,
    answers: Mapping[MachineId, Answer],
    *,
    group_id: str,
    now: datetime,
) -> None:
    """Plans in flight fail: one may just be taking silence for an answer."""
    _write_answers(connection, event, answers)
    mark(connection, group_id, now, raise_fence=True)


def move_end(
    connection: Connection, event: HookEvent, wait_until: datetime, *, group_id: str, now: datetime
) -> None:
    e = t.hook_events.c
    connection.execute(
        update(t.hook_events)
        .where(and_(e.rollout_id == event.rollout, e.serial == event.serial))
        .values(wait_until=to_us(wait_until))
    )
    mark(connection, group_id, now, raise_fence=True)


def group_of(connection: Connection, rollout: str, *, scope: str) -> Row[Any] | None:
    """The group whose rollout it is; None also if it is out of the token's scope."""
    query = (
        select(t.groups)
        .join(t.rollouts, t.rollouts.c.group_id == t.groups.c.id)
        .where(t.rollouts.c.id == rollout, groups.in_scope(scope))
    )
    return connection.execute(query).first()


def _write_answers(
    connection: Connection, event: HookEvent, answers: Mapping[MachineId, Answer]
) -> None:
    rows = [{**_key(event), "machine_id": m, "answer": a} for m, a in sorted(answers.items())]
    upsert(connection, t.hook_answers, rows)


def _key(event: HookEvent) -> dict[str, Any]:
    return {"rollout_id": event.rollout, "serial": event.serial}
