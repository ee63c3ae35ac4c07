"""The journal's file: what the agent was told and what became of it, over crashes and reboots.

It lies on the volume that survives an OS disk replacement.  What it means is in `step.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import durable
from .log import log
from .step import ENTRIES_MAX, Entry, EntryState, Journal
from .wire import Outcome

FILE_NAME = "journal.json"
BAD_FILE_NAME = "journal.bad.json"


def load(state_dir: Path) -> Journal:
    """The journal as it was last written; empty when there is none.

    A file that cannot be read as a journal (a damaged disk: our own writes are atomic) is set
    aside and the journal begins empty: the server repeats what is open, and it sends fences that
    are higher than any before, so nothing old can run because of it.
    """
    path = state_dir / FILE_NAME
    try:
        document = durable.read_json(path)
        return Journal() if document is None else from_json(document)
    except (ValueError, KeyError, TypeError) as error:
        kept = durable.set_aside(path, BAD_FILE_NAME)
        log("journal_unreadable", error=error, set_aside=kept)
        return Journal()


def save(state_dir: Path, journal: Journal) -> None:
    durable.write_json(state_dir / FILE_NAME, to_json(journal), mode=0o600)


def to_json(journal: Journal) -> dict[str, Any]:
    return {"fence_max": journal.fence_max, "entries": [_to_json(e) for e in journal.entries]}


def from_json(document: Mapping[str, Any]) -> Journal:
    """Reads `to_json` back.

    Raises:
        ValueError, KeyError, TypeError: it is not a journal.
    """
    entries = tuple(_from_json(each) for each in document["entries"][:ENTRIES_MAX])
    return Journal(entries=entries, fence_max=int(document["fence_max"]))


def _to_json(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "fence": entry.fence,
        "verb": entry.verb,
        "args": dict(entry.args),
        "state": entry.state.value,
        "boot_id": entry.boot_id,
        "outcome": None if entry.outcome is None else entry.outcome.value,
        "detail": entry.detail,
        "acknowledged": entry.acknowledged,
    }


def _from_json(raw: Mapping[str, Any]) -> Entry:
    outcome = raw["outcome"]
    return Entry(
        key=str(raw["key"]),
        fence=int(raw["fence"]),
        verb=str(raw["verb"]),
        args=dict(raw["args"]),
        state=EntryState(raw["state"]),
        boot_id=str(raw["boot_id"]),
        outcome=None if outcome is None else Outcome(outcome),
        detail=str(raw["detail"]),
        acknowledged=bool(raw["acknowledged"]),
    )
