"""`upkeep hold`: who is not being worked on, why, and what would lift it."""

from typing import Annotated

import typer

from upkeep.cli.client import connect
from upkeep.cli.machine import HOLD_COLUMNS
from upkeep.cli.options import LIST_ITEMS_DEFAULT, After, Json, Limit
from upkeep.cli.output import print_page

app = typer.Typer(no_args_is_help=True, help="Holds: why a machine is not being worked on.")


@app.command("list")
def list_holds(
    group: Annotated[str, typer.Option(metavar="GROUP", help="Only this group's.")] = "",
    reason: Annotated[
        str, typer.Option(metavar="REASON", help="Only this reason, such as BUDGET_SPENT.")
    ] = "",
    limit: Limit = LIST_ITEMS_DEFAULT,
    after: After = "",
    as_json: Json = False,
) -> None:
    """List the machines that are held."""
    with connect() as client:
        page = client.list("/v1/holds", limit=limit, after=after, group=group, reason=reason)
    print_page({"MACHINE": "machine", **HOLD_COLUMNS}, page, as_json=as_json)
