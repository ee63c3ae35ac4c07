"""`upkeep alarm`: queries that must stay quiet while a rollout goes over their group."""

from enum import StrEnum
from typing import Annotated

import typer

from upkeep.cli.client import connect
from upkeep.cli.options import LIST_ITEMS_DEFAULT, After, Json, Limit, parse_name
from upkeep.cli.output import print_answer, print_page
from upkeep.cli.quantities import show_moment

app = typer.Typer(no_args_is_help=True, help="Alarms: what must stay quiet during a rollout.")


class Action(StrEnum):
    HOLD = "hold"
    HALT = "halt"


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What people call it.")],
    group: Annotated[str, typer.Option(metavar="GROUP", help="Whose rollouts it watches.")],
    url: Annotated[str, typer.Option(metavar="URL", help="The Prometheus to ask.")],
    query: Annotated[
        str, typer.Option(metavar="PROMQL", help="Fires where its answer is not empty.")
    ],
    action: Annotated[
        Action,
        typer.Option(help="hold: no batch begins while it fires. halt: the version is to blame."),
    ] = Action.HOLD,
    as_json: Json = False,
) -> None:
    """Create an alarm; it is asked at once, then every 15 s.

    upkeep alarm create errors --group web --url http://prometheus:9090 --action halt
    --query 'sum(rate(http_errors_total[5m])) > 1'
    """
    document = {"group": group, "name": name, "url": url, "query": query, "action": action.value}
    with connect() as client:
        made = client.post("/v1/alarms", document)
    print_answer(f"Alarm {name} is {made.get('state')} ({made.get('id')}).", made, as_json=as_json)


@app.command("list")
def list_alarms(
    limit: Limit = LIST_ITEMS_DEFAULT, after: After = "", as_json: Json = False
) -> None:
    """List alarms and what was answered last."""
    with connect() as client:
        page = client.list("/v1/alarms", limit=limit, after=after)
    print_page(
        {
            "ID": "id",
            "NAME": "name",
            "GROUP": "group",
            "ACTION": "action",
            "STATE": "state",
            "SINCE": lambda alarm: show_moment(alarm.get("since")),
            "ANSWER": "detail",
        },
        page,
        as_json=as_json,
    )


@app.command("delete")
def delete(
    alarm: Annotated[
        str, typer.Argument(parser=parse_name, metavar="ID", help="From `upkeep alarm list`.")
    ],
    as_json: Json = False,
) -> None:
    """Delete an alarm; what it held may begin at once."""
    with connect() as client:
        answer = client.delete(f"/v1/alarms/{alarm}")
    print_answer(f"Deleted alarm {alarm}.", answer, as_json=as_json)
