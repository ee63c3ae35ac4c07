"""`upkeep blackout`: times in which nothing disruptive starts."""

from typing import Annotated

import typer

from upkeep.cli.client import connect
from upkeep.cli.options import LIST_ITEMS_DEFAULT, After, Json, Limit, parse_name
from upkeep.cli.output import print_answer, print_page
from upkeep.cli.quantities import parse_moment, show_moment, to_rfc3339

app = typer.Typer(no_args_is_help=True, help="Blackouts: times in which nothing starts.")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    opens: Annotated[
        str, typer.Option("--from", metavar="MOMENT", help="2026-12-24T18:00Z, now or +2h.")
    ],
    closes: Annotated[
        str, typer.Option("--to", metavar="MOMENT", help="2026-12-27T06:00Z or +3d.")
    ],
    group: Annotated[
        str, typer.Option(metavar="GROUP", help="Only in this group; otherwise everywhere.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Create a blackout. What is under way when it opens is finished.

    upkeep blackout create holidays --from 2026-12-24T18:00Z --to 2026-12-27T06:00Z
    """
    first, last = parse_moment(opens), parse_moment(closes)
    if first >= last:
        raise typer.BadParameter("--to must be later than --from")
    document = {"name": name, "opens": to_rfc3339(first), "closes": to_rfc3339(last)}
    if group:
        document["group"] = group
    with connect() as client:
        made = client.post("/v1/blackouts", document)
    where = f"in group {group}" if group else "anywhere"
    print_answer(
        f"Nothing starts {where} from {show_moment(document['opens'])}"
        f" to {show_moment(document['closes'])} ({made.get('id')}).",
        made,
        as_json=as_json,
    )


@app.command("list")
def list_blackouts(
    limit: Limit = LIST_ITEMS_DEFAULT, after: After = "", as_json: Json = False
) -> None:
    """List blackouts."""
    with connect() as client:
        page = client.list("/v1/blackouts", limit=limit, after=after)
    print_page(
        {
            "ID": "id",
            "NAME": "name",
            "GROUP": lambda blackout: blackout.get("group") or "every group",
            "FROM": lambda blackout: show_moment(blackout.get("opens")),
            "TO": lambda blackout: show_moment(blackout.get("closes")),
        },
        page,
        as_json=as_json,
    )


@app.command("delete")
def delete(
    blackout: Annotated[
        str, typer.Argument(parser=parse_name, metavar="ID", help="From `upkeep blackout list`.")
    ],
    as_json: Json = False,
) -> None:
    """Delete a blackout; what it held may start at once."""
    with connect() as client:
        answer = client.delete(f"/v1/blackouts/{blackout}")
    print_answer(f"Deleted blackout {blackout}.", answer, as_json=as_json)
