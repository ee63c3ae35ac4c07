"""The command `upkeep`: puts the nouns together and turns failures into words and exit codes.

Only Typer is imported for `upkeep --help`; whatever else a command needs, it imports when it runs.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from upkeep.cli import (
    agent,
    alarm,
    audit,
    blackout,
    budget,
    clock,
    demo,
    group,
    hold,
    hook,
    image,
    login,
    machine,
    rollout,
    schedule,
    server,
    simulate,
    token,
)
from upkeep.cli.exit_codes import CommandFailed
from upkeep.cli.output import note

ORDER = (
    "explain",
    "group",
    "rollout",
    "machine",
    "image",
    "hold",
    "hook",
    "budget",
    "schedule",
    "blackout",
    "alarm",
    "clock",
    "audit",
    "login",
    "token",
    "ca",
    "agent",
    "serve",
    "demo",
    "simulate",
)


class RootGroup(TyperGroup):
    """The one place where a failed command becomes words on stderr and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """What is used every day first, what is used once last."""
        return [name for name in ORDER if name in self.commands]

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CommandFailed as failed:
            note(f"Error: {failed.what}")
            for line in failed.remedy.splitlines():
                note(line)
            raise typer.Exit(failed.code) from failed


app = typer.Typer(
    name="upkeep",
    cls=RootGroup,
    no_args_is_help=True,
    # Plain help: boxes cut the long names of options in a terminal of 80 columns.
    rich_markup_mode=None,
    # A trace with all local variables may show a token.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _name, _app in {
    "group": group.app,
    "image": image.app,
    "rollout": rollout.app,
    "machine": machine.app,
    "hold": hold.app,
    "hook": hook.app,
    "budget": budget.app,
    "schedule": schedule.app,
    "blackout": blackout.app,
    "alarm": alarm.app,
    "clock": clock.app,
    "audit": audit.app,
    "token": token.app,
    "ca": server.ca_app,
    "agent": agent.app,
}.items():
    app.add_typer(_app, name=_name)
app.command("explain", short_help="Why a machine is, or is not, being worked on.")(machine.explain)
app.command("login", short_help="Remember a server, its CA and a token.")(login.login)
app.command("serve", short_help="Run the server.")(server.serve)
app.command("demo", short_help="Show the main job on real machines of this host.")(demo.demo)
app.command("simulate", short_help="Run fleets with faults in virtual time.")(simulate.simulate)


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True)
    ] = False,
) -> None:
    """Keep fleets of machines up to date: a batch at a time, gated on health.

    Every command has --help. Exit codes and all options: docs/cli.md.
    """
    if version:
        from importlib.metadata import version as installed_version

        typer.echo(f"upkeep {installed_version('fleet-upkeep')}")
        raise typer.Exit


def main() -> None:
    app(prog_name="upkeep")
