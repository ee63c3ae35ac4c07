"""A rolling policy as JSON: what the `policy` columns hold and the API shows.

Lengths are whole milliseconds in the column; a name says its unit.
"""

from dataclasses import fields
from datetime import timedelta
from functools import lru_cache
from typing import Any

import msgspec

from upkeep.core.policy import RollingPolicy

_MILLISECOND = timedelta(milliseconds=1)


def policy_to_json(policy: RollingPolicy) -> str:
    document: dict[str, Any] = {}
    for field in fields(policy):
        value = getattr(policy, field.name)
        if isinstance(value, timedelta):
            document[f"{field.name}_ms"] = value // _MILLISECOND
        else:
            document[field.name] = value
    return msgspec.json.encode(document).decode()


@lru_cache(maxsize=4096)
def policy_from_json(text: str) -> RollingPolicy:
    """Reads what `policy_to_json` wrote; a key that is missing has its default."""
    document: dict[str, Any] = msgspec.json.decode(text.encode())
    values: dict[str, Any] = {}
    for field in fields(RollingPolicy):
        if f"{field.name}_ms" in document:
            values[field.name] = timedelta(milliseconds=document[f"{field.name}_ms"])
        elif field.name in document:
            value = document[field.name]
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return RollingPolicy(**values)
