"""What Azure's clients wrote of a thing, where no column holds it: tags, names of sizes, …

Under the key of the thing itself; no secret is in it (`api/arm/documents.py`).
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, select

from upkeep.store import tables as t
from upkeep.store.database import upsert


def read(connection: Connection, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The documents of these keys that are there."""
    d = t.arm_documents.c
    rows = connection.execute(select(t.arm_documents).where(d.key.in_(keys)))
    return {row.key: msgspec.json.decode(row.document) for row in rows}


def find(connection: Connection, key: str) -> dict[str, Any]:
    """Empty where nothing was written."""
    return read(connection, [key]).get(key, {})


def read_prefixed(connection: Connection, prefix: str) -> dict[str, dict[str, Any]]:
    d = t.arm_documents.c
    rows = connection.execute(
        select(t.arm_documents).where(d.key.startswith(prefix, autoescape=True)).order_by(d.key)
    )
    return {row.key: msgspec.json.decode(row.document) for row in rows}


def write(connection: Connection, key: str, document: dict[str, Any]) -> None:
    row = {"key": key, "document": msgspec.json.encode(document).decode()}
    upsert(connection, t.arm_documents, [row])


def remove(connection: Connection, key: str) -> None:
    connection.execute(delete(t.arm_documents).where(t.arm_documents.c.key == key))
