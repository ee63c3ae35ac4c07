"""A scripted server over real TLS on loopback, and the command line run against it.

The server answers what a test has laid down for a method and a path; what was asked of it is kept.
It stands for parsing, output and failures; `test_end_to_end.py` runs the real one.
"""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from typer.testing import CliRunner, Result

from upkeep.api.certificates import Certificates, open_certificates
from upkeep.cli.main import app

TOKEN = "upk_1.secret-of-the-test"


@dataclass(slots=True, kw_only=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass(slots=True)
class Said:
    """One answer; a list of events is sent as server-sent events, then the connection ends."""

    status: int = 200
    document: Any = None
    raw: bytes | None = None
    events: list[str] | None = None
    hang_up: bool = False


Answer = Said | Callable[[Asked], Said]


@dataclass(slots=True)
class ScriptedServer:
    """See the module text; `answers` may be changed while it runs."""

    url: str
    certificates: Certificates
    ca_file: Path
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def on(self, method: str, path: str, document: Any = None, status: int = 200) -> None:
        self.answers[method, path] = Said(status=status, document=document)

    def only(self, method: str, path: str) -> Asked:
        """The one request of this kind."""
        found = [each for each in self.asked if (each.method, each.path) == (method, path)]
        assert len(found) == 1, [(each.method, each.path) for each in self.asked]
        return found[0]


class _Handler(BaseHTTPRequestHandler):
    scripted: ScriptedServer
    protocol_version = "HTTP/1.1"
    # Head and body in two packets cost 40 ms an answer on loopback.
    disable_nagle_algorithm = True
    wbufsize = 65536

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        asked = Asked(
            method=self.command,
            path=parts.path,
            query=dict(parse_qsl(parts.query)),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
        )
        self.scripted.asked.append(asked)
        answer = self.scripted.answers.get((asked.method, asked.path))
        if answer is None:
            answer = problem(404, "There is no such thing", f"nothing at {asked.path}")
        said = answer(asked) if callable(answer) else answer
        if said.hang_up:
            self.close_connection = True
            self.connection.close()
            return
        if said.events is not None:
            self._stream(said.events)
            return
        body = said.raw if said.raw is not None else json.dumps(said.document).encode()
        self.send_response(said.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, events: list[str]) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(f"event: changed\ndata: {event}\n\n".encode())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: pytest shows what failed."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle of a handshake is what some tests are about."""


def problem(status: int, title: str, detail: str) -> Said:
    document = {"kind": "x", "title": title, "status": status, "detail": detail}
    return Said(status=status, document=document)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    names = ["127.0.0.1", "localhost"]
    return open_certificates(tmp_path_factory.mktemp("ca"), names, now=datetime.now(UTC))


@pytest.fixture
def scripted(certificates: Certificates, tmp_path: Path) -> Iterator[ScriptedServer]:
    ca_file = tmp_path / "ca-of-the-server.pem"
    ca_file.write_text(certificates.ca_pem)
    handler = type("Handler", (_Handler,), {})
    server = _Server(("127.0.0.1", 0), handler)
    server.socket = _wrapped(certificates, server.socket)
    scripted = ScriptedServer(
        url=f"https://127.0.0.1:{server.server_address[1]}",
        certificates=certificates,
        ca_file=ca_file,
    )
    handler.scripted = scripted  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield scripted
    server.shutdown()
    server.server_close()
    thread.join()


def _wrapped(certificates: Certificates, listener: Any) -> ssl.SSLSocket:
    context = certificates.server_context()
    return context.wrap_socket(listener, server_side=True, do_handshake_on_connect=False)


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No login, no server on this machine, no environment of the person who runs the tests."""
    for name in ("UPKEEP_SERVER", "UPKEEP_TOKEN", "UPKEEP_CA", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("UPKEEP_STATE_DIR", str(tmp_path / "no-server-here"))
    return home


@pytest.fixture
def logged_in(scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    """By the environment."""
    monkeypatch.setenv("UPKEEP_SERVER", scripted.url)
    monkeypatch.setenv("UPKEEP_TOKEN", TOKEN)
    monkeypatch.setenv("UPKEEP_CA", str(scripted.ca_file))
    return scripted


def run(*arguments: str, stdin: str | None = None) -> Result:
    """One command; whatever is not foreseen is raised here."""
    result = CliRunner().invoke(app, list(arguments), input=stdin, catch_exceptions=False)
    assert "Traceback" not in result.output
    return result
