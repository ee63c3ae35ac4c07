"""Who this machine is to its server: `identity.json`, mode 0600, on the data volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from . import durable
from .log import log

FILE_NAME = "identity.json"
CONFLICT_FILE_NAME = "identity.conflict.json"
BAD_FILE_NAME = "identity.bad.json"
FILE_MODE = 0o600  # The secret is in it.


@dataclass(frozen=True)
class Identity:
    """Attributes:
    server: `https://host:port`.
    ca_sha256: the pin, lower-case hex, over the DER form of `ca_pem`.
    uuid: the hardware uuid that was enrolled.
    nonce: from the last reply to a check-in; written before the next request is made.
    """

    server: str
    ca_sha256: str
    ca_pem: str
    machine: str
    machine_id: str
    secret: str
    uuid: str
    nonce: str

    @property
    def bearer(self) -> str:
        return f"{self.machine_id}.{self.secret}"

    def __repr__(self) -> str:
        """Without the secret: a trace goes to the log."""
        return f"Identity({self.machine_id} at {self.server})"


def load(state_dir: Path) -> Identity | None:
    """The identity; None when there is none, or none that can be read (it is then set aside)."""
    path = state_dir / FILE_NAME
    try:
        document = durable.read_json(path)
        return None if document is None else _from_json(document)
    except (ValueError, KeyError, TypeError) as error:
        kept = durable.set_aside(path, BAD_FILE_NAME)
        log("identity_unreadable", error=error, set_aside=kept)
        return None


def save(state_dir: Path, identity: Identity) -> None:
    durable.write_json(state_dir / FILE_NAME, asdict(identity), mode=FILE_MODE)


def set_aside_conflict(state_dir: Path) -> Path:
    """Puts the identity away that another machine uses too; `doctor` shows that it is there."""
    return durable.set_aside(state_dir / FILE_NAME, CONFLICT_FILE_NAME)


def has_conflict(state_dir: Path) -> bool:
    return (state_dir / CONFLICT_FILE_NAME).exists()


def _from_json(document: Mapping[str, Any]) -> Identity:
    values = {each.name: document[each.name] for each in fields(Identity)}
    if not all(isinstance(value, str) for value in values.values()):
        raise TypeError("every field of an identity is a text")
    return Identity(**values)
