"""One probe from inside the machine, always against localhost.

GET only, at most 30 s in all, redirects are not followed, certificates are not verified: an
application's own certificate says nothing about its health.  Source: sheet §6.1.
What an answer means is in `health.py`.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from typing import Any

from .health import (
    BODY_BYTES_MAX,
    CLIENT_TIMEOUT_S,
    Observation,
    ProbeProtocol,
    ProbeSettings,
    judge,
)

# By number: minimal images have no /etc/hosts, and a resolver must not decide about health.
LOCALHOST = ("127.0.0.1", "::1")


def look(settings: ProbeSettings, *, timeout_s: float = CLIENT_TIMEOUT_S) -> Observation:
    """Makes one probe.  Never raises: what went wrong is in the observation's detail."""
    deadline = time.monotonic() + timeout_s
    try:
        sock = _connect(settings.port, deadline)
        try:
            if settings.protocol is ProbeProtocol.TCP:
                return judge(settings, answered=True)
            status, reason, body = _get(sock, settings, deadline)
        finally:
            sock.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        return judge(settings, answered=False, detail=_words(error))
    # The rich document says more than the status line does.
    detail = f"{status} {reason}".strip() if not (settings.rich and 200 <= status <= 299) else ""
    return judge(settings, answered=True, status=status, body=body, detail=detail)


def _connect(port: int, deadline: float) -> socket.socket:
    first: OSError | None = None
    for address in LOCALHOST:
        try:
            return socket.create_connection((address, port), timeout=_left_s(deadline))
        except OSError as error:
            first = first or error
    assert first is not None
    raise first


def _get(sock: socket.socket, settings: ProbeSettings, deadline: float) -> tuple[int, str, bytes]:
    if settings.protocol is ProbeProtocol.HTTPS:
        sock.settimeout(_left_s(deadline))
        sock = _unverified().wrap_socket(sock, server_hostname="localhost")
    request = (
        f"GET {settings.path} HTTP/1.1\r\nHost: localhost:{settings.port}\r\n"
        "User-Agent: upkeep-agent\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
    sock.settimeout(_left_s(deadline))
    sock.sendall(request.encode("ascii"))
    response = http.client.HTTPResponse(_Timed(sock, deadline), method="GET")  # type: ignore[arg-type]
    try:
        response.begin()
        body = response.read(BODY_BYTES_MAX)
    finally:
        response.close()
        if isinstance(sock, ssl.SSLSocket):
            sock.close()  # Wrapping took the socket over; the caller's name for it is empty now.
    return response.status, response.reason, body


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # From TLS 1.0 on (sheet §6.1).  Nothing secret is sent and nothing that comes is trusted.
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


class _Timed(io.RawIOBase):
    """A socket for HTTPResponse on which every read has only what is left of the whole time.

    A plain socket time-out counts anew for each byte, so an application that sends one byte
    every 29 s would hold the probe for ever.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        super().__init__()
        self._sock = sock
        self._deadline = deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_left_s(self._deadline))
        return self._sock.recv_into(buffer)


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return left_s


def _words(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, (TimeoutError, socket.timeout)):
        return "timed out"
    return str(error) or type(error).__name__
