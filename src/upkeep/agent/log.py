"""One line per outcome on standard error, `event key=value`: journald and people read it."""

from __future__ import annotations

import sys
import traceback

LINE_LENGTH_MAX = 2_000  # A trace of twenty frames; what is longer does not help anybody.


def log(event: str, **fields: object) -> None:
    parts = [event, *(f"{key}={_shown(value)}" for key, value in fields.items())]
    print(" ".join(parts)[:LINE_LENGTH_MAX], file=sys.stderr, flush=True)


def log_exception(event: str, **fields: object) -> None:
    """`log`, with the exception in hand: its words and the place it came from."""
    trace = traceback.format_exc(limit=-4)
    log(event, **fields, trace=trace.strip())


def _shown(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and " " not in text else repr(text)
