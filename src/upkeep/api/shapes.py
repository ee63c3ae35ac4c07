"""The shapes that every noun shares: the list's envelope, names, moments, who may see what."""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from litestar import Request
from litestar.params import QueryParameter
from msgspec import Meta
from sqlalchemy import Connection, Row

from upkeep.api.auth import Actor
from upkeep.api.problems import InputError, ProblemKind, invalid, not_found
from upkeep.store import groups, machines
from upkeep.store.paging import LIMIT_MAX

T = TypeVar("T")

TEXT_LENGTH_MAX = 1_000

# \Z: `$` would let a newline follow.
Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z",
        description="1 to 63 of a-z, 0-9, dot, underscore and hyphen, first a letter or a digit",
    ),
]
Label = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:@/-]{0,99}\Z",
        description="1 to 100 letters, digits, spaces and ._:@/-, first a letter or a digit",
    ),
]
Text = Annotated[
    str,
    Meta(
        max_length=TEXT_LENGTH_MAX, pattern=r"^[^\x00]*\Z", description="a text without zero bytes"
    ),
]
ForceFlag = Annotated[bool, Meta(description="Overdraw budgets and ignore blackouts; recorded.")]

Limit = Annotated[int, QueryParameter(ge=1, le=LIMIT_MAX)]
After = Annotated[str | None, QueryParameter(max_length=300)]
Filter = Annotated[str, QueryParameter(max_length=100)]

AnyRequest = Request[Any, Any, Any]

_NO_CONTROL = re.compile(r"[^\x00-\x1f\x7f]*")
_DIGITS = re.compile(r"[0-9]{1,18}")


class Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is sent to us: a field that we do not know is an error, never passed over."""


class View(msgspec.Struct, kw_only=True):
    """What we answer."""


class Page(msgspec.Struct, Generic[T], kw_only=True):
    """Every list.  `next` goes into `?after=` for the page that follows; null on the last one."""

    items: list[T]
    next: str | None


def page_of(
    rows: Iterable[Row[Any]],
    has_more: bool,
    view: Callable[[Row[Any]], T],
    cursor: Callable[[Row[Any]], object],
) -> Page[T]:
    found = list(rows)
    return Page(
        items=[view(row) for row in found],
        next=str(cursor(found[-1])) if has_more and found else None,
    )


def text_cursor(after: str | None) -> str | None:
    """A cursor that is a name or an id.

    Raises:
        InputError: it cannot be one.
    """
    if after is not None and not _NO_CONTROL.fullmatch(after):
        raise invalid("after: take it from `next` of the page before")
    return after or None


def number_cursor(after: str | None) -> int | None:
    if not after:
        return None
    if not _DIGITS.fullmatch(after):
        raise invalid("after: take it from `next` of the page before")
    return int(after)


def is_name(text: str) -> bool:
    return re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", text) is not None


def is_label(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._:@/-]{0,99}", text) is not None


def find_group(connection: Connection, name: str, actor: Actor) -> Row[Any]:
    """The group of a path or a body.

    Raises:
        InputError: NOT_FOUND, also where it is outside of the token's scope.
    """
    row = groups.find(connection, name, scope=actor.scope) if is_name(name) else None
    if row is None:
        where = f" in scope {actor.scope!r}, to which your token is narrowed" if actor.scope else ""
        raise not_found(f"there is no group {name!r}{where}; list them with GET /v1/groups")
    return row


def find_machine(connection: Connection, name: str, actor: Actor) -> Row[Any]:
    row = machines.find(connection, name, scope=actor.scope) if is_name(name) else None
    if row is None:
        where = f" in scope {actor.scope!r}, to which your token is narrowed" if actor.scope else ""
        raise not_found(f"there is no machine {name!r}{where}; list them with GET /v1/machines")
    return row


def utc(moment: datetime, field: str) -> datetime:
    """A moment of a body, aware and in UTC.

    Raises:
        InputError: it has no offset.
    """
    if moment.tzinfo is None:
        raise invalid(f"{field}: say the offset, as in 2026-12-24T18:00:00Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise invalid(f"{field}: no such moment") from None


def note(request: AnyRequest, detail: object) -> None:
    """What was asked for, for the audit log; secrets and contents are left out by the caller."""
    request.scope["upkeep_detail"] = msgspec.json.encode(detail).decode()  # type: ignore[typeddict-unknown-key]


def too_many(detail: str) -> InputError:
    return InputError(ProblemKind.TOO_MANY, detail, retry_after_s=5)
