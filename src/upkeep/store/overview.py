"""What the page reads: a fixed number of queries for the whole fleet, whatever its size.

Machines are counted by the database; single rows are read only of machines that are down (they
are what a person asks about) and of the groups whose cells are drawn.  Nothing here decides or
words anything: `upkeep.web` does.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, case, exists, func, or_, select

from upkeep.core.alarm import AlarmState
from upkeep.core.budget import allowed_down
from upkeep.core.hold import HoldReason
from upkeep.core.model import Budget, BudgetId, Health, Lifecycle, System, Verb
from upkeep.core.model import RolloutCode as Code
from upkeep.core.model import RolloutState as State
from upkeep.core.task import IN_HAND, TaskState
from upkeep.store import tables as t
from upkeep.store.database import from_us, from_us_or_none, to_us
from upkeep.store.selectors import selects

# Down machines that are read as rows; the rest are in the counts.
ALARMS_MAX = 50
DOWN_MAX = 500
# Machines drawn on one page; a group that does not fit any more is shown by its counts.
CELLS_MAX = 20_000
# Names shown beside a hold that many machines share.
HOLD_NAMES_MAX = 8

_SHOWN_TASKS = tuple(sorted((*IN_HAND, TaskState.BAKING)))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    id: str
    name: str
    region: str
    kind: str
    platform: str
    capacity: int
    image_name: str
    auto_upgrade: bool
    paused: bool
    leaving: bool
    baked: str
    policy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many machines of a group look alike to the database."""

    lifecycle: Lifecycle
    health: Health
    image: str
    machines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRow:
    """One machine and the work it is in, if any.

    Attributes:
        held: a hold keeps it from being brought up to date.
        task: the state of its task in an open rollout, while that is in hand or baking.
    """

    id: str
    name: str
    group: str
    zone: str
    lifecycle: Lifecycle
    image: str
    health: Health
    health_since: datetime
    health_detail: str
    held: bool
    task: TaskState | None
    verb: Verb | None
    batch: int
    target: str
    previous: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRow:
    id: str
    group: str
    system: System
    verb: Verb
    target: str
    size: int
    state: State
    started_by: str
    started_at: datetime
    ended_at: datetime | None
    batch: int
    paused: bool
    force: bool
    guilty: bool
    code: Code
    evidence: str
    policy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCount:
    batch: int
    state: TaskState
    machines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRow:
    """Machines of one group that are held for the same reason and lifted by the same thing.

    Attributes:
        names: of the first `HOLD_NAMES_MAX` by name.
        since: of the machine that has waited longest; until: the earliest, if any is known.
    """

    group: str
    system: System
    reason: HoldReason
    lifted_by: str
    since: datetime
    until: datetime | None
    machines: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRow:
    """One budget's use, in one zone where it counts per zone.

    Attributes:
        group: whose own budget it is; empty for one over groups.
        used: machines that are down or claimed.
    """

    name: str
    group: str
    zone: str
    allowed: int
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryRow:
    id: int
    group: str
    at: datetime
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmRow:
    name: str
    group: str
    state: str
    since: datetime
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlackoutRow:
    name: str
    group: str
    opens: datetime
    closes: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The fleet at one moment.

    Attributes:
        groups: all of them, by name; drawn: the ids of those whose cells were read.
        down: machines that are down or claimed, at most `DOWN_MAX`.
        tasks: of open rollouts and of the ended ones in `ended`, by rollout.
        ended: newest first, for the groups that were asked for.
    """

    groups: tuple[GroupRow, ...]
    counts: Mapping[str, tuple[Count, ...]]
    down: tuple[MachineRow, ...]
    cells: Mapping[str, tuple[MachineRow, ...]]
    rollouts: tuple[RolloutRow, ...]
    ended: tuple[RolloutRow, ...]
    tasks: Mapping[str, tuple[TaskCount, ...]]
    holds: tuple[HoldRow, ...]
    budgets: tuple[BudgetRow, ...]
    story: tuple[StoryRow, ...]
    blackouts: tuple[BlackoutRow, ...]
    alarms: tuple[AlarmRow, ...]


def read_overview(
    connection: Connection,
    *,
    now: datetime,
    draw: Collection[str] | None = None,
    scope: str = "",
    only: str = "",
    ended_max: int = 3,
    story_max: int = 40,
) -> Overview:
    """The whole fleet, or the one scope that a token is narrowed to.

    Args:
        draw: ids of the groups whose machines are read one by one; None means all.
        only: the name of the one group that is wanted, as if there were no other.
        ended_max: ended rollouts per group; story_max: lines over all groups.
    """
    groups = _read_groups(connection, scope, only)
    ids = [group.id for group in groups]
    counts = _read_counts(connection, ids)
    drawn = _that_fit([g for g in groups if draw is None or g.id in draw], counts)
    rollouts = _read_open(connection, ids)
    ended = _read_ended(connection, ids, ended_max)
    return Overview(
        groups=groups,
        counts=counts,
        down=_read_down(connection, ids),
        cells=_read_cells(connection, drawn),
        rollouts=rollouts,
        ended=ended,
        tasks=_read_tasks(connection, [r.id for r in (*rollouts, *ended)]),
        holds=_read_holds(connection, ids),
        budgets=_read_budgets(connection, ids),
        story=_read_story(connection, ids, story_max),
        blackouts=_read_blackouts(connection, ids, now),
        alarms=_read_alarms(connection, ids),
    )


def _read_groups(connection: Connection, scope: str, only: str) -> tuple[GroupRow, ...]:
    g = t.groups.c
    statement = select(
        g.id, g.name, g.region, g.kind, g.platform, g.capacity, g.image_name, g.auto_upgrade,
        g.paused, g.delete_requested_at, g.baked, g.policy,
    ).where(g.deleted_at.is_(None))  # fmt: skip
    if scope:
        statement = statement.where(g.scope == scope)
    if only:
        statement = statement.where(g.name == only)
    return tuple(
        GroupRow(
            id=row.id,
            name=row.name,
            region=row.region,
            kind=row.kind,
            platform=row.platform,
            capacity=row.capacity,
            image_name=row.image_name,
            auto_upgrade=bool(row.auto_upgrade),
            paused=bool(row.paused),
            leaving=row.delete_requested_at is not None,
            baked=row.baked,
            policy=row.policy,
        )
        for row in connection.execute(statement.order_by(g.name))
    )


def _read_counts(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[Count, ...]]:
    m = t.machines.c
    kind = (m.group_id, m.lifecycle, m.health, m.image)
    rows = connection.execute(
        select(*kind, func.count().label("machines"))
        .where(m.group_id.in_(ids), m.lifecycle != Lifecycle.DELETED)
        .group_by(*kind)
        .order_by(*kind)
    )
    counts: dict[str, list[Count]] = {}
    for row in rows:
        counts.setdefault(row.group_id, []).append(
            Count(
                lifecycle=Lifecycle(row.lifecycle),
                health=Health(row.health),
                image=row.image,
                machines=row.machines,
            )
        )
    return {group: tuple(listed) for group, listed in counts.items()}


def _that_fit(groups: Sequence[GroupRow], counts: Mapping[str, Sequence[Count]]) -> list[str]:
    """Groups in order, as long as all their machines together can be drawn."""
    fit = []
    left = CELLS_MAX
    for group in groups:
        size = sum(count.machines for count in counts.get(group.id, ()))
        if size <= left:
            fit.append(group.id)
            left -= size
    return fit


def _machines() -> Any:
    m, k, r = t.machines.c, t.tasks.c, t.rollouts.c
    work = (
        select(k.machine_id, k.state, k.batch, k.previous, r.verb, r.target)
        .join(t.rollouts, r.id == k.rollout_id)
        .where(r.ended_at.is_(None), k.state.in_(_SHOWN_TASKS))
        .subquery()
    )
    held = exists(select(t.holds.c.machine_id).where(t.holds.c.machine_id == m.id))
    return select(
        m.id, m.name, m.group_id, m.zone, m.lifecycle, m.image, m.health, m.health_since,
        m.health_detail, case((held, 1), else_=0).label("held"), work.c.state.label("task"),
        work.c.verb, work.c.batch, work.c.target, work.c.previous,
    ).select_from(t.machines.outerjoin(work, work.c.machine_id == m.id))  # fmt: skip


def machine_row(row: Row[Any]) -> MachineRow:
    return MachineRow(
        id=row.id,
        name=row.name,
        group=row.group_id,
        zone=row.zone,
        lifecycle=Lifecycle(row.lifecycle),
        image=row.image,
        health=Health(row.health),
        health_since=from_us(row.health_since),
        health_detail=row.health_detail,
        held=bool(row.held),
        task=TaskState(row.task) if row.task else None,
        verb=Verb(row.verb) if row.verb else None,
        batch=row.batch or 0,
        target=row.target or "",
        previous=row.previous or "",
    )


def machine_named(connection: Connection, name: str) -> MachineRow | None:
    where = and_(t.machines.c.name == name, t.machines.c.lifecycle != Lifecycle.DELETED)
    row = connection.execute(_machines().where(where)).first()
    return None if row is None else machine_row(row)


def _read_down(connection: Connection, ids: Sequence[str]) -> tuple[MachineRow, ...]:
    rows = connection.execute(
        _machines()
        .where(t.machines.c.down == 1, t.machines.c.group_id.in_(ids))
        .order_by(t.machines.c.health_since, t.machines.c.name)
        .limit(DOWN_MAX)
    )
    return _once(rows)


def _read_cells(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[MachineRow, ...]]:
    rows = connection.execute(
        _machines()
        .where(t.machines.c.group_id.in_(ids), t.machines.c.lifecycle != Lifecycle.DELETED)
        .order_by(t.machines.c.zone, func.length(t.machines.c.name), t.machines.c.name)
    )
    cells: dict[str, list[MachineRow]] = {group: [] for group in ids}
    for machine in _once(rows):
        cells[machine.group].append(machine)
    return {group: tuple(machines) for group, machines in cells.items()}


def _once(rows: Any) -> tuple[MachineRow, ...]:
    """Each machine once: while one work bakes a person's call may have it in hand, too."""
    seen: dict[str, MachineRow] = {}
    for row in rows:
        machine = machine_row(row)
        before = seen.get(machine.id)
        if before is None or before.task is TaskState.BAKING:
            seen[machine.id] = machine
    return tuple(seen.values())


def _rollout_row(row: Row[Any]) -> RolloutRow:
    return RolloutRow(
        id=row.id,
        group=row.group_id,
        system=System(row.system),
        verb=Verb(row.verb),
        target=row.target,
        size=row.size,
        state=State(row.state),
        started_by=row.started_by,
        started_at=from_us(row.started_at),
        ended_at=from_us_or_none(row.ended_at),
        batch=row.batch,
        paused=bool(row.paused),
        force=bool(row.force),
        guilty=bool(row.guilty),
        code=Code(row.code),
        evidence=row.evidence,
        policy=row.policy,
    )


def _read_open(connection: Connection, ids: Sequence[str]) -> tuple[RolloutRow, ...]:
    r = t.rollouts.c
    rows = connection.execute(
        select(t.rollouts)
        .where(r.group_id.in_(ids), r.ended_at.is_(None))
        .order_by(r.started_at, r.id)
    )
    return tuple(_rollout_row(row) for row in rows)


def _read_ended(connection: Connection, ids: Sequence[str], most: int) -> tuple[RolloutRow, ...]:
    """The newest OS image rollouts of each group, however many calls came after them."""
    r = t.rollouts.c
    newest = (
        select(
            t.rollouts,
            func.row_number()
            .over(partition_by=r.group_id, order_by=(r.ended_at.desc(), r.id.desc()))
            .label("nth"),
        )
        .where(r.group_id.in_(ids), r.ended_at.is_not(None), r.system == System.OS_IMAGE)
        .subquery()
    )
    rows = connection.execute(
        select(newest).where(newest.c.nth <= most).order_by(newest.c.group_id, newest.c.nth)
    )
    return tuple(_rollout_row(row) for row in rows)


def _read_tasks(
    connection: Connection, rollouts: Sequence[str]
) -> dict[str, tuple[TaskCount, ...]]:
    k = t.tasks.c
    kind = (k.rollout_id, k.batch, k.state)
    rows = connection.execute(
        select(*kind, func.count().label("machines"))
        .where(k.rollout_id.in_(rollouts))
        .group_by(*kind)
        .order_by(*kind)
    )
    tasks: dict[str, list[TaskCount]] = {}
    for row in rows:
        tasks.setdefault(row.rollout_id, []).append(
            TaskCount(batch=row.batch, state=TaskState(row.state), machines=row.machines)
        )
    return {rollout: tuple(counts) for rollout, counts in tasks.items()}


def _read_holds(connection: Connection, ids: Sequence[str]) -> tuple[HoldRow, ...]:
    h = t.holds.c
    alike = (h.group_id, h.system, h.reason, h.lifted_by)
    listed = (
        select(
            *alike,
            t.machines.c.name,
            func.row_number()
            .over(
                partition_by=alike,
                order_by=(func.length(t.machines.c.name), t.machines.c.name),
            )
            .label("nth"),
            func.count().over(partition_by=alike).label("machines"),
            func.min(h.since).over(partition_by=alike).label("since"),
            func.min(h.until).over(partition_by=alike).label("until"),
        )
        .join(t.machines, t.machines.c.id == h.machine_id)
        .where(h.group_id.in_(ids))
        .subquery()
    )
    rows = connection.execute(
        select(listed)
        .where(listed.c.nth <= HOLD_NAMES_MAX)
        .order_by(listed.c.group_id, listed.c.since, listed.c.reason, listed.c.lifted_by,
                  listed.c.nth)
    ).all()  # fmt: skip
    names: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        names.setdefault((row.group_id, row.system, row.reason, row.lifted_by), []).append(row.name)
    return tuple(
        HoldRow(
            group=row.group_id,
            system=System(row.system),
            reason=HoldReason(row.reason),
            lifted_by=row.lifted_by,
            since=from_us(row.since),
            until=from_us_or_none(row.until),
            machines=row.machines,
            names=tuple(names[(row.group_id, row.system, row.reason, row.lifted_by)]),
        )
        for row in rows
        if row.nth == 1
    )


def _read_budgets(connection: Connection, ids: Sequence[str]) -> tuple[BudgetRow, ...]:
    """Every budget's use, from two queries: who there is by place, and the budgets."""
    m, b = t.machines.c, t.budgets.c
    places = connection.execute(
        select(
            m.group_id,
            m.zone,
            m.host,
            func.sum(case((m.lifecycle == Lifecycle.PRESENT, 1), else_=0)).label("size"),
            func.sum(m.down).label("used"),
        )
        .where(m.lifecycle != Lifecycle.DELETED)
        .group_by(m.group_id, m.zone, m.host)
    ).all()
    rows = connection.execute(
        select(t.budgets)
        .where(or_(b.group_id == "", b.group_id.in_(ids)))
        .order_by(b.group_id, b.name)
    ).all()
    budgets = []
    for row in rows:
        sizes: dict[str, int] = {}
        used: dict[str, int] = {}
        for place in places:
            if selects(row, place):
                zone = place.zone if row.per_zone else ""
                sizes[zone] = sizes.get(zone, 0) + place.size
                used[zone] = used.get(zone, 0) + place.used
        budgets += _uses(row, sizes, used)
    return tuple(budgets)


def _uses(row: Row[Any], sizes: Mapping[str, int], used: Mapping[str, int]) -> list[BudgetRow]:
    budget = Budget(
        id=BudgetId(row.id),
        name=row.name,
        max_down=row.max_down,
        min_available=row.min_available,
        percent=bool(row.percent),
        per_zone=bool(row.per_zone),
        size=sizes,
    )
    return [
        BudgetRow(
            name=row.name,
            group=row.group_id,
            zone=zone,
            allowed=allowed_down(budget, zone=zone),
            used=used[zone],
        )
        for zone in sorted(sizes)
    ]


def _read_story(connection: Connection, ids: Sequence[str], most: int) -> tuple[StoryRow, ...]:
    s = t.story.c
    rows = connection.execute(
        select(t.story).where(s.group_id.in_(ids)).order_by(s.id.desc()).limit(most)
    )
    return tuple(
        StoryRow(id=row.id, group=row.group_id, at=from_us(row.at), line=row.line) for row in rows
    )


def _read_blackouts(
    connection: Connection, ids: Sequence[str], now: datetime
) -> tuple[BlackoutRow, ...]:
    """Those that are on or still to come, soonest first."""
    b = t.blackouts.c
    rows = connection.execute(
        select(t.blackouts)
        .where(or_(b.group_id == "", b.group_id.in_(ids)), b.closes > to_us(now))
        .order_by(b.opens, b.id)
        .limit(10)
    )
    return tuple(
        BlackoutRow(
            name=row.name,
            group=row.group_id,
            opens=from_us(row.opens),
            closes=from_us(row.closes),
        )
        for row in rows
    )


def _read_alarms(connection: Connection, ids: Sequence[str]) -> tuple[AlarmRow, ...]:
    """Those that are not quiet, by name."""
    a = t.alarms.c
    rows = connection.execute(
        select(t.alarms)
        .where(a.group_id.in_(ids), a.state != AlarmState.QUIET)
        .order_by(a.group_id, a.name)
        .limit(ALARMS_MAX)
    )
    return tuple(
        AlarmRow(
            name=row.name,
            group=row.group_id,
            state=row.state,
            since=from_us(row.since),
            detail=row.detail,
        )
        for row in rows
    )
