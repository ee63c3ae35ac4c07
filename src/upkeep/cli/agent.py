"""`upkeep agent`: the agent's doctor, on the machine it runs on."""

from pathlib import Path
from typing import Annotated

import typer

from upkeep.cli.exit_codes import ExitCode
from upkeep.cli.options import Json
from upkeep.cli.output import print_json, say

app = typer.Typer(no_args_is_help=True, help="The agent on this machine.")


@app.callback()
def agent() -> None:
    """The agent on this machine."""


@app.command("doctor")
def doctor(
    state_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The agent's state directory.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check this machine: a row for each rule, and what to do where one fails."""
    from dataclasses import replace

    from upkeep.agent import doctor as rules
    from upkeep.agent.machine import Paths

    paths = Paths() if state_dir is None else replace(Paths(), state=state_dir)
    rows = rules.examine(paths)
    if as_json:
        print_json([row.to_json() for row in rows])
    else:
        for line in rules.to_text(rows).splitlines():
            say(line)
    if not rules.is_well(rows):
        raise typer.Exit(ExitCode.FAILED)
