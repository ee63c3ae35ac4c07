"""Single values of Azure's documents, read as leniently as Azure does."""

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypeVar

import msgspec

from upkeep.api.arm.documents import field
from upkeep.api.problems import invalid

T = TypeVar("T")


def flag(document: Any, *path: str) -> bool:
    """Azure's samples send flags as texts, too.  Source: sheet §2.3."""
    value = field(document, *path)
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str) and value.casefold() in ("true", "false"):
        return value.casefold() == "true"
    raise invalid(f"{path[-1]}: true or false")


def whole(value: Any, name: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 10**9:
        raise invalid(f"{name}: a whole number")
    return value


def seconds(value: Any, name: str) -> int:
    try:
        length = msgspec.convert(value, timedelta)
    except msgspec.ValidationError:
        raise invalid(f"{name}: a length in ISO 8601, as PT5M or PT1H30M") from None
    return int(length.total_seconds())


def one_of(words: Mapping[str, T], word: Any, name: str) -> T:
    """What one of the words means, compared without case."""
    for known, meaning in words.items():
        if isinstance(word, str) and word.casefold() == known.casefold():
            return meaning
    raise invalid(f"{name}: one of {', '.join(words)}")


def binary(value: Any, name: str) -> bytes:
    try:
        return b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise invalid(f"{name}: base64") from None


def duration(length: timedelta) -> str:
    """ISO 8601 as Azure writes it: PT0S, PT1H30M.  Whole seconds; hours may exceed a day."""
    hours, rest = divmod(int(length.total_seconds()), 3_600)
    minutes, seconds = divmod(rest, 60)
    text = f"{hours}H" * bool(hours) + f"{minutes}M" * bool(minutes) + f"{seconds}S" * bool(seconds)
    return "PT" + (text or "0S")
