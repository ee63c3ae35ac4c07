"""Speaks the native API (docs/native-api.md): HTTPS through the pinned CA, one call a method.

Every way in which a call can fail becomes a `CommandFailed` with the exit code of its kind, so no
command looks at a status or at an exception of the HTTP library.  Reads are tried once more when
the connection broke; writes never are, since the first may have been carried out.
"""

import json
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upkeep.cli.connection import Connection, find_connection
from upkeep.cli.exit_codes import CommandFailed, ExitCode
from upkeep.cli.output import sentence

if TYPE_CHECKING:
    pass

CONNECT_TIMEOUT_S = 10.0  # A server that takes longer is away for us.
READ_TIMEOUT_S = 30.0  # The slowest answer is a page of 1,000 rows.
UPLOAD_TIMEOUT_S = 600.0  # The server hashes and stores a blob of gigabytes before it answers.
EVENT_SILENCE_S = 60.0  # Longer than the server's keep-alive between two events.
PAGE_ITEMS_MAX = 1000  # The API's own maximum.
CHUNK_BYTES = 1024 * 1024

SERVICE_UNAVAILABLE = 503

Document = dict[str, Any]

# Every other 4xx is INVALID, every other 5xx FAILED.
STATUS_CODES: Mapping[int, ExitCode] = {
    401: ExitCode.NOT_AUTHORISED,
    403: ExitCode.NOT_AUTHORISED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.REFUSED,
    412: ExitCode.REFUSED,
    423: ExitCode.REFUSED,
    429: ExitCode.UNREACHABLE,
    502: ExitCode.UNREACHABLE,
    503: ExitCode.UNREACHABLE,
    504: ExitCode.TIMED_OUT,
}


class Client:
    """Calls to one server; made by `connect`, closed with it."""

    def __init__(self, connection: Connection) -> None:
        import httpx

        self._server = connection.server
        self._http = httpx.Client(
            base_url=connection.server,
            headers={"Authorization": f"Bearer {connection.token}", "Accept": "application/json"},
            verify=trust(connection.ca_pem),
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            # The pin speaks for one server, reached directly: no proxy, no .netrc.
            trust_env=False,
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: object) -> Document:
        import httpx

        try:
            return self._call("GET", path, query=query)
        except CommandFailed as failed:
            if not isinstance(failed.__cause__, httpx.RemoteProtocolError | httpx.ReadError):
                raise
            return self._call("GET", path, query=query)

    def post(self, path: str, document: Document | None = None) -> Document:
        return self._call("POST", path, document=document)

    def patch(self, path: str, document: Document) -> Document:
        return self._call("PATCH", path, document=document)

    def put(self, path: str) -> Document:
        return self._call("PUT", path)

    def delete(self, path: str) -> Document:
        return self._call("DELETE", path)

    def list(self, path: str, *, limit: int, **query: object) -> Document:
        """At most `limit` items over as many pages as that takes, in the API's envelope.

        `next` is the cursor of what was left out, or None.
        """
        items: list[Document] = []
        after = query.pop("after", None)
        while True:
            wanted = min(limit - len(items), PAGE_ITEMS_MAX)
            page = self.get(path, **query, limit=wanted, after=after)
            items.extend(page["items"])
            after = page.get("next")
            if not after or len(items) >= limit:
                return {"items": items, "next": after or None}

    def upload(
        self, path: str, file: Path, *, sha256: str, advance: Callable[[int], None] | None = None
    ) -> Document:
        """PUT a file, a piece at a time; the server checks the digest while it reads."""
        headers = {
            "Digest": f"sha-256={sha256}",
            "Content-Type": "application/octet-stream",
            "Content-Length": str(file.stat().st_size),
        }
        return self._call("PUT", path, content=_pieces(file, advance), headers=headers)

    def events(self) -> Iterator[str]:
        """The data of each server-sent event, for as long as the server sends them.

        A comment, with which the server says that it is still there, is an empty text.

        Raises:
            CommandFailed: it does not send events, or has stopped to.
        """
        import httpx

        timeout = httpx.Timeout(EVENT_SILENCE_S, connect=CONNECT_TIMEOUT_S)
        with self._failing_well("GET", "/v1/events"):
            with self._http.stream(
                "GET", "/v1/events", headers={"Accept": "text/event-stream"}, timeout=timeout
            ) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    raise refusal("GET", response.status_code, response.content)
                for line in response.iter_lines():
                    if line.startswith("data:"):
                        yield line.removeprefix("data:").strip()
                    elif line.startswith(":"):
                        yield ""

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        document: Document | None = None,
        content: Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Document:
        import httpx

        given = {key: str(value) for key, value in (query or {}).items() if value not in (None, "")}
        timeout = UPLOAD_TIMEOUT_S if content is not None else READ_TIMEOUT_S
        with self._failing_well(method, path):
            response = self._http.request(
                method,
                path,
                params=given,
                json=document,
                content=content,
                headers=headers,
                timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT_S),
            )
        if response.status_code >= httpx.codes.MULTIPLE_CHOICES:
            raise refusal(method, response.status_code, response.content)
        return _parse(response.content, self._server)

    @contextmanager
    def _failing_well(self, method: str, path: str) -> Iterator[None]:
        """Turns what the HTTP library raises into words and an exit code."""
        import httpx

        try:
            yield
        except httpx.ConnectTimeout as error:
            raise unreachable(self._server, "no answer in 10 seconds") from error
        except httpx.TimeoutException as error:
            advice = "Try again." if method == "GET" else "Look whether it happened, then repeat."
            raise CommandFailed(
                ExitCode.TIMED_OUT,
                f"{self._server} did not answer {method} {path} in time.",
                advice,
            ) from error
        except httpx.TransportError as error:
            raise unreachable(self._server, str(error) or type(error).__name__) from error


@contextmanager
def connect() -> Iterator[Client]:
    """A client for the server that `find_connection` names."""
    client = Client(find_connection())
    try:
        yield client
    finally:
        client.close()


def trust(ca_pem: str) -> ssl.SSLContext:
    """Trusts this CA and nothing else; without one, what this system trusts.

    Raises:
        CommandFailed: the PEM cannot be read.
    """
    if not ca_pem:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError) as error:
        raise CommandFailed(
            ExitCode.FAILED,
            "The CA certificate of this server is not a PEM certificate.",
            "Run `upkeep login` again, or let UPKEEP_CA name the right file.",
        ) from error
    return context


def unreachable(server: str, words: str) -> CommandFailed:
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return CommandFailed(
            ExitCode.UNREACHABLE,
            f"{server} shows a certificate that the known CA did not sign, or for another name.",
            "Nothing was sent. Is this your server? If its CA was replaced, run `upkeep login`"
            " again with the new SHA-256.",
        )
    return CommandFailed(
        ExitCode.UNREACHABLE,
        f"Cannot reach {server}: {words}.",
        "Check the address and that the server runs (`upkeep serve`), then try again.",
    )


def refusal(method: str, status: int, body: bytes) -> CommandFailed:
    """What a problem document says; also for an answer that is none.

    A write that is answered "not now" may be carried out later (a call that the planner has not
    come to), so it does not end like a server that is away.
    """
    code = STATUS_CODES.get(status, ExitCode.INVALID if status < 500 else ExitCode.FAILED)
    if status == SERVICE_UNAVAILABLE and method != "GET":
        code = ExitCode.TIMED_OUT
    try:
        problem = json.loads(body)
        title = str(problem.get("title") or problem.get("kind") or f"The server answered {status}")
        detail = str(problem.get("detail") or _ADVICE.get(code, "The server's log says more"))
    except (ValueError, AttributeError):
        return CommandFailed(
            code,
            f"The server answered {status} with something that is not the upkeep API.",
            "Check that the address is that of an upkeep server, not of a proxy before it.",
        )
    return CommandFailed(code, sentence(title), sentence(_API_CALL.sub(_as_command, detail)))


# The server speaks of its API; here people have commands.
_API_CALL = re.compile(
    r"GET /v1/(group|machine|rollout|image|budget|blackout|token|hold)s(?:/([a-z0-9][a-z0-9._-]*))?"
)


def _as_command(call: re.Match[str]) -> str:
    noun, name = call.groups()
    return f"`upkeep {noun} show {name}`" if name else f"`upkeep {noun} list`"


# Where a problem document has no detail of its own.
_ADVICE: Mapping[ExitCode, str] = {
    ExitCode.NOT_AUTHORISED: "Run `upkeep login` with a token that may do this.",
    ExitCode.NOT_FOUND: "List what there is: `upkeep NOUN list`.",
    ExitCode.UNREACHABLE: "Wait a little, then try again.",
}


def _parse(body: bytes, server: str) -> Document:
    if not body:
        return {}
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise CommandFailed(
            ExitCode.UNREACHABLE,
            f"{server} did not answer with the upkeep API.",
            "Check that the address is that of an upkeep server, not of a proxy before it.",
        )
    return document


def _pieces(file: Path, advance: Callable[[int], None] | None) -> Iterator[bytes]:
    with file.open("rb") as blob:
        while piece := blob.read(CHUNK_BYTES):
            yield piece
            if advance is not None:
                advance(len(piece))
