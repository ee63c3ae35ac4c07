"""Any exception as a problem document, with words that say what to do.

A handler raises `InputError` itself.  Here is what it does not raise: a route that is not there, a
body that is not what the route takes, a database that cannot write, a mistake of ours.
"""

import logging
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException
from sqlalchemy.exc import SQLAlchemyError

from upkeep.api.allowed import what_is_allowed
from upkeep.api.database_errors import from_database
from upkeep.api.problems import MEDIA_TYPE, PROBLEMS, InputError, ProblemKind, to_problem

log = logging.getLogger("upkeep.api")

K = ProblemKind

_KIND_BY_STATUS = {
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

# What the decoder says in terms of the code, or without what would be right.
_NEED_WORDS = ("Invalid enum value", "Object contains unknown field", "Expected `str` matching")
_NO_BODY = "send a JSON object as the body"
_NO_JSON = "the body must be JSON in UTF-8, nested a few levels deep"


def input_error_from(error: Exception, *, body: Any = None) -> InputError:
    """Any exception that a handler or Litestar may raise, as ours.

    Args:
        body: the type of the body that the route takes, if it takes one.
    """
    if isinstance(error, InputError):
        return error
    if isinstance(error, ValidationException):
        return InputError(K.INVALID, _validation_words(error, body))
    if isinstance(error, HTTPException) and error.status_code < 500:
        kind = _KIND_BY_STATUS.get(error.status_code, K.BAD_REQUEST)
        return InputError(kind, _words_of(kind, error))
    if isinstance(error, RecursionError | UnicodeError):
        return InputError(K.BAD_REQUEST, _NO_JSON)
    if isinstance(error, SQLAlchemyError) and (outage := from_database(error)) is not None:
        log.error("database_failed", exc_info=error)
        return outage
    log.error("request_failed", exc_info=error)
    return InputError(K.INTERNAL, "the server's log has the trace; tell whoever runs it")


def invalid_body(error: Exception, body: Any) -> InputError:
    """A body of the agents' protocol that cannot be decoded; it is decoded outside of Litestar."""
    if not isinstance(error, msgspec.ValidationError):
        return InputError(K.INVALID, f"{_NO_JSON}: {error}")
    message, _, place = str(error).partition(" - at ")
    return InputError(K.INVALID, _one_field(place.strip("`"), message, body))


def handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Litestar's exception handler for everything."""
    field = getattr(request.scope.get("route_handler"), "parsed_data_field", None)
    problem = input_error_from(error, body=field.annotation if field is not None else None)
    return Response(
        to_problem(problem),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.headers(),
    )


def _words_of(kind: ProblemKind, error: HTTPException) -> str:
    """Litestar's own words are an HTTP phrase or the decoder's; both leave out what to do."""
    if kind is K.BAD_REQUEST:
        return f"{_NO_JSON}: {error.detail}"
    if kind is K.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        return f"send one of {allowed}" if allowed else "/v1/openapi.json lists the methods"
    if kind is K.NOT_FOUND:
        return "there is no such path; /v1/openapi.json lists them"
    if kind is K.TOO_LARGE:
        return "the body is larger than this path takes; send less at once"
    return error.detail or PROBLEMS[kind][1]


def _validation_words(error: ValidationException, body: Any) -> str:
    """Litestar's `Validation failed for POST /x` with what follows it, a field each."""
    words = []
    for entry in error.extra if isinstance(error.extra, list) else []:
        if isinstance(entry, dict):
            is_body = entry.get("source") == "body"
            place, message = str(entry.get("key") or ""), str(entry.get("message") or "")
            words.append(_one_field(place, message, body if is_body else None))
    return "; ".join(words) or str(error.detail)


def _one_field(place: str, message: str, body: Any) -> str:
    if message == "'data'":  # The signature's own name for a body that was not sent.
        return _NO_BODY
    is_whole = place == "data"  # Litestar's name for the body itself.
    if body is not None and message.startswith(_NEED_WORDS):
        allowed = what_is_allowed(body, "" if is_whole else place)
        if allowed:
            said = "not allowed" if message.startswith("Expected") else message
            message = f"{said}; it is {allowed}"
    if is_whole:
        place = "body"
    return f"{place}: {message}" if place and place not in message else message
