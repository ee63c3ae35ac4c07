"""kill -9 at every journal step of a rollout, then a restart, must end in the same place.

Two stories: a good version that three machines take one after another, and a bad one that is
halted after its first machine and rolled back.  The server process is killed before and after
each of its write transactions, counted from the first of an undisturbed run.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update
from tests.crash.file_platform import FilePlatform

from upkeep.core.policy import RollingPolicy
from upkeep.ports import MachineSpec, OsImage
from upkeep.store import tables as t
from upkeep.store.database import Database, to_us
from upkeep.store.migrate import migrate
from upkeep.store.policies import policy_to_json

MACHINES = ("web-0", "web-1", "web-2")
SERVER = Path(__file__).with_name("server_process.py")
TIMEOUT_S = 120


def prepare(folder: Path, version: str) -> None:
    """Three healthy machines on 1.0.0 and a version that has just been published."""
    database = Database(f"sqlite:///{folder / 'upkeep.db'}")
    migrate(database)
    platform = FilePlatform(folder / "platform")
    now = to_us(datetime.now(UTC))
    # The good version is never waited out; the bad one is, so its wait is short, but long enough
    # for a machine that was rolled back to be seen healthy on a busy host.
    policy = RollingPolicy(health_wait=timedelta(seconds=60 if version == "1.0.1" else 10))
    probe = {"protocol": "http", "port": 80, "path": "/", "interval_ms": 100}
    with database.write() as connection:
        connection.execute(
            t.groups.insert().values(
                id="g", name="web", kind="scale_set", capacity=3, next_ordinal=3, baked="1.0.0",
                image_name="web", platform="files", policy=policy_to_json(policy),
                probe=json.dumps(probe), created_at=now, wake_at=now,
            )
        )  # fmt: skip
        connection.execute(
            t.budgets.insert().values(
                id="b", name="web", group_id="g", max_down=20, percent=1, created_at=now
            )
        )
        for known in ("1.0.0", version):
            connection.execute(
                t.image_versions.insert().values(
                    image_name="web", version=known, format="tar", published_at=now
                )
            )
            connection.execute(
                t.image_replicas.insert().values(
                    image_name="web", version=known, region="local", state="completed"
                )
            )
        for number, name in enumerate(MACHINES):
            connection.execute(
                t.machines.insert().values(
                    id=f"m_g_{number}", group_id="g", name=name, lifecycle="present",
                    image="1.0.0", boots=1, health="healthy", health_since=now, fence=1,
                    address="127.0.0.1", watch_from=now, created_at=now,
                )
            )  # fmt: skip
    database.close()
    image = OsImage(name="web", version="1.0.0", sha256="", path=Path("/dev/null"))
    for number, name in enumerate(MACHINES):
        spec = MachineSpec(name=name, uuid=f"m_g_{number}", image=image)
        platform.create(spec, key=f"made/{name}", fence=1)


def run_server(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SERVER), str(folder), *arguments],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=dict(os.environ),
    )  # fmt: skip


def end_of_leases(folder: Path) -> None:
    """A dead process's leases run out; here at once, so that nobody waits a minute for it."""
    database = Database(f"sqlite:///{folder / 'upkeep.db'}")
    with database.write() as connection:
        connection.execute(
            update(t.actions).where(t.actions.c.state == "leased").values(lease_until=0)
        )
    database.close()


def the_end(folder: Path) -> dict[str, object]:
    """All that must be equal, however often the server died."""
    database = Database(f"sqlite:///{folder / 'upkeep.db'}")
    with database.read() as connection:
        rollouts = [
            (r.id, r.target, r.state, r.code, r.batch, r.guilty)
            for r in connection.execute(select(t.rollouts).order_by(t.rollouts.c.id))
        ]
        tasks = [
            (r.rollout_id, r.machine_id, r.state, r.batch, r.failure)
            for r in connection.execute(
                select(t.tasks).order_by(t.tasks.c.rollout_id, t.tasks.c.machine_id)
            )
        ]
        machines = [
            (r.name, r.image, r.health, r.down)
            for r in connection.execute(select(t.machines).order_by(t.machines.c.name))
        ]
        actions = [
            (r.key, r.state)
            for r in connection.execute(select(t.actions).order_by(t.actions.c.key))
        ]
        claims = len(connection.execute(select(t.claims)).all())
    database.close()
    platform = FilePlatform(folder / "platform")
    return {
        "rollouts": rollouts,
        "tasks": tasks,
        "machines": machines,
        "actions": actions,
        "claims": claims,
        "effects": sorted(platform.effects()),
        "versions": [s.image_version for s in platform.observe(MACHINES)],
    }


@pytest.fixture(scope="module", params=["1.0.1", "1.0.2"], ids=["good-version", "bad-version"])
def undisturbed(request, tmp_path_factory):  # type: ignore[no-untyped-def]
    """The end of a run that nobody kills, and how many writes it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    prepare(folder, request.param)
    done = run_server(folder)
    assert done.returncode == 0, done.stderr
    return request.param, the_end(folder), int(done.stdout)


def test_the_undisturbed_run_ends_as_it_should(undisturbed):  # type: ignore[no-untyped-def]
    version, end, _ = undisturbed
    if version == "1.0.1":
        assert end["versions"] == ["1.0.1"] * 3
        assert [r[2] for r in end["rollouts"]] == ["completed"]
    else:
        assert end["versions"] == ["1.0.0"] * 3
        assert [(r[2], r[5]) for r in end["rollouts"]] == [("faulted", 1)]
    assert end["claims"] == 0
    assert len(end["effects"]) == len(set(end["effects"])), "an action was done twice"


@pytest.mark.slow
def test_killed_at_any_write_it_ends_in_the_same_place(undisturbed, tmp_path):  # type: ignore[no-untyped-def]
    version, end, writes = undisturbed
    assert writes > 10
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    prepare(prepared, version)
    moments = [(n, side) for n in range(1, writes + 1) for side in ("before", "after")]
    # Four at once: each spends its time waiting for leases, probes and health.
    with ThreadPoolExecutor(4) as pool:
        ends = pool.map(lambda moment: end_of_a_killed_run(tmp_path, *moment), moments)
        for moment, reached in zip(moments, ends, strict=True):
            assert reached == end, f"killed {moment[1]} write {moment[0]}"


def end_of_a_killed_run(tmp_path: Path, number: int, side: str) -> dict[str, object]:
    folder = tmp_path / f"{number}-{side}"
    shutil.copytree(tmp_path / "prepared", folder)
    died = run_server(folder, str(number), side)
    # The last writes may fall differently: a run that ended before its turn is fine.
    assert died.returncode in (-signal.SIGKILL, 0), died.stderr
    if died.returncode != 0:
        end_of_leases(folder)
        again = run_server(folder)
        assert again.returncode == 0, f"killed {side} write {number}: {again.stderr}"
    reached = the_end(folder)
    shutil.rmtree(folder)
    return reached
