"""Plain ASGI for the hot path: read a bounded body, answer JSON or a problem document."""

from collections.abc import Mapping
from typing import Any

from upkeep.api.problems import MEDIA_TYPE, InputError, ProblemKind, to_problem

# More than any body of people or programs needs; images are streamed, and agents have their own.
BODY_BYTES_MAX = 1024 * 1024

Scope = Mapping[str, Any]


def header(scope: Scope, name: bytes) -> bytes:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""


def source_of(scope: Scope) -> str:
    """The address that the request came from; no header can say another one."""
    client = scope.get("client")
    return str(client[0]) if client else ""


async def read_body(scope: Scope, receive: Any, *, bytes_max: int) -> bytes:
    """Raises InputError TOO_LARGE before more than that is kept."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body
    parts, size = [body], len(body)
    while message.get("more_body", False):
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > bytes_max:
            raise _too_large(bytes_max)
    return b"".join(parts)


async def answer(send: Any, body: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def answer_error(send: Any, error: InputError) -> None:
    body = to_problem(error)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", b"%d" % len(body)),
        *((name.lower().encode(), text.encode()) for name, text in error.headers().items()),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _too_large(bytes_max: int) -> InputError:
    return InputError(ProblemKind.TOO_LARGE, f"a body may have at most {bytes_max} bytes")
