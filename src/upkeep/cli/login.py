"""`upkeep login`: remember a server, a token and the server's CA on this machine."""

import re
import sys
from typing import Annotated

import typer

from upkeep.cli.client import Client, unreachable
from upkeep.cli.connection import Connection, config_path, save_login
from upkeep.cli.exit_codes import CommandFailed, ExitCode
from upkeep.cli.options import Json
from upkeep.cli.output import print_answer

_SHA256 = re.compile(r"[0-9a-f]{64}")


def login(
    server: Annotated[str, typer.Option(metavar="URL", help="https://HOST:PORT.")],
    ca_sha256: Annotated[
        str,
        typer.Option(
            "--ca-sha256", metavar="HEX", help="SHA-256 of the server's CA; `upkeep serve` says it."
        ),
    ],
    token: Annotated[
        str,
        typer.Option(
            metavar="TOKEN",
            help="Otherwise it is asked for, or read from standard input: a command line is seen"
            " by every user of the machine.",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Log in to a server: compare its CA with the pin, try the token, remember both.

    What is remembered can be read by you alone (mode 600).
    """
    pin = ca_sha256.lower().replace(":", "")
    if not _SHA256.fullmatch(pin):
        raise typer.BadParameter("--ca-sha256 is 64 hexadecimal digits")
    server = server.rstrip("/")
    ca_pem = fetch_ca(server, pin)
    connection = Connection(server=server, token=token or _ask_token(), ca_pem=ca_pem)
    client = Client(connection)
    try:
        client.get("/v1/groups", limit=1)  # A token that does not work is not written down.
    finally:
        client.close()
    path = config_path()
    try:
        save_login(connection, path)
    except OSError as error:
        raise CommandFailed(
            ExitCode.FAILED,
            f"The login could not be written to {path}: {error.strerror}.",
            "Mend that, or set UPKEEP_SERVER, UPKEEP_TOKEN and UPKEEP_CA instead.",
        ) from error
    print_answer(
        f"Logged in to {server}; remembered in {path}.",
        {"server": server, "config": str(path)},
        as_json=as_json,
    )


def fetch_ca(server: str, pin: str) -> str:
    """The server's CA as PEM, if it is the pinned one; nothing secret is sent before that.

    Raises:
        CommandFailed: another CA, no answer, or an address that cannot be.
    """
    from upkeep.agent import transport

    try:
        return transport.fetch_pinned_ca(server, pin)
    except transport.WrongCa as error:
        raise CommandFailed(
            ExitCode.UNREACHABLE,
            str(error).split(". ", 1)[0].rstrip(".") + ".",
            "Nothing was sent. Either this is not your server, or the pin is not of its CA:"
            " compare with what `upkeep serve` says at its start.",
        ) from error
    except transport.Unreachable as error:
        words = str(error).removeprefix(f"{server}: ")
        raise unreachable(server, words) from error
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _ask_token() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Token", hide_input=True, err=True)).strip()
    token = sys.stdin.readline().strip()
    if not token:
        raise typer.BadParameter("no token: give --token, or the token on standard input")
    return token
