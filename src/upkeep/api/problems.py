"""Errors as problem documents: `{"kind", "title", "status", "detail"}`, one shape everywhere.

`kind` is closed, for machines; `detail` is for people and says what to do.  A handler raises
`InputError`; whatever else is raised becomes one in `errors.py`.  Source: RFC 9457.
"""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

MEDIA_TYPE = "application/problem+json"
DETAIL_LENGTH_MAX = 1_000  # A message for people; what was sent is not sent back whole.


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
        # A detail may repeat what was sent: no browser is to take it for a page.
        headers = {"X-Content-Type-Options": "nosniff"}
        if self.retry_after_s:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="upkeep"'
        return headers


def invalid(detail: str) -> InputError:
    return InputError(K.INVALID, detail)


def bad_request(detail: str) -> InputError:
    """What the request says does not fit together."""
    return InputError(K.BAD_REQUEST, detail)


def not_found(detail: str) -> InputError:
    return InputError(K.NOT_FOUND, detail)


def conflict(detail: str) -> InputError:
    return InputError(K.CONFLICT, detail)


def to_problem(error: InputError) -> bytes:
    status, title = PROBLEMS[error.kind]
    detail = error.detail[:DETAIL_LENGTH_MAX]
    return msgspec.json.encode(Problem(kind=error.kind, title=title, status=status, detail=detail))
