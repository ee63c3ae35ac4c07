"""What waits for agents costs the executor nothing: it takes no lock to find that out."""

from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, insert

from upkeep.core.model import Verb
from upkeep.store import tables as t
from upkeep.store.database import Database, to_us
from upkeep.store.fleet import SqlFleetStore
from upkeep.store.migrate import migrate

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_nothing_is_locked_for_commands_that_wait_for_their_agents(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(database)
    store = SqlFleetStore(database)
    waits = {"group_id": "g_1", "machine_id": "m_1", "rollout_id": "ro_1", "created_at": to_us(NOW)}
    with database.write() as connection:
        drain = {"key": "a", "verb": Verb.DRAIN, "state": "ready", "ready_at": to_us(NOW)}
        given = {"key": "b", "verb": Verb.RESTART, "state": "leased", "owner": "agent"}
        given |= {"ready_at": to_us(NOW), "lease_until": to_us(NOW + 2 * HOUR)}
        connection.execute(insert(t.actions).values(**waits, **drain))
        connection.execute(insert(t.actions).values(**waits, **given))
    with monkeypatch.context() as patched:
        patched.setattr(database, "write", _refuse)
        claimed = store.claim_actions("me", now=NOW + HOUR, lease_until=NOW + 2 * HOUR, limit=10)
    assert claimed == []


def _refuse() -> AbstractContextManager[Connection]:
    raise AssertionError("a write transaction was begun")
