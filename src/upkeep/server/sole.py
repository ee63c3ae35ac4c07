"""One server to one state directory: a second is refused, and a restart does not wait for leases.

Where the database lies in the state directory (no other was named), whoever holds the directory's
lock is the only process that performs actions, and every lease in the rows belongs to a dead one.
They are ended at once: a roll goes on a moment after `kill -9` and a restart, not a minute later.
Servers that share a database have a directory each and end nobody's leases.
"""

import fcntl
import os
from datetime import datetime
from pathlib import Path

from sqlalchemy import update

from upkeep.engine.fleet_store import AGENT
from upkeep.server.settings import SettingsError
from upkeep.store import tables as t
from upkeep.store.database import Database, to_us

LOCK_FILE = "server.lock"


def hold_state(state: Path) -> int:
    """Take the directory for this process; the lock goes with it, however it ends.

    Raises:
        SettingsError: another server has it.
    """
    # Closed in programs that this one starts: they outlive it, and must not keep its lock.
    descriptor = os.open(state / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SettingsError(
            f"another server runs on {state}; stop it, or give this one a --state-dir of its own"
        ) from None
    return descriptor


def end_dead_leases(database: Database, *, now: datetime) -> int:
    """Let this process claim at once what the one before was doing; answers how many."""
    with database.write() as connection:
        return connection.execute(
            update(t.actions)
            .where(
                t.actions.c.state == "leased",
                t.actions.c.owner != AGENT,  # Their work does not end with a server's process.
                t.actions.c.lease_until > to_us(now),
            )
            .values(lease_until=to_us(now))
        ).rowcount
