"""Asks the platforms how their machines are and writes down what has changed."""

import logging
from collections.abc import Mapping

from sqlalchemy import select

from upkeep.core.model import Lifecycle, MachineId
from upkeep.engine.clock import EngineClock
from upkeep.engine.fleet_store import Sighting
from upkeep.ports import DriverError, Platform, Power
from upkeep.store import tables as t
from upkeep.store.fleet import SqlFleetStore

log = logging.getLogger("upkeep.server")

# Machines asked about in one call of a driver.
NAMES_MAX = 200


class Survey:
    """Call it every half minute or so."""

    def __init__(
        self, store: SqlFleetStore, platforms: Mapping[str, Platform], clock: EngineClock
    ) -> None:
        self._store = store
        self._platforms = platforms
        self._clock = clock

    def __call__(self) -> None:
        for name, platform in self._platforms.items():
            machines = self._machines_of(name)
            for start in range(0, len(machines), NAMES_MAX):
                try:
                    self._look(platform, machines[start : start + NAMES_MAX])
                except DriverError as error:
                    log.warning("platform=%s cannot be asked: %s", name, error.detail)
                    break

    def _machines_of(self, platform: str) -> list[tuple[str, MachineId]]:
        """Machines that nobody is working on: theirs is the executor's to describe."""
        query = (
            select(t.machines.c.name, t.machines.c.id)
            .join(t.groups, t.groups.c.id == t.machines.c.group_id)
            .where(
                t.groups.c.platform == platform,
                t.machines.c.lifecycle == Lifecycle.PRESENT,
                t.machines.c.in_work == 0,
            )
            .order_by(t.machines.c.name)
        )
        with self._store.database.read() as connection:
            return [(row.name, MachineId(row.id)) for row in connection.execute(query)]

    def _look(self, platform: Platform, machines: list[tuple[str, MachineId]]) -> None:
        statuses = platform.observe([name for name, _ in machines])
        for (_, machine), status in zip(machines, statuses, strict=True):
            if status.power in (Power.ABSENT, Power.UNKNOWN):
                continue  # Nothing is known; its health tells that it is away.
            self._store.observe(
                machine,
                Sighting(
                    boots=status.boots,
                    address=status.address or None,
                    powered_off=status.power is Power.OFF,
                ),
                now=self._clock.now(),
            )
