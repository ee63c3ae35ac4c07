"""A closed set of words that prints as the word itself.

Python 3.9, the agent's floor, has no `StrEnum`, and a plain `str, Enum` formats differently
from one version to the next; this one is the same on all.
"""

from __future__ import annotations

from enum import Enum


class TextEnum(str, Enum):
    """Members are strings on the wire, in files and in messages."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(str(self.value), spec)
