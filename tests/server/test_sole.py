"""One server to a state directory: the second is told so, and the next one does not wait."""

import multiprocessing
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from upkeep.server.settings import SettingsError
from upkeep.server.sole import end_dead_leases, hold_state
from upkeep.store import tables as t
from upkeep.store.database import Database, from_us, to_us
from upkeep.store.migrate import migrate

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)


def test_a_second_server_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = hold_state(tmp_path)
    with pytest.raises(SettingsError, match="another server runs on"):
        hold_state(tmp_path)
    os.close(first)
    os.close(hold_state(tmp_path))


def test_the_lock_dies_with_its_process_and_not_with_what_that_started(tmp_path: Path) -> None:
    """A machine's supervisor outlives its server and must not keep the directory."""
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    holder = context.Process(target=_hold_and_start_something, args=(tmp_path, writer))
    holder.start()
    bystander = reader.recv()
    try:
        with pytest.raises(SettingsError):
            hold_state(tmp_path)
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
        os.close(hold_state(tmp_path))
        os.kill(bystander, 0)
    finally:
        os.kill(bystander, signal.SIGKILL)


def _hold_and_start_something(state: Path, writer) -> None:  # type: ignore[no-untyped-def]
    hold_state(state)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    writer.send(subprocess.Popen(command, start_new_session=True).pid)
    signal.pause()


def test_leases_of_a_dead_server_end_at_once(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'upkeep.db'}")
    migrate(database)
    later = NOW + timedelta(seconds=50)
    row = {
        "group_id": "g_1",
        "machine_id": "m_1",
        "rollout_id": "ro_1",
        "version": "1.0.1",
        "verb": "replace_os_disk",
        "ready_at": to_us(NOW),
        "created_at": to_us(NOW),
    }
    with database.write() as connection:
        for key, state, lease in (("a", "leased", later), ("b", "ready", None)):
            lease_until = None if lease is None else to_us(lease)
            values = {**row, "key": key, "state": state, "lease_until": lease_until}
            connection.execute(insert(t.actions).values(values))
    assert end_dead_leases(database, now=NOW) == 1
    assert end_dead_leases(database, now=NOW) == 0
    with database.read() as connection:
        rows = connection.execute(select(t.actions).order_by(t.actions.c.key)).all()
    assert [row.state for row in rows] == ["leased", "ready"]
    assert from_us(rows[0].lease_until) == NOW
    database.close()
