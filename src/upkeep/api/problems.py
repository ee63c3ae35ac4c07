"""Errors as problem documents: `{"kind", "title", "status", "detail"}`, one shape everywhere.

`kind` is closed, for machines; `detail` is for people and says what to do.  A handler raises
`InputError`; whatever Litestar itself raises (no such route, a body that is not what the route
takes) is turned into the same shape here.  Source: RFC 9457.
"""

import logging
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

MEDIA_TYPE = "application/problem+json"
DETAIL_LENGTH_MAX = 1_000  # A message for people; what was sent is not sent back whole.

log = logging.getLogger("upkeep.api")


class ProblemKind(StrEnum):
    """Closed; `PROBLEMS` has the status and the title of each."""

    BAD_REQUEST = "bad_request"
    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_REVOKED = "token_revoked"
    TOKEN_UNKNOWN = "token_unknown"
    TOKEN_USED = "token_used"
    MACHINE_UNKNOWN = "machine_unknown"
    IDENTITY_UNKNOWN = "identity_unknown"
    IDENTITY_CONFLICT = "identity_conflict"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    REFUSED = "refused"
    DIGEST_MISMATCH = "digest_mismatch"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    TOO_MANY = "too_many"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    NO_SPACE = "no_space"


K = ProblemKind

PROBLEMS: Mapping[ProblemKind, tuple[int, str]] = {
    K.BAD_REQUEST: (400, "The request cannot be understood"),
    K.INVALID: (400, "A value is not allowed"),
    K.UNAUTHENTICATED: (401, "Who are you?"),
    K.TOKEN_EXPIRED: (401, "The token has expired"),
    K.TOKEN_REVOKED: (401, "The token was revoked"),
    K.TOKEN_UNKNOWN: (401, "There is no such token"),
    K.TOKEN_USED: (409, "The token was used by another machine"),
    K.MACHINE_UNKNOWN: (404, "There is no such machine"),
    K.IDENTITY_UNKNOWN: (401, "This machine is not enrolled"),
    K.IDENTITY_CONFLICT: (409, "Another machine uses this identity"),
    K.FORBIDDEN: (403, "The token does not allow this"),
    K.NOT_FOUND: (404, "There is no such thing"),
    K.METHOD_NOT_ALLOWED: (405, "This path has no such method"),
    K.CONFLICT: (409, "It does not fit what is there"),
    K.REFUSED: (409, "The planner refused it"),
    K.DIGEST_MISMATCH: (400, "The file is not what was announced"),
    K.TOO_LARGE: (413, "Too large"),
    K.UNSUPPORTED_MEDIA_TYPE: (415, "The body must be JSON"),
    K.TOO_MANY: (429, "Too many at once"),
    K.INTERNAL: (500, "Our mistake"),
    K.UNAVAILABLE: (503, "Not now"),
    K.NO_SPACE: (507, "The server's disk is full"),
}

_BY_STATUS = {
    401: K.UNAUTHENTICATED,
    403: K.FORBIDDEN,
    404: K.NOT_FOUND,
    405: K.METHOD_NOT_ALLOWED,
    409: K.CONFLICT,
    413: K.TOO_LARGE,
    415: K.UNSUPPORTED_MEDIA_TYPE,
    429: K.TOO_MANY,
    503: K.UNAVAILABLE,
}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The wire form."""

    kind: ProblemKind
    title: str
    status: int
    detail: str


class InputError(Exception):
    """What was asked for cannot be done; the answer is a problem document.

    Args:
        detail: for people: what is wrong and what to do.
        retry_after_s: 0, or when the same request may be better.
    """

    def __init__(self, kind: ProblemKind, detail: str, *, retry_after_s: int = 0) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.retry_after_s = retry_after_s

    @property
    def status(self) -> int:
        return PROBLEMS[self.kind][0]

    def headers(self) -> dict[str, str]:
        headers = {}
        if self.retry_after_s:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="upkeep"'
        return headers


def invalid(detail: str) -> InputError:
    return InputError(K.INVALID, detail)


def not_found(detail: str) -> InputError:
    return InputError(K.NOT_FOUND, detail)


def conflict(detail: str) -> InputError:
    return InputError(K.CONFLICT, detail)


def to_problem(error: InputError) -> bytes:
    status, title = PROBLEMS[error.kind]
    detail = error.detail[:DETAIL_LENGTH_MAX]
    return msgspec.json.encode(Problem(kind=error.kind, title=title, status=status, detail=detail))


def input_error_from(error: Exception) -> InputError:
    """Any exception that a handler or Litestar may raise, as ours."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, ValidationException):
        return InputError(K.INVALID, _validation_words(error))
    if isinstance(error, HTTPException):
        kind = _BY_STATUS.get(error.status_code)
        if kind is None:
            kind = K.BAD_REQUEST if error.status_code < 500 else K.INTERNAL
        if kind is not K.INTERNAL:
            return InputError(kind, error.detail or PROBLEMS[kind][1])
    log.error("request_failed", exc_info=error)
    return InputError(K.INTERNAL, "the server's log has the trace; tell whoever runs it")


def _validation_words(error: ValidationException) -> str:
    """Litestar's `Validation failed for POST /x` with what follows it, a field each."""
    words = []
    for entry in error.extra if isinstance(error.extra, list) else []:
        if isinstance(entry, dict):
            key = str(entry.get("key") or "")
            message = str(entry.get("message") or "")
            words.append(f"{key}: {message}" if key and key not in message else message)
    return "; ".join(words) or str(error.detail)


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's exception handler for everything."""
    problem = input_error_from(error)
    return Response(
        to_problem(problem),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.headers(),
    )
