"""`upkeep demo`: the main job on machines of this host, watched from outside."""

from pathlib import Path
from typing import Annotated

import typer

from upkeep.cli.exit_codes import CommandFailed, ExitCode

MACHINES_DEFAULT = 6


def demo(
    platform: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="nspawn (containers), libvirt (virtual machines), or simulated.",
        ),
    ] = "nspawn",
    machines: Annotated[
        int, typer.Option(min=1, max=20, metavar="N", help="How many.")
    ] = MACHINES_DEFAULT,
    exit_at_end: Annotated[
        bool, typer.Option("--exit", help="End by itself; otherwise Ctrl-C ends it.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write what was seen there.")
    ] = None,
) -> None:
    """Build three versions of an image, run machines on it, roll one out, halt a broken one.

    Everything it makes is removed at its end. Real machines need root; simulated ones, which are
    parts of the server's process, need nothing.
    """
    from upkeep.demo.run import run
    from upkeep.demo.stage import DemoError

    try:
        code = run(
            platform=platform, machines=machines, exit_at_end=exit_at_end, json_file=json_file
        )
    except DemoError as error:
        raise CommandFailed(
            ExitCode.FAILED, "The demonstration did not come to its end.", str(error)
        ) from error
    raise typer.Exit(code)
