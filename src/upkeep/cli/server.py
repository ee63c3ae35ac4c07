"""`upkeep serve` and `upkeep ca`: the server itself, and the CA by which others know it."""

import hashlib
import ssl
from pathlib import Path
from typing import Annotated, Any

import typer

from upkeep.cli.connection import find_connection
from upkeep.cli.exit_codes import CommandFailed, ExitCode
from upkeep.cli.options import Json
from upkeep.cli.output import note, print_json, say, sentence

ca_app = typer.Typer(no_args_is_help=True, help="The server's certificate authority.")


ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML file with these settings.")
]
StateDirectory = Annotated[
    str | None,
    typer.Option(
        "--state-dir",
        envvar="UPKEEP_STATE_DIR",
        metavar="DIR",
        help="Database, images, own CA. [default: /var/lib/upkeep]",
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="PostgreSQL; otherwise SQLite."),
]
Listen = Annotated[
    list[str] | None,
    typer.Option("--listen", metavar="HOST:PORT", help="Repeat. [default: 0.0.0.0:8443]"),
]
Advertise = Annotated[
    str | None,
    typer.Option("--advertise", metavar="URL", help="Where machines find this server."),
]
PlatformNames = Annotated[
    list[str] | None,
    typer.Option(
        "--platform", metavar="NAME", help="nspawn, libvirt, simulated, agent_only; repeat."
    ),
]
BridgeName = Annotated[
    str | None,
    typer.Option("--bridge", metavar="NAME", help="Linux bridge of its machines."),
]
Network = Annotated[
    str | None,
    typer.Option("--network", metavar="ADDRESS/BITS", help="The bridge's own address."),
]
LibvirtUri = Annotated[str | None, typer.Option("--libvirt-uri", metavar="URI", help="libvirt's.")]
CertificateNames = Annotated[
    list[str] | None,
    typer.Option(
        "--name", metavar="NAME", help="Further name in the server's certificate; repeat."
    ),
]
LocalProbes = Annotated[
    bool | None,
    typer.Option("--allow-local-probes", help="Let probes look at this machine (tests)."),
]
LocalAlarms = Annotated[
    bool | None,
    typer.Option("--allow-local-alarms", help="Let alarms ask a Prometheus on this machine."),
]
Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", help="Actions under way at once.")
]


def serve(
    config: ConfigFile = None,
    state_dir: StateDirectory = None,
    database: DatabaseUrl = None,
    listen: Listen = None,
    advertise: Advertise = None,
    platforms: PlatformNames = None,
    bridge: BridgeName = None,
    network: Network = None,
    libvirt_uri: LibvirtUri = None,
    names: CertificateNames = None,
    allow_local_probes: LocalProbes = None,
    allow_local_alarms: LocalAlarms = None,
    workers: Workers = None,
) -> None:
    """Run the server until Ctrl-C; its log goes to stderr.

    Command line over --config over defaults. The first start makes the CA, and leaves an admin's
    token in the state directory, with which `upkeep` works on this machine without a login.
    """
    given: dict[str, Any] = {
        "state_dir": state_dir,
        "database": database,
        "listen": listen,
        "advertise": advertise,
        "platforms": platforms,
        "bridge": bridge,
        "network": network,
        "libvirt_uri": libvirt_uri,
        "names": names,
        "allow_local_probes": allow_local_probes,
        "allow_local_alarms": allow_local_alarms,
        "workers": workers,
    }
    _run_server(config, {key: value for key, value in given.items() if value not in (None, [])})


def _run_server(config: Path | None, given: dict[str, object]) -> None:
    """Until it is interrupted; what keeps it from starting is words and an exit code."""
    from upkeep.server.main import log_to_stderr
    from upkeep.server.main import serve as run_server
    from upkeep.server.settings import SettingsError, read_settings

    try:
        settings = read_settings(config, given)
        log_to_stderr()
        code = run_server(settings)
    except SettingsError as error:
        raise CommandFailed(
            ExitCode.FAILED, "The server cannot start.", sentence(str(error))
        ) from error
    raise typer.Exit(code)


@ca_app.callback()
def ca() -> None:
    """The server's certificate authority."""


@ca_app.command("show")
def show_ca(as_json: Json = False) -> None:
    """Show the SHA-256 of the server's CA, as `upkeep login` and machines pin it."""
    connection = find_connection()
    if not connection.ca_pem:
        raise CommandFailed(
            ExitCode.NOT_FOUND,
            f"{connection.server} is trusted through this system's own certificates.",
            "There is no CA to pin.",
        )
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(connection.ca_pem.strip())).hexdigest()
    if as_json:
        print_json({"server": connection.server, "sha256": digest, "pem": connection.ca_pem})
        return
    say(digest)
    note(f"Log in elsewhere: upkeep login --server {connection.server} --ca-sha256 {digest}")
