"""`FleetStore` over SQLAlchemy: each method is one transaction; the work is in a file a noun."""

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, select, update

from upkeep.core.model import GroupId, Lifecycle, MachineId
from upkeep.core.snapshot import Plan, Snapshot
from upkeep.engine.fleet_store import (
    ActionResult,
    LeasedAction,
    ReadMark,
    Sighting,
    WatchedMachine,
)
from upkeep.store import actions, sightings, wakes
from upkeep.store import tables as t
from upkeep.store.commit import write_plan
from upkeep.store.database import Database, from_us, insert_ignoring, to_us
from upkeep.store.snapshot import HEALTH_OF, read_snapshot

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
            return [GroupId(group) for group in wakes.due(connection, now, limit)]

    def next_wake(self) -> datetime | None:
        with self.database.read() as connection:
            return wakes.next_wake(connection)

    def read_group(
        self, group: GroupId, *, now: datetime, clock_stepped: bool
    ) -> tuple[Snapshot, ReadMark] | None:
        with self.database.read() as connection:
            row = connection.execute(
                select(t.groups).where(t.groups.c.id == group, t.groups.c.deleted_at.is_(None))
            ).first()
            if row is None:
                return None
            snapshot = read_snapshot(connection, row, now=now, clock_stepped=clock_stepped)
            return snapshot, ReadMark(marks=row.marks, fence=row.fence)

    def commit_plan(self, plan: Plan, read: ReadMark, *, now: datetime) -> bool:
        return self.database.run(lambda connection: write_plan(connection, plan, read, now=now))

    def claim_actions(
        self, owner: str, *, now: datetime, lease_until: datetime, limit: int
    ) -> Sequence[LeasedAction]:
        if not self._any_claimable(now):
            return []
        return self.database.run(
            lambda connection: actions.claim(
                connection, owner, now=now, lease_until=lease_until, limit=limit
            )
        )

    def _any_claimable(self, now: datetime) -> bool:
        """A look without a write lock: most of the time there is nothing to do."""
        with self.database.read() as connection:
            return any(
                connection.execute(keys.limit(1)).first() is not None
                for keys in actions.claimable(now)
            )

    def give_to_agent(self, key: str, *, fence: int, lease_until: datetime) -> None:
        group = self.database.run(
            lambda connection: actions.give_to_agent(
                connection, key, fence=fence, lease_until=lease_until
            )
        )
        self._marked(group)

    def extend_lease(self, key: str, *, fence: int, lease_until: datetime) -> bool:
        return self.database.run(
            lambda connection: actions.extend_lease(
                connection, key, fence=fence, lease_until=lease_until
            )
        )

    def retry_action(
        self, key: str, *, fence: int, result: ActionResult, not_before: datetime
    ) -> None:
        self.database.run(
            lambda connection: actions.retry(
                connection, key, fence=fence, result=result, not_before=not_before
            )
        )

    def finish_action(self, key: str, *, fence: int, result: ActionResult, now: datetime) -> bool:
        group, is_current = self.database.run(
            lambda connection: actions.finish(connection, key, fence=fence, result=result, now=now)
        )
        self._marked(group)
        return is_current

    def observe(self, machine: MachineId, sighting: Sighting, *, now: datetime) -> bool:
        def step(connection: Connection) -> str | None:
            group = sightings.observe(connection, machine, sighting, now=now)
            if group is not None:
                wakes.mark(connection, group, now)
            return group

        return self._marked(self.database.run(step))

    def mark_group(self, group: GroupId, *, now: datetime) -> None:
        self.database.run(lambda connection: wakes.mark(connection, group, now))
        self._marked(group)

    def park_group(self, group: GroupId, *, trace: str, until: datetime) -> None:
        self.database.run(
            lambda connection: wakes.park(connection, group, trace=trace, until=until)
        )

    def watched(self, machines: Sequence[MachineId] | None = None) -> Sequence[WatchedMachine]:
        """A server reads its whole fleet every 30 s: a group's probe is read once for all of it."""
        m, g = t.machines.c, t.groups.c
        query = select(m.id, m.address, m.watch_from, m.health, m.group_id).where(
            m.lifecycle.in_((Lifecycle.PRESENT, Lifecycle.CREATING))
        )
        of_groups = select(g.id, g.probe, g.health_source)
        if machines is not None:
            query = query.where(m.id.in_(machines))
            its_groups = select(m.group_id).where(m.id.in_(machines))
            of_groups = of_groups.where(g.id.in_(its_groups))
        with self.database.read() as connection:
            watches = {
                group: (msgspec.json.decode(probe), source)
                for group, probe, source in connection.execute(of_groups)
            }
            return [
                WatchedMachine(
                    machine=MachineId(machine),
                    address=address,
                    probe=watches[group][0],
                    source=watches[group][1],
                    watch_from=from_us(watch_from),
                    health=HEALTH_OF[health],
                )
                for machine, address, watch_from, health, group in connection.execute(query)
            ]

    def raise_clock_mark(self, now: datetime) -> datetime:
        return self.database.run(lambda connection: _raise_mark(connection, now))

    def announce(self, group: str) -> None:
        """A transaction of somebody else has marked the group and was committed."""
        self._on_mark(GroupId(group))

    def _marked(self, group: str | None) -> bool:
        if group is not None:
            self.announce(group)
        return group is not None


def _raise_mark(connection: Connection, now: datetime) -> datetime:
    """Under lock: of two replicas that raise it at once, neither takes it back."""
    first = insert_ignoring(connection, t.settings, ["key"])
    connection.execute(first, {"key": _CLOCK_KEY, "value": str(to_us(now))})
    mine = t.settings.c.key == _CLOCK_KEY
    known = int(
        connection.execute(select(t.settings.c.value).where(mine).with_for_update()).scalar_one()
    )
    if to_us(now) > known:
        connection.execute(update(t.settings).where(mine).values(value=str(to_us(now))))
    return from_us(max(known, to_us(now)))
