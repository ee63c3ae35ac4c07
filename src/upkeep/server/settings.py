"""What one server is told at its start: command line over TOML file over defaults."""

import ipaddress
import tomllib
from pathlib import Path

import msgspec

PLATFORMS = ("nspawn", "libvirt", "simulated", "agent_only")


class SettingsError(Exception):
    """A setting that cannot be used; the text says what to set instead."""


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One server's settings; a TOML file has the same names.

    Attributes:
        state_dir: database, blobs, own CA, platform state; mode 700.
        database: an SQLAlchemy URL; empty means SQLite in the state directory.
        listen: addresses to serve on, each `host:port`.
        advertise: the URL that machines' agents use; empty means the bridge's address where a
            platform has one, else the first address listened on.
        platforms: which drivers this server runs.
        bridge: name of the Linux bridge of nspawn and libvirt machines.
        network: the bridge's own address with its prefix.
        libvirt_uri: where libvirt listens.
        names: further names and addresses for the server's certificate.
        allow_local_probes: let health probes look at loopback addresses, where simulated machines
            are (tests).
        allow_local_alarms: let alarms be asked at loopback addresses, where a Prometheus on this
            machine is.
        workers: actions under way at once.
    """

    state_dir: str = "/var/lib/upkeep"
    database: str = ""
    listen: tuple[str, ...] = ("0.0.0.0:8443",)
    advertise: str = ""
    platforms: tuple[str, ...] = ("nspawn", "agent_only")
    bridge: str = "upkeep0"
    network: str = "10.213.0.1/24"
    libvirt_uri: str = "qemu:///system"
    names: tuple[str, ...] = ()
    allow_local_probes: bool = False
    allow_local_alarms: bool = False
    workers: int = 32

    @property
    def state(self) -> Path:
        return Path(self.state_dir)

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.state.absolute() / 'upkeep.db'}"

    @property
    def advertised(self) -> str:
        if self.advertise:
            return self.advertise.rstrip("/")
        host, port = split_address(self.listen[0])
        if host in ("0.0.0.0", "::"):
            host = str(ipaddress.ip_interface(self.network).ip)
        return _url(host, port)

    @property
    def local_address(self) -> str:
        """Where this machine's own root finds the server."""
        host, port = split_address(self.listen[0])
        return _url({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)


def _url(host: str, port: int) -> str:
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def split_address(text: str) -> tuple[str, int]:
    """`host:port`, also `[v6]:port`.

    Raises:
        SettingsError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) <= 65_535:
        raise SettingsError(f"listen address {text!r} is not host:port, e.g. 0.0.0.0:8443")
    return host.strip("[]"), int(port)


def read_settings(path: Path | None, overrides: dict[str, object]) -> ServerSettings:
    """Settings from a TOML file with single values replaced.

    Raises:
        SettingsError: unreadable file, unknown name, wrong type or value.
    """
    document: dict[str, object] = {}
    if path is not None:
        try:
            document = tomllib.loads(path.read_text())
        except OSError as error:
            raise SettingsError(f"cannot read {path}: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{path} is not TOML: {error}") from error
    document.update(overrides)
    try:
        settings = msgspec.convert(document, ServerSettings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"settings: {error}") from error
    for name in settings.platforms:
        if name not in PLATFORMS:
            raise SettingsError(f"no platform {name!r}; there are {', '.join(PLATFORMS)}")
    if not settings.listen:
        raise SettingsError("listen is empty; name at least one host:port")
    for address in settings.listen:
        split_address(address)
    if not 1 <= settings.workers <= 1_000:
        raise SettingsError(f"workers is {settings.workers}; set 1 to 1000")
    return settings
