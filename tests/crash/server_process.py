"""A server process that can be made to die at its n-th write: `server_process.py DIR [N SIDE]`.

It drives the real runner, executor, store and SQLite; the platform is files, and health follows
the platform's own word.  SIDE is `before` (the transaction is lost) or `after` (it is on disk and
nothing later happened).  It ends with 0 when the rollout under test has ended and nothing is left
to do, and prints how many writes it made.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from sqlalchemy import Connection, select
from tests.crash.file_platform import FilePlatform

from upkeep.engine.clock import EngineClock
from upkeep.engine.executor import Executor
from upkeep.engine.fleet_store import LeasedAction
from upkeep.engine.health_watch import HealthWatch
from upkeep.ports import MachineSpec, OsImage, Power, ProbeResult
from upkeep.server.runner import Nothing, Runner
from upkeep.store import tables as t
from upkeep.store.database import Database
from upkeep.store.fleet import SqlFleetStore

BAD_VERSION = "1.0.2"
DEADLINE_S = 90.0


class DyingDatabase(Database):
    """Counts write transactions and kills the process at the chosen one."""

    def __init__(self, url: str, *, die_at: int, side: str) -> None:
        super().__init__(url)
        self.writes = 0
        self._die_at = die_at
        self._side = side

    @contextmanager
    def write(self) -> Iterator[Connection]:
        self.writes += 1
        last = self.writes == self._die_at
        with super().write() as connection:
            yield connection
            if last and self._side == "before":
                os.kill(os.getpid(), signal.SIGKILL)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)


class Wall:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class Provisioner:
    def image(self, leased: LeasedAction) -> OsImage:
        version = leased.action.version
        return OsImage(name="web", version=version, sha256=version, path=Path("/dev/null"))

    def spec(self, leased: LeasedAction) -> MachineSpec:
        return MachineSpec(
            name=leased.machine_name,
            uuid=leased.action.machine,
            image=self.image(leased),
            model=leased.action.model,
        )

    def seed(self, leased: LeasedAction) -> Mapping[str, bytes]:
        return {}


def look(platform: FilePlatform, watch: HealthWatch, clock: EngineClock, names: dict[str, str]):  # type: ignore[no-untyped-def]
    """What a prober would: every running machine answers, but for those on the bad version."""
    for probe in watch.due(now=clock.now(), limit=100):
        status = platform.observe([names[probe.machine]])[0]
        well = status.power is Power.RUNNING and status.image_version != BAD_VERSION
        watch.probed(
            probe, ProbeResult(answered=True, status=200 if well else 503), now=clock.now()
        )


def is_over(database: Database) -> bool:
    with database.read() as connection:
        rollouts = connection.execute(
            select(t.rollouts.c.ended_at).where(t.rollouts.c.system == "os_image")
        ).all()
        unfinished = connection.execute(
            select(t.actions.c.key).where(t.actions.c.state.in_(("ready", "leased")))
        ).first()
        claims = connection.execute(select(t.claims.c.machine_id)).first()
    return bool(rollouts) and all(r.ended_at for r in rollouts) and not unfinished and not claims


def main() -> int:
    folder = Path(sys.argv[1])
    die_at = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    side = sys.argv[3] if len(sys.argv) > 3 else ""
    database = DyingDatabase(f"sqlite:///{folder / 'upkeep.db'}", die_at=die_at, side=side)
    platform = FilePlatform(folder / "platform")
    store = SqlFleetStore(database)
    clock = EngineClock(Wall(), store)
    # A fresh owner each time: a lease of the process before must run out or be taken over.
    executor = Executor(store, {"files": platform}, Provisioner(), clock, owner=str(os.getpid()))
    watch = HealthWatch(store)
    runner = Runner(
        store,
        clock,
        executor,
        watch,
        workers=4,
        survey=lambda: None,
        staging=Nothing(),
        on_plan=lambda plan: None,
    )
    with database.read() as connection:
        rows = connection.execute(select(t.machines.c.id, t.machines.c.name)).all()
    names = {row.id: row.name for row in rows}
    runner.start()
    deadline = time.monotonic() + DEADLINE_S
    while not is_over(database):
        if time.monotonic() > deadline:
            print("not over in time", file=sys.stderr)
            return 1
        look(platform, watch, clock, names)
        time.sleep(0.02)
    runner.stop()
    print(database.writes)
    return 0


sys.exit(main())
