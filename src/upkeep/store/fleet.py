"""`FleetStore` over SQLAlchemy: each method is one transaction; the work is in a file a noun."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, func, insert, select, update

from upkeep.core.model import GroupId, Health, Lifecycle, MachineId, Plan, Snapshot
from upkeep.engine.fleet_store import (
    ActionResult,
    LeasedAction,
    ReadMark,
    Sighting,
    WatchedMachine,
)
from upkeep.store import actions, sightings
from upkeep.store import tables as t
from upkeep.store.commit import write_plan
from upkeep.store.database import Database, from_us, from_us_or_none, to_us
from upkeep.store.snapshot import read_snapshot

_CLOCK_KEY = "engine_time_us"


def _nothing(group: GroupId) -> None:
    """Nobody is waiting in this process."""


class SqlFleetStore:
    """The engine's store on SQLite or PostgreSQL.

    Args:
        on_mark: told after a commit that made a group due, to wake a sleeping loop.
    """

    def __init__(
        self, database: Database, *, on_mark: Callable[[GroupId], None] = _nothing
    ) -> None:
        self.database = database
        self._on_mark = on_mark

    def due_groups(self, now: datetime, limit: int) -> Sequence[GroupId]:
        with self.database.read() as connection:
            rows = connection.execute(
                select(t.groups.c.id)
                .where(t.groups.c.wake_at <= to_us(now))
                .order_by(t.groups.c.wake_at, t.groups.c.id)
                .limit(limit)
            )
            return [GroupId(row.id) for row in rows]

    def next_wake(self) -> datetime | None:
        with self.database.read() as connection:
            return from_us_or_none(
                connection.execute(select(func.min(t.groups.c.wake_at))).scalar()
            )

    def read_group(
        self, group: GroupId, *, now: datetime, clock_stepped: bool
    ) -> tuple[Snapshot, ReadMark] | None:
        with self.database.read() as connection:
            row = connection.execute(select(t.groups).where(t.groups.c.id == group)).first()
            if row is None:
                return None
            snapshot = read_snapshot(connection, row, now=now, clock_stepped=clock_stepped)
            return snapshot, ReadMark(marks=row.marks, fence=row.fence)

    def commit_plan(self, plan: Plan, read: ReadMark, *, now: datetime) -> bool:
        with self.database.write() as connection:
            return write_plan(connection, plan, read, now=now)

    def claim_actions(
        self, owner: str, *, now: datetime, lease_until: datetime, limit: int
    ) -> Sequence[LeasedAction]:
        if not self._any_claimable(now):
            return []
        with self.database.write() as connection:
            return actions.claim(connection, owner, now=now, lease_until=lease_until, limit=limit)

    def _any_claimable(self, now: datetime) -> bool:
        """A look without a write lock: most of the time there is nothing to do."""
        with self.database.read() as connection:
            for state, column in (
                ("ready", t.actions.c.ready_at),
                ("leased", t.actions.c.lease_until),
            ):
                found = connection.execute(
                    select(t.actions.c.key)
                    .where(t.actions.c.state == state, column <= to_us(now))
                    .limit(1)
                ).first()
                if found is not None:
                    return True
        return False

    def extend_lease(self, key: str, *, fence: int, lease_until: datetime) -> bool:
        with self.database.write() as connection:
            return actions.extend_lease(connection, key, fence=fence, lease_until=lease_until)

    def retry_action(
        self, key: str, *, fence: int, result: ActionResult, not_before: datetime
    ) -> None:
        with self.database.write() as connection:
            actions.retry(connection, key, fence=fence, result=result, not_before=not_before)

    def finish_action(self, key: str, *, fence: int, result: ActionResult, now: datetime) -> bool:
        with self.database.write() as connection:
            group = actions.finish(connection, key, fence=fence, result=result, now=now)
            if group is not None:
                mark(connection, group, now)
        return self._marked(group)

    def observe(self, machine: MachineId, sighting: Sighting, *, now: datetime) -> bool:
        with self.database.write() as connection:
            group = sightings.observe(connection, machine, sighting, now=now)
            if group is not None:
                mark(connection, group, now)
        return self._marked(group)

    def mark_group(self, group: GroupId, *, now: datetime) -> None:
        with self.database.write() as connection:
            mark(connection, group, now)
        self._marked(group)

    def park_group(self, group: GroupId, *, trace: str, until: datetime) -> None:
        with self.database.write() as connection:
            connection.execute(
                insert(t.story).values(
                    group_id=group, at=to_us(until), line=f"planning failed (our mistake): {trace}"
                )
            )
            connection.execute(
                update(t.groups).where(t.groups.c.id == group).values(wake_at=to_us(until))
            )

    def watched(self, machines: Sequence[MachineId] | None = None) -> Sequence[WatchedMachine]:
        query = (
            select(
                t.machines.c.id,
                t.machines.c.address,
                t.machines.c.watch_from,
                t.machines.c.health,
                t.groups.c.probe,
                t.groups.c.health_source,
            )
            .join(t.groups, t.groups.c.id == t.machines.c.group_id)
            .where(t.machines.c.lifecycle.in_((Lifecycle.PRESENT, Lifecycle.CREATING)))
        )
        if machines is not None:
            query = query.where(t.machines.c.id.in_(machines))
        with self.database.read() as connection:
            return [_watched(row) for row in connection.execute(query)]

    def raise_clock_mark(self, now: datetime) -> datetime:
        with self.database.write() as connection:
            row = connection.execute(
                select(t.settings.c.value).where(t.settings.c.key == _CLOCK_KEY)
            ).first()
            mark_us = max(to_us(now), int(row.value) if row else 0)
            if row is None:
                connection.execute(insert(t.settings).values(key=_CLOCK_KEY, value=str(mark_us)))
            elif mark_us > int(row.value):
                connection.execute(
                    update(t.settings)
                    .where(t.settings.c.key == _CLOCK_KEY)
                    .values(value=str(mark_us))
                )
            return from_us(mark_us)

    def announce(self, group: str) -> None:
        """A transaction of somebody else has marked the group and was committed."""
        self._on_mark(GroupId(group))

    def wake(self, group: str) -> None:
        """A group was marked by somebody else's transaction, which is committed."""
        self._on_mark(GroupId(group))

    def _marked(self, group: str | None) -> bool:
        if group is not None:
            self.announce(group)
        return group is not None


def mark(connection: Connection, group: str, now: datetime) -> None:
    """Make the group due at once; a mark made while it is being planned is not lost."""
    connection.execute(
        update(t.groups)
        .where(t.groups.c.id == group)
        .values(marks=t.groups.c.marks + 1, wake_at=to_us(now))
    )


def _watched(row: Any) -> WatchedMachine:
    return WatchedMachine(
        machine=MachineId(row.id),
        address=row.address,
        probe=msgspec.json.decode(row.probe),
        source=row.health_source,
        watch_from=from_us(row.watch_from),
        health=Health(row.health),
    )
