"""Which server, with which token, trusting which CA.

Three sources, the first that knows wins: the environment (`UPKEEP_SERVER`, `UPKEEP_TOKEN`,
`UPKEEP_CA`), what `upkeep login` wrote, and on the server's own machine what the server left in
its state directory (`UPKEEP_SERVER` may then name another address of it).  A token is only sent to
the server it was given for: with `UPKEEP_SERVER` set to another one, the login's token and CA are
not looked at.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from upkeep.cli.exit_codes import CommandFailed, ExitCode

STATE_DIR = Path("/var/lib/upkeep")
# As the server writes them (store/tokens.py, api/certificates.py, server/main.py); a test holds
# them together.
ADMIN_TOKEN_FILE = "admin-token"
CA_FILE = "ca/ca.pem"
ADDRESS_FILE = "address"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Attributes:
    ca_pem: the only CA that is trusted; empty means the system's own store.
    """

    server: str
    token: str
    ca_pem: str


def config_path(environ: Mapping[str, str] = os.environ) -> Path:
    home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "/root")) / ".config")
    return Path(home) / "upkeep" / "config.toml"


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    return Path(environ.get("UPKEEP_STATE_DIR") or STATE_DIR)


def find_connection(environ: Mapping[str, str] = os.environ) -> Connection:
    """The connection to use.

    Raises:
        CommandFailed: no source knows a server and a token, or a file cannot be read.
    """
    login = _read_login(config_path(environ))
    wanted = environ.get("UPKEEP_SERVER", "").rstrip("/")
    if login.server and wanted in ("", login.server):
        stored = login
    elif login.server or (wanted and not _is_here(wanted)):
        stored = _NOTHING
    else:
        stored = _read_local(state_dir(environ))
    server = wanted or stored.server
    token = environ.get("UPKEEP_TOKEN") or stored.token
    if not server:
        raise CommandFailed(
            ExitCode.NOT_AUTHORISED,
            "This machine is not logged in to an upkeep server.",
            "Run `upkeep login --server https://HOST:PORT --ca-sha256 HEX` with a token from"
            " `upkeep token create`, or run this as root on the server itself.",
        )
    if not server.startswith("https://"):
        raise CommandFailed(
            ExitCode.USAGE,
            f"The server's address must be https://HOST[:PORT], not {server!r}.",
            "Correct UPKEEP_SERVER: a token is never sent in the clear.",
        )
    if not token:
        raise CommandFailed(
            ExitCode.NOT_AUTHORISED,
            f"No token is known for {server}.",
            "Set UPKEEP_TOKEN, or run `upkeep login` for this server.",
        )
    ca_file = environ.get("UPKEEP_CA", "")
    return Connection(
        server=server, token=token, ca_pem=_read_ca(Path(ca_file)) if ca_file else stored.ca_pem
    )


_NOTHING = Connection(server="", token="", ca_pem="")


def save_login(connection: Connection, path: Path) -> None:
    """Write the login where only this user reads it; complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lines = [
        f"{key} = {_toml_text(value)}"
        for key, value in (
            ("server", connection.server),
            ("token", connection.token),
            ("ca_pem", connection.ca_pem),
        )
    ]
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write("# Written by `upkeep login`.\n" + "\n".join(lines) + "\n")
    fresh.replace(path)


def _toml_text(value: str) -> str:
    """A basic string; what could end or bend it is escaped."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _read_login(path: Path) -> Connection:
    try:
        document = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return _NOTHING
    except (OSError, ValueError) as error:
        raise CommandFailed(
            ExitCode.FAILED,
            f"The login in {path} cannot be read: {error}.",
            "Mend or remove the file, then run `upkeep login` again.",
        ) from error
    return Connection(
        server=str(document.get("server", "")),
        token=str(document.get("token", "")),
        ca_pem=str(document.get("ca_pem", "")),
    )


def _read_local(state: Path) -> Connection:
    """What a server on this machine left for its own root; nothing where there is none."""
    try:
        token = (state / ADMIN_TOKEN_FILE).read_text().strip()
        ca_pem = (state / CA_FILE).read_text()
        server = (state / ADDRESS_FILE).read_text().strip()
    except OSError:
        return _NOTHING
    return Connection(server=server, token=token, ca_pem=ca_pem)


def _is_here(server: str) -> bool:
    """The address is this machine's own: then what its server left is for it."""
    return urlsplit(server).hostname in ("127.0.0.1", "::1", "localhost")


def _read_ca(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise CommandFailed(
            ExitCode.FAILED,
            f"The CA certificate {path}, named by UPKEEP_CA, cannot be read: {error}.",
            "Let UPKEEP_CA name a PEM file, or unset it.",
        ) from error
