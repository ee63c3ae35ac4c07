"""A tick over 100,000 machines in 1,000 groups on SQLite: nothing changed, and one group changed.

Sketch: idle is one index look-up.  One changed group of 100 machines is a dozen queries (1 ms),
a plan (0.4 ms) and one transaction with a disk flush (1–5 ms); budgets 2 and 20 ms.
"""

import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.big_fleet import GROUPS, MACHINES_EACH, fill, machine_id
from bench.figure import Figure
from upkeep.core.model import Health, MachineId
from upkeep.engine.clock import EngineClock
from upkeep.engine.fleet_store import Sighting
from upkeep.engine.loop import Engine
from upkeep.store.database import Database
from upkeep.store.fleet import SqlFleetStore
from upkeep.store.migrate import migrate

ROUNDS = 30


class _Wall:
    """The real clocks; each round of the bench is later than the one before."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'bench.db'}")
        migrate(database)
        fill(database)
        store = SqlFleetStore(database)
        clock = EngineClock(_Wall(), store)
        engine = Engine(store, clock)
        engine.tick()
        idle, changed = [], []
        flip = (Health.UNHEALTHY, Health.HEALTHY)
        for number in range(ROUNDS):
            begun = time.perf_counter()
            assert engine.tick() == 0
            idle.append((time.perf_counter() - begun) * 1000)
            machine = MachineId(machine_id(number, 50))
            store.observe(machine, Sighting(health=flip[0]), now=clock.now())
            begun = time.perf_counter()
            assert engine.tick() == 1
            changed.append((time.perf_counter() - begun) * 1000)
            store.observe(machine, Sighting(health=flip[1]), now=clock.now() + timedelta(0))
            engine.tick()
        database.close()
    note = f"{GROUPS} groups of {MACHINES_EACH}; median of {ROUNDS}"
    return [
        Figure(
            name="tick_100k_idle_ms", value=statistics.median(idle), unit="ms", budget=2, note=note
        ),
        Figure(
            name="tick_100k_one_changed_ms",
            value=statistics.median(changed),
            unit="ms",
            budget=20,
            note=note,
        ),
    ]
