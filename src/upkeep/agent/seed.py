"""What the platform laid into the machine at `/run/upkeep-seed` (docs/guest.md)."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import durable

USER_DATA_BYTES_MAX = 64 * 1024  # The published limit of custom data.
SCRIPTS_MAX = 64
CUSTOM_DATA = "user-data"  # The custom data's name among the first-boot steps; always the first.


class SeedError(Exception):
    """A seed that is there and cannot be used; the words say which file and why."""


@dataclass(frozen=True)
class Enrolment:
    """Where to enrol, and the right to do it once."""

    server: str
    ca_sha256: str
    machine: str
    token: str


@dataclass(frozen=True)
class Script:
    """One first-boot script; `after` are the names that must have succeeded."""

    name: str
    content: bytes
    after: tuple[str, ...] = ()


def read_enrolment(seed_dir: Path) -> Enrolment | None:
    """`upkeep.json`; None when there is no seed or it holds no token.

    Raises:
        SeedError: it is there and is not what it must be.
    """
    raw = read_upkeep_json(seed_dir)
    if not raw.get("token"):
        return None
    missing = [key for key in ("server", "ca_sha256", "machine") if not raw.get(key)]
    if missing:
        raise SeedError(f"{seed_dir}/upkeep.json lacks {', '.join(missing)}")
    return Enrolment(
        server=str(raw["server"]),
        ca_sha256=str(raw["ca_sha256"]),
        machine=str(raw["machine"]),
        token=str(raw["token"]),
    )


def read_upkeep_json(seed_dir: Path) -> dict[str, Any]:
    """The document as it is; empty when there is none."""
    return _read_object(seed_dir / "upkeep.json")


def read_probe(seed_dir: Path) -> dict[str, Any] | None:
    """`probe.json`, not validated; None when there is none."""
    return _read_object(seed_dir / "probe.json") or None


def read_user_data(seed_dir: Path) -> bytes | None:
    """The custom data, if it is a program: only what begins with `#!` is ever run."""
    path = seed_dir / "user-data"
    try:
        content = durable.read_bounded(path, bytes_max=USER_DATA_BYTES_MAX)
    except (OSError, ValueError) as error:
        raise SeedError(f"{path}: {error}") from error
    return content if content is not None and content.startswith(b"#!") else None


def read_scripts(seed_dir: Path) -> tuple[Script, ...]:
    """`scripts.json`, in its order; empty when there is none.

    Raises:
        SeedError: it is there and is not what it must be.
    """
    path = seed_dir / "scripts.json"
    try:
        document = durable.read_json(path)
        if document is None:
            return ()
        if not isinstance(document, list) or len(document) > SCRIPTS_MAX:
            raise ValueError(f"must be a list of at most {SCRIPTS_MAX} scripts")
        scripts = tuple(
            Script(
                name=str(raw["name"]),
                content=base64.b64decode(raw["content"], validate=True),
                after=tuple(str(name) for name in raw.get("provision_after", ())),
            )
            for raw in document
        )
        names = [CUSTOM_DATA, *(script.name for script in scripts)]
        if len(set(names)) != len(names):
            raise ValueError(f"two scripts have one name, or one is called {CUSTOM_DATA}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SeedError(f"{path}: {error}") from error
    return scripts


def _read_object(path: Path) -> dict[str, Any]:
    try:
        document = durable.read_json(path)
    except (OSError, ValueError) as error:
        raise SeedError(f"{path}: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SeedError(f"{path} must hold an object")
    return document
