"""A large fleet at rest, as rows: everybody healthy on 1.0.1, nothing due.

Three benches stand on it: the tick over it (tick.py), the agents at its server (checkins.py) and
reads in Azure's dialect (arm.py).
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from upkeep.store import tables as t
from upkeep.store.database import Database, to_us
from upkeep.store.migrate import migrate
from upkeep.store.tokens import hash_secret

GROUPS = 1_000
MACHINES_EACH = 100
SETTLE_S_MAX = 120.0
# What a group's agents are told to probe; the server does not look from outside itself.
PROBE = (
    '{"protocol":"http","port":8080,"path":"/health","number_of_probes":1,"rich":false,'
    '"interval_ms":5000}'
)


def machine_id(group: int, number: int) -> str:
    return f"m_g_{group}_{number:03}"


def new_database(folder: Path, *, groups: int) -> Database:
    """The database of a server whose state is in `folder/state`, with the fleet in it."""
    state = folder / "state"
    state.mkdir()
    database = Database(f"sqlite:///{state / 'upkeep.db'}")
    migrate(database)
    fill(database, groups=groups)
    return database


def fill(database: Database, *, groups: int = GROUPS, machines_each: int = MACHINES_EACH) -> None:
    """The whole fleet in one transaction."""
    now = to_us(datetime.now(UTC))
    with database.write() as connection:
        connection.execute(
            t.image_versions.insert().values(
                image_name="web", version="1.0.1", format="tar", published_at=now
            )
        )
        connection.execute(
            t.image_replicas.insert().values(
                image_name="web", version="1.0.1", region="local", state="completed"
            )
        )
        connection.execute(
            t.groups.insert(), [_group_row(g, machines_each, now) for g in range(groups)]
        )
        connection.execute(t.budgets.insert(), [_budget_row(g, now) for g in range(groups)])
        for group in range(groups):
            connection.execute(t.machines.insert(), list(_machine_rows(group, machines_each, now)))


def _group_row(group: int, size: int, now: int) -> dict[str, Any]:
    return {
        "id": f"g_{group}",
        "name": f"web{group}",
        "platform": "agent_only",
        "capacity": size,
        "image_name": "web",
        "baked": "1.0.1",
        "next_ordinal": size,
        "probe": PROBE,
        "health_source": "inside",
        "created_at": now,
    }


def _budget_row(group: int, now: int) -> dict[str, Any]:
    return {
        "id": f"b_{group}",
        "name": f"web{group}",
        "group_id": f"g_{group}",
        "max_down": 20,
        "percent": 1,
        "created_at": now,
    }


def _machine_rows(group: int, size: int, now: int) -> Iterator[dict[str, Any]]:
    for number in range(size):
        yield {
            "id": machine_id(group, number),
            "group_id": f"g_{group}",
            "name": f"web{group}-{number}",
            "zone": str(number % 3),
            "lifecycle": "present",
            "image": "1.0.1",
            "boots": 1,
            "health": "healthy",
            "health_since": now,
            "watch_from": now,
            "created_at": now,
        }


def secret_of(machine: str) -> str:
    """As long as a real one (32 bytes in base 64)."""
    return f"secret-of-{machine}".ljust(43, "x")


def uuid_of(machine: str) -> str:
    return f"00000000-0000-4000-8000-{machine}"


def enrol_all(
    database: Database, *, groups: int = GROUPS, machines_each: int = MACHINES_EACH
) -> list[str]:
    """Every machine of the fleet has an agent that has not yet said anything; their ids."""
    now = to_us(datetime.now(UTC))
    machines = [machine_id(g, n) for g in range(groups) for n in range(machines_each)]
    with database.write() as connection:
        connection.execute(
            t.agents.insert(),
            [
                {
                    "machine_id": machine,
                    "secret_hash": hash_secret(secret_of(machine)),
                    "uuid": uuid_of(machine),
                    "enrolled_at": now,
                    "seen_at": now,
                }
                for machine in machines
            ],
        )
    return machines


def wait_at_rest(database: Database) -> None:
    """Until a server that has just begun has looked at every group."""
    deadline = time.monotonic() + SETTLE_S_MAX
    while True:
        query = select(func.count()).where(t.groups.c.wake_at <= to_us(datetime.now(UTC)))
        with database.read() as connection:
            if connection.execute(query).scalar_one() == 0:
                return
        if time.monotonic() > deadline:
            raise TimeoutError("the server goes on planning with nothing new to plan")
        time.sleep(0.2)
