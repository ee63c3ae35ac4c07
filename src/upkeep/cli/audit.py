"""`upkeep audit`: who changed what, when, from where."""

import typer

from upkeep.cli.client import connect
from upkeep.cli.options import After, Json, Limit
from upkeep.cli.output import print_page
from upkeep.cli.quantities import show_moment

app = typer.Typer(no_args_is_help=True, help="The audit log: who changed what.")

ENTRIES_DEFAULT = 100


@app.command("list")
def list_audit(limit: Limit = ENTRIES_DEFAULT, after: After = "", as_json: Json = False) -> None:
    """List writes, newest first."""
    with connect() as client:
        page = client.list("/v1/audit", limit=limit, after=after)
    print_page(
        {
            "AT": lambda entry: show_moment(entry.get("at")),
            "WHO": "actor",
            "FROM": "source",
            "DID": "verb",
            "TO": "subject",
            "STATUS": "status",
            "DETAIL": "detail",
        },
        page,
        as_json=as_json,
    )
