"""The probe inside the machine, against real sockets that behave well and badly."""

import inspect
import socket
import ssl
import threading
import time

import pytest

from upkeep.agent.health import CLIENT_TIMEOUT_S, HealthState, parse_settings
from upkeep.agent.probe import look

H, U, X = HealthState.HEALTHY, HealthState.UNHEALTHY, HealthState.UNKNOWN
RICH_OK = b'{"applicationHealthState": "Healthy"}'


@pytest.fixture
def serve():
    """Serves the same bytes to every connection; returns the port.  None: says nothing."""
    listeners = []

    def start(content: bytes | None, *, context: ssl.SSLContext | None = None, drip_s: float = 0):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def answer(sock: socket.socket) -> None:
            try:
                if context is not None:
                    sock = context.wrap_socket(sock, server_side=True)
                requests.append(sock.recv(65536))
                if content is None:
                    sock.recv(1)  # Until the probe gives up.
                for byte in [content[i : i + 1] for i in range(len(content or b""))]:
                    if not drip_s:
                        sock.sendall(content)
                        break
                    sock.sendall(byte)
                    time.sleep(drip_s)
            except OSError:
                pass  # The probe has gone away, as it should.
            finally:
                sock.close()

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(sock,), daemon=True).start()

        requests: list[bytes] = []
        threading.Thread(target=accept, daemon=True).start()
        start.requests = requests
        return listener.getsockname()[1]

    yield start
    for listener in listeners:
        listener.close()


def response(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def settings(port: int, **change: object):
    return parse_settings({"protocol": "http", "port": port, "path": "/health?a=1", **change})


@pytest.mark.parametrize(
    ("content", "rich", "state", "detail"),
    [
        (response("200 OK"), False, H, "200 OK"),
        (response("204 No Content"), False, U, "204 No Content"),
        (response("302 Found", b"", "Location: /"), False, U, "302 Found"),
        (response("200 OK", RICH_OK), True, H, "the application says Healthy"),
        (response("202 Accepted", RICH_OK), True, H, "the application says Healthy"),
        (response("302 Found", RICH_OK, "Location: /"), True, X, "302 Found"),
        (response("503 Service Unavailable", RICH_OK), True, X, "503 Service Unavailable"),
        (response("200 OK", b"x" * 100_000), True, X, "the answer is not JSON"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n25\r\n" + RICH_OK
         + b"\r\n0\r\n\r\n", True, H, "the application says Healthy"),
        (b"SSH-2.0-OpenSSH\r\n", False, U, "SSH-2.0-OpenSSH"),
        (b"", False, U, "Remote end closed connection without response"),
    ],
)  # fmt: skip
def test_what_comes_back_over_http(serve, content, rich, state, detail) -> None:
    observation = look(settings(serve(content), rich=rich), timeout_s=5)
    assert (observation.state, observation.detail.strip()) == (state, detail)


def test_it_is_a_get_of_the_path_and_says_who_it_is(serve) -> None:
    port = serve(response("200 OK"))
    look(settings(port))
    request = serve.requests[0].decode()
    assert request.startswith("GET /health?a=1 HTTP/1.1\r\n")
    assert f"Host: localhost:{port}\r\n" in request
    assert "User-Agent: upkeep-agent\r\n" in request


def test_https_does_not_verify_the_application(serve, authority) -> None:
    port = serve(response("200 OK"), context=authority.context())
    assert look(settings(port, protocol="https")).state is H


def test_https_to_a_plain_port_is_unhealthy(serve) -> None:
    assert look(settings(serve(response("200 OK")), protocol="https"), timeout_s=5).state is U


def test_tcp_needs_only_the_connection(serve) -> None:
    assert look(parse_settings({"protocol": "tcp", "port": serve(None)})).state is H


def test_nothing_listens() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        observation = look(settings(port, rich=True))
        assert (observation.state, observation.detail) == (X, "connection refused")
        assert look(parse_settings({"protocol": "tcp", "port": port})).state is U


@pytest.mark.number("os-image", "health client")
def test_a_probe_inside_waits_30_seconds_and_follows_no_redirect(serve) -> None:
    elsewhere = serve(response("200 OK"))
    moved = serve(response("302 Found", b"", f"Location: http://127.0.0.1:{elsewhere}/"))
    assert CLIENT_TIMEOUT_S == inspect.signature(look).parameters["timeout_s"].default == 30
    assert look(settings(moved)).state is U
    assert len(serve.requests) == 1, "nobody was asked elsewhere"


@pytest.mark.parametrize("drip_s", [0, 0.05])
def test_silence_and_a_byte_now_and_then_both_end_with_the_time_out(serve, drip_s) -> None:
    """An application that sends a byte before every time-out must not hold the probe for ever."""
    content = response("200 OK") * 50 if drip_s else None
    observation = look(settings(serve(b"X-" + content if content else None, drip_s=drip_s)),
                       timeout_s=0.3)  # fmt: skip
    assert (observation.state, observation.detail) == (U, "timed out")
