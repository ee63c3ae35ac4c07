"""Azure's documents: JSON objects whose keys are compared without case.

Clients send back what they were given, or parts of it, and expect to read what they wrote.  What
upkeep has no column for is kept as it was written; secrets are not.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from upkeep.api.problems import InputError, ProblemKind

Document = dict[str, Any]

# As deep as any of Azure's own goes, twice over; a deeper one is no document.
DEPTH_MAX = 32

# Never kept and never answered, wherever they stand.
_SECRETS = frozenset(
    {"adminpassword", "customdata", "userdata", "secrets", "protectedsettings", "password"}
)


def field(document: Any, *path: str) -> Any:
    """What stands at a path; None where any part of it is missing or is not an object."""
    found = document
    for name in path:
        if not isinstance(found, dict):
            return None
        found = next((value for key, value in found.items() if key.casefold() == name.casefold()),
                     None)  # fmt: skip
    return found


def checked(body: Any) -> Document:
    """A request's body as a document.

    Raises:
        InputError: it is no object, names a key twice, is nested beyond all measure, or holds a
            text that PostgreSQL cannot keep.
    """
    if not isinstance(body, dict):
        raise InputError(ProblemKind.BAD_REQUEST, "the body is a JSON object")
    _check(body, depth=0)
    return body


def merged(kept: Mapping[str, Any], given: Mapping[str, Any]) -> Document:
    """What is kept, changed by what is given: an object's keys one by one, all else as a whole.

    None takes a key away.  A key keeps the spelling that it had first.  Source: RFC 7396.
    """
    result = dict(kept)
    spelling = {key.casefold(): key for key in result}
    for key, value in given.items():
        name = spelling.get(key.casefold(), key)
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            before = result.get(name)
            result[name] = merged(before if isinstance(before, dict) else {}, value)
        else:
            result[name] = value
    return result


def without_secrets(value: Any) -> Any:
    """The document as it may be kept and shown."""
    if isinstance(value, dict):
        return {
            key: without_secrets(each)
            for key, each in value.items()
            if key.casefold() not in _SECRETS
        }
    if isinstance(value, list):
        return [without_secrets(each) for each in value]
    return value


def _check(value: Any, *, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise InputError(ProblemKind.BAD_REQUEST, f"the body is nested over {DEPTH_MAX} deep")
    if isinstance(value, str):
        _check_text(value)
    if isinstance(value, dict):
        _check_keys(value)
    parts: Iterable[Any] = ()
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, list):
        parts = value
    for part in parts:
        _check(part, depth=depth + 1)


def _check_keys(value: Mapping[str, Any]) -> None:
    seen: set[str] = set()
    for key in value:
        _check_text(key)
        folded = key.casefold()
        if folded in seen:
            raise InputError(ProblemKind.BAD_REQUEST, f"the key {key[:60]!r} stands there twice")
        seen.add(folded)


def _check_text(text: str) -> None:
    if "\x00" in text:
        shown = text.replace("\x00", "\\0")[:60]
        raise InputError(ProblemKind.BAD_REQUEST, f"the text {shown!r} holds a zero byte")
