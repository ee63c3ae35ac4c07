"""A server that plays the agent's protocol over real TLS, and a machine made of files."""

import datetime
import hashlib
import ipaddress
import json
import secrets
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from upkeep.agent.loop import Agent
from upkeep.agent.machine import Paths
from upkeep.agent.timing import Timing

WAIT_MAX_S = 10.0  # For a condition on a loaded machine; never waited for when all is well.
FAST = Timing(
    retry_first_s=0.02,
    retry_max_s=0.1,
    refused_retry_s=0.2,
    facts_every_s=0.05,
    change_gap_s=0.01,
    long_heartbeat_s=30.0,
    restart_max_s=30.0,
    poll_gap_s=0.05,
    poll_margin_s=5.0,
)


class Authority:
    """A CA and one server certificate for 127.0.0.1 that it signed."""

    def __init__(self, directory: Path) -> None:
        now = datetime.datetime.now(tz=datetime.UTC)
        ca_key, key = (
            ec.generate_private_key(ec.SECP256R1()),
            ec.generate_private_key(ec.SECP256R1()),
        )
        ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upkeep test CA")])

        def builder(name: x509.Name, public: Any) -> x509.CertificateBuilder:
            return (
                x509.CertificateBuilder()
                .subject_name(name)
                .issuer_name(ca_name)
                .public_key(public)
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(hours=1))
                .not_valid_after(now + datetime.timedelta(hours=1))
            )

        ca = (
            builder(ca_name, ca_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(ca_key, hashes.SHA256())
        )
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            builder(x509.Name([]), key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(ca_key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        self.ca_pem = ca.public_bytes(pem).decode()
        self.ca_sha256 = hashlib.sha256(ca.public_bytes(serialization.Encoding.DER)).hexdigest()
        self.file = directory / f"server-{secrets.token_hex(4)}.pem"
        self.file.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            + certificate.public_bytes(pem)
        )

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file)
        return context


class Problem(Exception):
    def __init__(self, status: int, kind: str, detail: str) -> None:
        super().__init__(kind)
        self.status, self.kind, self.detail = status, kind, detail


class Server:
    """The protocol page, played by the letter; every body it got is kept in `seen`."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.changed = threading.Condition()
        self.tokens: dict[str, str] = {}  # Token: machine, or `expired`.
        self.used: dict[str, str] = {}  # Token: the uuid that used it.
        self.secrets: dict[str, str] = {}  # Machine id: secret.
        self.uuids: dict[str, str] = {}
        self.nonces: dict[str, list[str]] = {}  # Machine id: last brought, last issued.
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.commands: list[dict[str, Any]] = []
        self.probe: dict[str, Any] | None = None
        self.poll: dict[str, Any] = {"mode": "interval", "seconds": 1}
        self.polls_open = 0
        self.answer_next: list[Problem] = []
        self.answer_next_poll: list[Problem] = []
        self.lose_replies = 0
        self._http: ThreadingHTTPServer | None = None
        self._sockets: list[socket.socket] = []
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def start(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                server._sockets.append(self.request)
                super().setup()

            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                self._send(200, server.authority.ca_pem.encode(), "application/x-pem-file")

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                parts = urlsplit(self.path)
                try:
                    answer = server.handle(
                        parts.path, parse_qs(parts.query), body, self.headers["Authorization"]
                    )
                    status = 200
                except Problem as problem:
                    status = problem.status
                    answer = {"kind": problem.kind, "title": "", "detail": problem.detail}
                if server.lose_replies:
                    server.lose_replies -= 1
                    self.close_connection = True
                    return
                self._send(status, json.dumps(answer).encode(), "application/json")

            def _send(self, status: int, content: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None: ...

            def get_request(self) -> tuple[socket.socket, Any]:
                sock, address = super().get_request()
                sock.settimeout(60)
                # The handshake is made by the handler's thread, at its first read.
                return server.context.wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False
                ), address

        self.context = self.authority.context()
        self._http = Listener(("127.0.0.1", self.port), Handler)
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Away: nothing listens, and what was open is cut."""
        if self._http is None:
            return
        self._http.shutdown()
        self._http.server_close()
        self._http = None
        with self.changed:
            self.changed.notify_all()
        for sock in self._sockets:
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                pass
        self._sockets.clear()

    def handle(
        self, path: str, query: dict[str, list[str]], body: dict[str, Any], bearer: str | None
    ) -> dict[str, Any]:
        with self.changed:
            self.seen.append((path.rpartition("/")[2], body))
            self.changed.notify_all()
            if path == "/agent/v1/enrol":
                return self._enrol(body)
            if self.answer_next:
                raise self.answer_next.pop(0)
            machine_id = self._known(bearer)
            if path == "/agent/v1/check-in":
                nonce = self._renew(machine_id, body)
            else:
                if self.answer_next_poll:
                    raise self.answer_next_poll.pop(0)
                nonce = self.nonces[machine_id][1]
                self._wait_for_news(float(query["wait"][0]))
            done = {(each["key"], each["fence"]) for each in body["done"]}
            self.commands = [c for c in self.commands if (c["key"], c["fence"]) not in done]
            return {
                "nonce": nonce,
                "poll": self.poll,
                "commands": list(self.commands),
                "probe": self.probe,
            }

    def _enrol(self, body: dict[str, Any]) -> dict[str, Any]:
        token = body["token"]
        wanted = self.tokens.get(token)
        if wanted is None:
            raise Problem(401, "token_unknown", "no such token")
        if wanted == "expired":
            raise Problem(401, "token_expired", "the token is older than one hour")
        if wanted != body["machine"]:
            raise Problem(404, "machine_unknown", f"no machine {body['machine']}")
        if self.used.setdefault(token, body["uuid"]) != body["uuid"]:
            raise Problem(409, "token_used", "the token was used by another machine")
        machine_id = f"m_{wanted}"
        self.secrets[machine_id] = secrets.token_hex(8)
        self.uuids[machine_id] = body["uuid"]
        self.nonces[machine_id] = ["", secrets.token_hex(4)]
        return {
            "machine_id": machine_id,
            "secret": self.secrets[machine_id],
            "nonce": self.nonces[machine_id][1],
        }

    def _known(self, bearer: str | None) -> str:
        machine_id, _, secret = (bearer or "").removeprefix("Bearer ").partition(".")
        if self.secrets.get(machine_id) != secret:
            raise Problem(401, "identity_unknown", "enrol this machine again")
        return machine_id

    def _renew(self, machine_id: str, body: dict[str, Any]) -> str:
        is_known = body["nonce"] in self.nonces[machine_id]
        if not is_known or body["uuid"] != self.uuids[machine_id]:
            raise Problem(409, "identity_conflict", f"two machines are {machine_id}")
        self.nonces[machine_id] = [body["nonce"], secrets.token_hex(4)]
        return self.nonces[machine_id][1]

    def _wait_for_news(self, seconds: float) -> None:
        self.polls_open += 1
        self.changed.notify_all()
        probe = self.probe
        self.changed.wait_for(
            lambda: self.commands or self.probe != probe or self._http is None, seconds
        )
        self.polls_open -= 1

    def refuse(self, status: int, kind: str, *, poll: bool = False) -> None:
        """Answers the next request, or the next poll, with a problem document."""
        (self.answer_next_poll if poll else self.answer_next).append(Problem(status, kind, "why"))

    def send(self, key: str, verb: str, *, fence: int = 1, **args: object) -> None:
        with self.changed:
            self.commands.append({"key": key, "fence": fence, "verb": verb, "args": args})
            self.changed.notify_all()

    def bodies(self, path: str = "check-in") -> list[dict[str, Any]]:
        with self.changed:
            return [body for name, body in self.seen if name == path]

    def wait_for(self, wanted: Callable[[], Any]) -> Any:
        """The first true answer of `wanted`, looked at after each request."""
        with self.changed:
            answer = self.changed.wait_for(wanted, WAIT_MAX_S)
        assert answer, f"not seen within {WAIT_MAX_S} s; requests: {self.seen[-3:]}"
        return answer

    def wait_for_check_in(self, wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        body: dict[str, Any] = self.wait_for(
            lambda: next((b for n, b in self.seen if n == "check-in" and wanted(b)), None)
        )
        return body

    def outcome(self, key: str) -> dict[str, Any]:
        """The outcome of a command, once a check-in or a poll has brought it."""
        done: dict[str, Any] = self.wait_for(
            lambda: next(
                (d for _, b in self.seen for d in b.get("done", ()) if d["key"] == key), None
            )
        )
        return done


class Machine:
    """The files of one machine under a directory of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = Paths(
            state=root / "state",
            seed=root / "seed",
            etc=root / "etc",
            run=root / "run",
            boot_id=root / "boot_id",
            reboot_required=root / "reboot-required",
            os_release=root / "os-release",
            pid1_environ=root / "environ",
            product_uuid=root / "product_uuid",
            machine_id=root / "machine-id",
        )
        for directory in (self.paths.state, self.paths.seed, self.paths.etc, self.paths.run):
            directory.mkdir(parents=True)
        self.paths.boot_id.write_text("boot-1\n")
        self.paths.os_release.write_text('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
        (self.paths.etc / "image.json").write_text('{"name": "web", "version": "1.0.1"}')
        self.uuid = str(uuid.uuid4())

    def seed(self, server: Server, token: str = "", name: str = "web-0", **changes: str) -> None:
        """Lays the seed; a token is made known to the server."""
        if token:
            server.tokens[token] = name
        document = {
            "server": server.url,
            "ca_sha256": server.authority.ca_sha256,
            "machine": name,
            "uuid": self.uuid,
            "token": token,
            **changes,
        }
        (self.paths.seed / "upkeep.json").write_text(json.dumps(document))


class Running:
    """An agent in a thread of this process."""

    def __init__(self, machine: Machine, **options: Any) -> None:
        options.setdefault("timing", FAST)
        self.agent = Agent(machine.paths, **options)
        self._thread = threading.Thread(target=self.agent.run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.agent.stop()
        self._thread.join(WAIT_MAX_S)
        assert not self._thread.is_alive(), "the agent did not stop"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other-ca"))


@pytest.fixture
def server(authority: Authority) -> Iterator[Server]:
    server = Server(authority)
    yield server
    server.stop()


@pytest.fixture
def make_machine(tmp_path: Path) -> Callable[[str], Machine]:
    return lambda name: Machine(tmp_path / name)


@pytest.fixture
def machine(make_machine: Callable[[str], Machine]) -> Machine:
    return make_machine("web-0")


@pytest.fixture
def start_agent() -> Iterator[Callable[..., Running]]:
    """Starts agents and stops those that still run at the end."""
    started: list[Running] = []

    def start(machine: Machine, **options: Any) -> Running:
        started.append(Running(machine, **options))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def fast() -> Timing:
    return FAST


@pytest.fixture
def wait_until() -> Callable[[Callable[[], Any]], Any]:
    """Waits for a condition that no request tells of, such as a file."""

    def wait(wanted: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + WAIT_MAX_S
        while not (answer := wanted()):
            assert time.monotonic() < deadline, "the condition did not come"
            time.sleep(0.005)
        return answer

    return wait
