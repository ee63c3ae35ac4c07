"""`upkeep serve`: one process with the engine, the API, the agents' protocol and the page.

Order of a start: settings, state directory and its lock, database and migrations, own CA,
platforms, engine threads, and last the sockets; so whoever can connect finds a server that works.
Killed at any moment, the next start goes on from the rows; no machine is touched by either.
"""

import asyncio
import ipaddress
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import uvicorn
import uvloop
from sqlalchemy.exc import SQLAlchemyError

from upkeep.api.app import create_app
from upkeep.api.certificates import CertificateError, Certificates, open_certificates
from upkeep.api.change_feed import ChangeFeed
from upkeep.api.database_errors import from_database
from upkeep.api.serve_http import EdgeServer, keep_large_blocks_apart, raise_file_limit
from upkeep.api.services import Services
from upkeep.catalogue.blobs import BlobStore
from upkeep.core.snapshot import Plan
from upkeep.core.version import ReplicationState
from upkeep.engine.alarms import AlarmLoop
from upkeep.engine.clock import EngineClock
from upkeep.engine.executor import Executor
from upkeep.engine.health_watch import HealthWatch
from upkeep.engine.prober import NetworkProber, ProbeLoop
from upkeep.engine.prometheus import Prometheus
from upkeep.platforms.agent_only import AgentOnlyPlatform
from upkeep.platforms.bridge import Bridge
from upkeep.platforms.simulated_host import SimulatedHost
from upkeep.ports import AGENT_ONLY, DriverError, Platform
from upkeep.server.alarms import StoredAlarms
from upkeep.server.pauses import ShortPauses
from upkeep.server.provision import StoreProvisioner
from upkeep.server.runner import Runner
from upkeep.server.settings import ServerSettings, SettingsError, split_address
from upkeep.server.sole import end_dead_leases, hold_state
from upkeep.server.staging import Staging
from upkeep.server.survey import Survey
from upkeep.store.database import Database
from upkeep.store.fleet import SqlFleetStore
from upkeep.store.groups import remove_if_empty
from upkeep.store.migrate import migrate

# Beside the first admin's token: with both, root works on this machine without a login.
ADDRESS_FILE = "address"

log = logging.getLogger("upkeep.server")

# Beyond it new containers fail to boot, with an error about path units that nobody understands.
INOTIFY_INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
MANY_MACHINES = 256

BACKLOG = 2_048
# A long poll is given up at once when the server stops; the agent simply comes again.
SHUTDOWN_S = 2


class SystemClock:
    """`ports.Clock` over this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class RandomIds:
    """`ports.Ids`: 80 random bits in base 32, so that no two servers draw the same."""

    _LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"

    def new(self, prefix: str) -> str:
        return f"{prefix}_" + "".join(secrets.choice(self._LETTERS) for _ in range(16))


def serve(settings: ServerSettings) -> int:
    """Run until interrupted; the exit code.

    Raises:
        SettingsError: something in the settings cannot be used on this machine.
    """
    if not __debug__:
        raise SettingsError("python -O strips the checks that keep machines safe: start without -O")
    raise_file_limit()
    keep_large_blocks_apart()
    try:
        database, server = _assemble(settings)
    except CertificateError as error:
        raise SettingsError(str(error)) from error
    except DriverError as error:
        raise SettingsError(f"{error.detail}; or leave its platform out") from error
    except OSError as error:
        raise SettingsError(f"{error}; see to that file or set another state_dir") from error
    except SQLAlchemyError as error:
        outage = from_database(error)
        if outage is None:
            raise
        raise SettingsError(f"the database: {outage.detail}") from error
    pauses = ShortPauses()
    pauses.begin()
    server.start()
    try:
        # uvicorn is given a loop that runs; its own `loop` setting would only be read by `run`.
        # asyncio's own loop keeps 256 KiB for each TLS connection, uvloop's touches 25.
        uvloop.run(server.serve_http())
    except KeyboardInterrupt:
        log.info("interrupted")
    finally:
        server.stop()
        database.close()
        pauses.end()
    return 0


def _assemble(settings: ServerSettings) -> tuple[Database, "_Assembly"]:
    prepare_state(settings.state)
    # Never given back: what workers are doing may go on until the very end of the process.
    hold_state(settings.state)
    database = Database(settings.database_url)
    migrate(database)
    return database, _Assembly(settings, database)


def prepare_state(state: Path) -> None:
    """The state directory: passable, since hypervisors read images below it, and not listable.

    The database is readable by its owner alone from its first byte on; SQLite gives its log
    files the same mode.
    """
    state.mkdir(parents=True, exist_ok=True)
    state.chmod(0o711)
    os.close(os.open(state / "upkeep.db", os.O_CREAT | os.O_RDWR, 0o600))


class _Assembly:
    """Everything one server process is made of, wired once."""

    def __init__(self, settings: ServerSettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._notify = ChangeFeed()
        self._store = SqlFleetStore(database, on_mark=self._marked)
        self._clock = EngineClock(SystemClock(), self._store)
        certificates = open_certificates(
            settings.state / "ca", certificate_names(settings), now=datetime.now(UTC)
        )
        blobs = BlobStore(settings.state / "blobs")
        platforms = open_platforms(settings)
        provisioner = StoreProvisioner(
            database, blobs, certificates, self._clock, server_url=settings.advertised
        )
        owner = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._watch = HealthWatch(self._store)
        self._runner = Runner(
            self._store,
            self._clock,
            Executor(
                self._store,
                {**platforms, AGENT_ONLY: AgentOnlyPlatform()},
                provisioner,
                self._clock,
                owner=owner,
                by_agent=frozenset({AGENT_ONLY}),
            ),
            self._watch,
            workers=settings.workers,
            survey=Survey(self._store, platforms, self._clock),
            staging=Staging(self._store, platforms, provisioner, self._clock),
            on_plan=self._planned,
        )
        self._probes = ProbeLoop(
            self._watch,
            NetworkProber(allow_local=settings.allow_local_probes),
            self._clock,
            on_change=self._runner.wake,
        )
        self._stored_alarms = StoredAlarms(database, self._clock, self._marked)
        self._prometheus = Prometheus(allow_local=settings.allow_local_alarms)
        self._alarms = AlarmLoop(self._stored_alarms, self._prometheus.ask, SystemClock())
        self._certificates = certificates
        self._app = create_app(self._services(certificates, blobs, platforms))

    def _services(
        self, certificates: Certificates, blobs: BlobStore, platforms: Mapping[str, Platform]
    ) -> Services:
        return Services(
            database=self._database,
            store=self._store,
            clock=self._clock,
            watch=self._watch,
            blobs=blobs,
            certificates=certificates,
            ids=RandomIds(),
            notify=self._notify,
            url=self._settings.advertised,
            state_dir=self._settings.state,
            platforms=frozenset(platforms),
            wake=self._runner.reload_watch,
            is_ready=lambda: self._runner.ticks > 0,
            replication=ReplicationState.REPLICATING,
            network=network_of(self._settings) if platforms else "",
            ask_alarm=self._prometheus.ask,
        )

    def start(self) -> None:
        if not self._settings.database and (
            ended := end_dead_leases(self._database, now=self._clock.now())
        ):
            log.info("the server before had %d actions in hand; they are taken up", ended)
        self._stored_alarms.doubt_all()
        self._runner.start()
        self._probes.start()
        self._alarms.start()

    def stop(self) -> None:
        self._alarms.stop()
        self._prometheus.close()
        self._probes.stop()
        self._runner.stop()

    async def serve_http(self) -> None:
        self._notify.bind(asyncio.get_running_loop())
        config = uvicorn.Config(
            self._app,
            http="httptools",
            lifespan="on",
            access_log=False,
            log_config=None,
            ssl_certfile=str(self._certificates.chain),
            ssl_keyfile=str(self._certificates.key),
            timeout_graceful_shutdown=SHUTDOWN_S,
            backlog=BACKLOG,
        )
        server = EdgeServer(config, self._app)
        (self._settings.state / ADDRESS_FILE).write_text(self._settings.local_address + "\n")
        sockets = [open_socket(address) for address in self._settings.listen]
        log.info("listening on %s, machines use %s", self._settings.listen,
                 self._settings.advertised)  # fmt: skip
        await server.serve(sockets=sockets)

    def _marked(self, group: str) -> None:
        self._runner.wake()
        self._notify.changed(group)

    def _planned(self, plan: Plan) -> None:
        if plan.group.capacity == 0:
            now = self._clock.now()
            with self._database.write() as connection:
                remove_if_empty(connection, plan.group.id, now=now)
        self._notify.changed(plan.group.id)


def network_of(settings: ServerSettings) -> str:
    """The addresses of the bridge's network, from the bridge's own address."""
    return str(ipaddress.ip_interface(settings.network).network)


def open_platforms(settings: ServerSettings) -> dict[str, Platform]:
    """The drivers of hypervisors that the settings name; `agent_only` has none."""
    bridge = Bridge(name=settings.bridge, address=settings.network)
    makers: dict[str, Callable[[], Platform]] = {
        "nspawn": lambda: _open_nspawn(settings.state / "nspawn", bridge),
        "libvirt": lambda: _open_libvirt(settings, bridge),
        "simulated": SimulatedHost,
    }
    return {name: makers[name]() for name in settings.platforms if name != AGENT_ONLY}


def _open_nspawn(root: Path, bridge: Bridge) -> Platform:
    from upkeep.platforms.nspawn import NspawnPlatform

    if os.geteuid() != 0:
        raise SettingsError("platform nspawn needs root: start the server as root, or leave it out")
    root.mkdir(exist_ok=True, mode=0o700)
    _ensure(bridge, root)
    if (room := room_for_machines(INOTIFY_INSTANCES)) < MANY_MACHINES:
        log.warning(
            "this host has room for some %d machines with a systemd each: for more, "
            "sysctl -w fs.inotify.max_user_instances=%d", room, 4 * MANY_MACHINES,
        )  # fmt: skip
    return NspawnPlatform(root, bridge=bridge)


def _open_libvirt(settings: ServerSettings, bridge: Bridge) -> Platform:
    # Imported here: the library is needed only where there are virtual machines.
    from upkeep.platforms.libvirt import LibvirtPlatform

    root = settings.state / "libvirt"
    root.mkdir(exist_ok=True, mode=0o711)
    # Now, not with the first machine: the server may be told to listen on the bridge's address.
    _ensure(bridge, root)
    return LibvirtPlatform(root, uri=settings.libvirt_uri, bridge=bridge)


def _ensure(bridge: Bridge, root: Path) -> None:
    try:
        bridge.ensure(root)
    except DriverError as error:
        raise SettingsError(f"the bridge of this server's machines: {error.detail}") from error


def certificate_names(settings: ServerSettings) -> list[str]:
    """What the server is called: by machines, by people, by itself."""
    names = {"localhost", "127.0.0.1", socket.gethostname(), *settings.names}
    names.add(settings.advertised.removeprefix("https://").rpartition(":")[0].strip("[]"))
    for address in settings.listen:
        host, _ = split_address(address)
        if host not in ("0.0.0.0", "::"):
            names.add(host)
    return sorted(names)


def open_socket(address: str) -> socket.socket:
    """A listening socket, or a clear word on why not."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it.  Head and body of an answer leave in two packets, and without it the
    # second waits for the agent to acknowledge the first: 40 ms on each kept connection.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {address}: {error.strerror}; is another server running there?"
        ) from error
    return listener


def room_for_machines(limit: Path) -> int:
    """How many containers this kernel lets root run: each systemd takes up to four instances."""
    try:
        return int(limit.read_text()) // 4
    except (OSError, ValueError):
        return MANY_MACHINES  # Nothing is known that speaks against it.


def log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
