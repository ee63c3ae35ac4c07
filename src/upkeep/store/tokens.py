"""People's and programs' tokens: only the hash of a secret is kept, and it is shown once."""

import hashlib
import hmac
import os
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from upkeep.ports import Ids
from upkeep.store import tables as t
from upkeep.store.database import Database, to_us, to_us_or_none
from upkeep.store.paging import read_page

ADMIN_TOKEN_FILE = "admin-token"
SECRET_BYTES = 32


def new_secret() -> str:
    """256 random bits as text without dots, which no command line takes for an option."""
    while (secret := secrets.token_urlsafe(SECRET_BYTES)).startswith("-"):
        pass
    return secret


def hash_secret(secret: str) -> str:
    """SHA-256, plain: the secret itself has 256 bits, there is nothing to guess slowly."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def is_secret(secret: str, secret_hash: str) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(hash_secret(secret), secret_hash)


def create(
    connection: Connection,
    *,
    token_id: str,
    name: str,
    role: str,
    scope: str,
    expires_at: datetime | None,
    now: datetime,
) -> str | None:
    """The new token's secret; None if the name is taken."""
    taken = select(t.tokens.c.id).where(t.tokens.c.name == name)
    if connection.execute(taken).first() is not None:
        return None
    secret = new_secret()
    connection.execute(
        insert(t.tokens).values(
            id=token_id,
            name=name,
            secret_hash=hash_secret(secret),
            role=role,
            scope=scope,
            created_at=to_us(now),
            expires_at=to_us_or_none(expires_at),
        )
    )
    return secret


def find(connection: Connection, token_id: str) -> Row[Any] | None:
    return connection.execute(select(t.tokens).where(t.tokens.c.id == token_id)).first()


def read_list(
    connection: Connection, *, after: str | None, limit: int
) -> tuple[list[Row[Any]], bool]:
    return read_page(connection, select(t.tokens), t.tokens.c.id, after=after, limit=limit)


def revoke(connection: Connection, token_id: str, *, now: datetime) -> bool:
    """From now on it opens nothing; False if there is no such token (any more)."""
    done = connection.execute(
        update(t.tokens)
        .where(t.tokens.c.id == token_id, t.tokens.c.revoked_at.is_(None))
        .values(revoked_at=to_us(now))
    )
    return done.rowcount == 1


def ensure_admin_token(
    database: Database, directory: Path, ids: Ids, *, now: datetime
) -> Path | None:
    """At the very first start: an admin's token in a file of mode 600; answers the file.

    None when there are tokens already.  The file is written before the row is committed: a crash
    between the two leaves a file that opens nothing and is written anew.
    """
    with database.write() as connection:
        if connection.execute(select(t.tokens.c.id).limit(1)).first() is not None:
            return None
        token_id = ids.new("upk")
        secret = create(
            connection,
            token_id=token_id,
            name="first-admin",
            role="admin",
            scope="",
            expires_at=None,
            now=now,
        )
        path = directory / ADMIN_TOKEN_FILE
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{token_id}.{secret}\n")
            file.flush()
            os.fsync(file.fileno())
    return path
