"""Asks a Prometheus whether a query fires.

`GET URL/api/v1/query`: a vector that is not empty fires, as in an alerting rule; so does a scalar
that is not zero.  Anything else is no answer, and its words say what to do.

An outgoing address is refused where it is the server's own side (loopback, link-local) unless that
is allowed, so that nobody can make the server look at itself (DESIGN §13).
"""

import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from upkeep.core.alarm import AlarmState
from upkeep.engine.own_side import is_own_side

TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 1 << 20
DETAIL_LENGTH_MAX = 300


class CannotAskError(Exception):
    """Nobody knows whether it fires; the text says why, in words for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    state: AlarmState
    detail: str


class Prometheus:
    """Safe to use from several threads.

    Args:
        allow_local: let it look at loopback and link-local addresses.
    """

    def __init__(self, *, allow_local: bool = False) -> None:
        self._allow_local = allow_local
        # Environment proxies are not ours to use, and a redirect could lead anywhere.
        self._client = httpx.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def ask(self, url: str, query: str) -> Answer:
        """Raises: CannotAskError."""
        self._refuse_own_side(url)
        try:
            with self._client.stream(
                "GET", url.rstrip("/") + "/api/v1/query", params={"query": query}
            ) as response:
                body = _read(response)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            words = str(error) or type(error).__name__
            raise CannotAskError(f"{url} does not answer: {words}") from error
        return _understood(url, response.status_code, body)

    def _refuse_own_side(self, url: str) -> None:
        parts = urlsplit(url)
        try:
            found = socket.getaddrinfo(parts.hostname, parts.port or 0, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, ValueError) as error:
            raise CannotAskError(f"{parts.hostname} is no known host: {error}") from error
        for *_, address in found:
            if is_own_side(str(address[0])) and not self._allow_local:
                raise CannotAskError(
                    f"{address[0]} is this server's own side: start it with --allow-local-alarms"
                )


def url_error(url: str) -> str:
    """Why it is no address of a Prometheus; empty if it may be one."""
    try:
        parts = urlsplit(url)
        port_is_one = parts.port is None or parts.port > 0
    except ValueError:
        return "is no URL: write http://prometheus:9090"
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_one:
        return "is no URL: write http://prometheus:9090"
    if parts.username or parts.password or parts.query or parts.fragment:
        return "must have no user, password, query or fragment"
    if not url.isascii() or any(letter.isspace() or not letter.isprintable() for letter in url):
        return "has letters that no URL has"
    return ""


def _read(response: httpx.Response) -> bytes:
    body = b""
    for part in response.iter_bytes():
        body += part
        if len(body) > ANSWER_BYTES_MAX:
            raise CannotAskError("the answer is longer than 1 MiB: aggregate in the query")
    return body


def _understood(url: str, status: int, body: bytes) -> Answer:
    try:
        document: Any = json.loads(body)
        if document["status"] != "success":
            raise CannotAskError(f"the query is refused: {document['error']}"[:DETAIL_LENGTH_MAX])
        kind, result = document["data"]["resultType"], document["data"]["result"]
        if kind == "scalar":
            fires = float(result[1]) != 0
            return _answer(fires, f"it is {result[1]}")
        if kind != "vector":
            raise CannotAskError(f"the query answers a {kind}: write one that answers a vector")
        return _answer(bool(result), _first_of(result) if result else "nothing")
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise CannotAskError(
            f"{url} does not answer as a Prometheus does (status {status})"
        ) from error


def _answer(fires: bool, detail: str) -> Answer:
    state = AlarmState.FIRING if fires else AlarmState.QUIET
    return Answer(state=state, detail=detail[:DETAIL_LENGTH_MAX])


def _first_of(result: Any) -> str:
    labels = ", ".join(f"{key}={value}" for key, value in sorted(result[0]["metric"].items()))
    more = f" and {len(result) - 1} more" if len(result) > 1 else ""
    return f"{labels or 'it'} is {result[0]['value'][1]}{more}"
