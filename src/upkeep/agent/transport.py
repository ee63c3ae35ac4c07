"""HTTPS to the server: one kept-alive connection per `Link`, trusted through the pinned CA only.

The system's own certificate store is never looked at: whoever can talk some public CA into a
certificate still cannot be this machine's server.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .wire import ProtocolError

CONNECT_TIMEOUT_S = 10.0  # A server that takes longer is away for us.
READ_TIMEOUT_S = 30.0  # Of a call that the server answers at once.
REPLY_BYTES_MAX = 1024 * 1024  # 64 commands with their arguments are under 64 KiB.
DETAIL_LENGTH_MAX = 500  # Of a problem document, as it is shown to a person.
CA_PATH = "/agent/v1/ca"
PEM_PATTERN = re.compile(
    r"-----BEGIN CERTIFICATE-----\r?\n(?:[A-Za-z0-9+/=]+\r?\n)+-----END CERTIFICATE-----"
)
PEM_BLOCKS_MAX = 8  # A CA and whatever chain somebody put beside it.


class Unreachable(Exception):
    """No answer: away, refused, timed out, or not who it must be.  The words say which."""


class WrongCa(Exception):
    """The server's CA is not the pinned one; nothing was sent to it."""


class Refused(Exception):
    """The server answered with a problem document, or with an error that is none.

    Attributes:
        kind: from the protocol's closed list; empty when the answer was no problem document.
        retry_after_s: what the server asked for; 0 when it did not.
    """

    def __init__(self, status: int, kind: str, detail: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{status} {kind}: {detail}")
        self.status = status
        self.kind = kind
        self.detail = detail
        self.retry_after_s = retry_after_s

    @property
    def is_lasting(self) -> bool:
        """True where the same call will be refused again until a person does something."""
        return 400 <= self.status < 500 and self.status not in (408, 425, 429)


def parse_server(url: str) -> tuple[str, int]:
    """Host and port of `https://host[:port]`.

    Raises:
        ValueError: it is anything else.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError(f"the server's address must be https://HOST[:PORT], not {url!r}")
    return parts.hostname, parts.port or 443


def fetch_pinned_ca(server: str, ca_sha256: str) -> str:
    """The server's CA as PEM, if and only if it is the pinned one.

    This is the one call without verification: what comes back is believed only for its digest,
    and only the certificate that has the digest is kept, whatever else was in the answer.

    Raises:
        WrongCa: the digest differs.
        Unreachable: no answer.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    link = Link(server, context)
    try:
        status, _, body = link.exchange("GET", CA_PATH, None, {}, READ_TIMEOUT_S)
    finally:
        link.close()
    if status != 200:
        raise Unreachable(f"{server}{CA_PATH} answered {status}; is this an upkeep server?")
    try:
        ders = [ssl.PEM_cert_to_DER_cert(block) for block in _pem_blocks(body)]
    except ValueError:  # The right letters, and no base64 all the same.
        ders = []
    if not ders:
        raise Unreachable(f"{server}{CA_PATH} holds no PEM certificate; is this an upkeep server?")
    digests = [hashlib.sha256(der).hexdigest() for der in ders]
    if ca_sha256.lower() not in digests:
        raise WrongCa(
            f"the CA of {server} has SHA-256 {digests[0]}, but {ca_sha256.lower()} is pinned."
            " Either this is not your server, or its CA was replaced:"
            " compare with the line that `upkeep machine add` prints before you enrol again"
        )
    return ssl.DER_cert_to_PEM_cert(ders[digests.index(ca_sha256.lower())])


def trust(ca_pem: str) -> ssl.SSLContext:
    """A context that trusts this CA and nothing else, and checks the server's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca_pem)
    return context


class Link:
    """One connection, opened when needed, kept for the next call.  For one thread at a time."""

    def __init__(self, server: str, context: ssl.SSLContext) -> None:
        self.server = server.rstrip("/")
        self._host, self._port = parse_server(server)
        self._context = context
        self._connection: http.client.HTTPSConnection | None = None
        self._is_interrupted = False

    def call(
        self,
        path: str,
        document: Mapping[str, Any],
        *,
        bearer: str = "",
        timeout_s: float = READ_TIMEOUT_S,
    ) -> Any:
        """POSTs a document, returns the parsed answer.

        Raises:
            Refused: the server said no.
            Unreachable: no answer in time.
            ProtocolError: an answer that is not JSON.
        """
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if bearer:
            headers["Authorization"] = f"Bearer {bearer}"
        body = json.dumps(document, separators=(",", ":")).encode()
        status, answer_headers, answer = self.exchange("POST", path, body, headers, timeout_s)
        if status != 200:
            raise _refusal(status, answer_headers, answer)
        try:
            return json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"{self.server}{path} answered with no JSON") from error

    def exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request, one answer, whatever its status.

        A kept connection that the server has closed meanwhile is opened again once: every call
        of the protocol may be repeated, because replies can be lost anyway.
        """
        was_open = self._connection is not None
        try:
            return self._exchange_once(method, path, body, headers, timeout_s)
        except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError) as error:
            self.close()
            if not was_open or self._is_interrupted:
                raise Unreachable(_words(self.server, error)) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(_words(self.server, error)) from error
        try:
            return self._exchange_once(method, path, body, headers, timeout_s)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(_words(self.server, error)) from error

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def interrupt(self) -> None:
        """Ends a call that another thread waits in; it sees `Unreachable`."""
        self._is_interrupted = True
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            try:
                # Not the TLS socket's own shutdown, which pulls the session from under a reader.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                pass  # It is down already, which is what was wanted.

    def _exchange_once(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection = self._connection
        if connection is None:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=CONNECT_TIMEOUT_S, context=self._context
            )
            connection.connect()
            self._connection = connection
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        connection.request(method, path, body=body, headers=dict(headers))
        response = connection.getresponse()
        # read(n) allocates n bytes at once before Python 3.12: only where no length was given.
        is_long = response.length is not None and response.length > REPLY_BYTES_MAX
        content = b"" if is_long else response.read(_read_limit(response))
        if is_long or len(content) > REPLY_BYTES_MAX:
            raise http.client.HTTPException(f"an answer of more than {REPLY_BYTES_MAX} bytes")
        if response.will_close:
            self.close()
        return response.status, dict(response.headers.items()), content


def _read_limit(response: http.client.HTTPResponse) -> int | None:
    return REPLY_BYTES_MAX + 1 if response.length is None else None


def _pem_blocks(body: bytes) -> list[str]:
    """Each certificate of an answer by itself."""
    return PEM_PATTERN.findall(body.decode("ascii", "replace"))[:PEM_BLOCKS_MAX]


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refused:
    kind, detail = "", ""
    try:
        document = json.loads(body)
        kind, detail = str(document["kind"]), str(document.get("detail") or document.get("title"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        detail = body[:DETAIL_LENGTH_MAX].decode("utf-8", "replace")
    wanted = {key.lower(): value for key, value in headers.items()}.get("retry-after", "")
    retry_after_s = float(wanted) if wanted.isdigit() else 0.0
    return Refused(status, kind[:64], detail[:DETAIL_LENGTH_MAX], retry_after_s=retry_after_s)


def _words(server: str, error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{server} shows a certificate that the pinned CA did not sign: {error}"
    if isinstance(error, (TimeoutError, socket.timeout)):  # Two classes before Python 3.10.
        return f"{server} did not answer in time"
    return f"{server}: {error or type(error).__name__}"
