"""A set whose machines are there, and versions for it."""

import hashlib
from datetime import UTC, datetime
from typing import Any

import httpx
from sqlalchemy import insert, update

from upkeep.store import tables as t
from upkeep.store.database import to_us

SIZE = 3


def with_machines(server: Any, made: dict[str, Any], prefix: str = "m") -> None:
    """The set's three machines, as if somebody had made them; `prefix` begins their ids."""
    now = to_us(datetime.now(UTC))
    rows = [
        {
            "id": f"{prefix}_{number}",
            "group_id": made["properties"]["uniqueId"],
            "name": f"{made['name']}-{number}",
            "lifecycle": "present",
            "image": "1.0.0",
            "health": "healthy",
            "health_since": now,
            "watch_from": now,
            "created_at": now,
        }
        for number in range(SIZE)
    ]
    server.write(lambda c: c.execute(insert(t.machines), rows))
    server.write(lambda c: c.execute(update(t.groups).values(next_ordinal=len(rows))))


def publish(client: httpx.Client, version: str) -> None:
    content = b"a root file system"
    digest = {"Digest": f"sha-256={hashlib.sha256(content).hexdigest()}"}
    path = f"/v1/images/web/versions/{version}/tar?regions=north"
    assert client.put(path, content=content, headers=digest).status_code == 201
