"""`upkeep schedule`: windows that recur, and the groups that are upgraded in them alone."""

from typing import Annotated, Any

import typer

from upkeep.cli.client import Document, connect
from upkeep.cli.options import LIST_ITEMS_DEFAULT, After, Json, Limit, parse_name
from upkeep.cli.output import print_answer, print_page, print_table, say
from upkeep.cli.quantities import parse_length_s, show_length, show_moment

app = typer.Typer(
    no_args_is_help=True, help="Schedules: when groups may be upgraded, as recurring windows."
)

Schedule = Annotated[
    str, typer.Argument(parser=parse_name, metavar="SCHEDULE", help="The schedule's name.")
]
Group = Annotated[str, typer.Argument(parser=parse_name, metavar="GROUP", help="The group's name.")]
Every = Annotated[
    str,
    typer.Option(
        metavar="WORDS",
        help='"Day", "3Days", "Week Saturday,Sunday". Otherwise no window opens.',
    ),
]
Starts = Annotated[
    str,
    typer.Option(
        metavar="TIME",
        help='"2026-12-24 22:00", a time of the zone: the first window is then or after it.',
    ),
]
Length = Annotated[
    str, typer.Option(metavar="LENGTH", help="How long each window is; 5h at least.")
]
Zone = Annotated[
    str, typer.Option(metavar="ZONE", help="Europe/Berlin: windows follow its summer time.")
]
Expires = Annotated[
    str, typer.Option(metavar="TIME", help='None opens after it; "never" for no end.')
]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(parser=parse_name, metavar="NAME", help="Its name.")],
    starts: Starts,
    length: Length,
    every: Every = "",
    zone: Zone = "UTC",
    expires: Expires = "never",
    as_json: Json = False,
) -> None:
    """Create a schedule, then assign groups to it.

    upkeep schedule create nights --starts "2026-12-24 22:00" --length 6h
    --every "Week Saturday,Sunday" --zone Europe/Berlin
    """
    document = {"name": name, **_document(starts, length, every, zone, expires)}
    with connect() as client:
        made = client.post("/v1/schedules", document)
    print_answer(f"Created schedule {name}. {_first_window(made)}", made, as_json=as_json)


@app.command("set")
def change(
    schedule: Schedule,
    starts: Starts = "",
    length: Length = "",
    every: Annotated[str | None, typer.Option(metavar="WORDS", help="As for create.")] = None,
    zone: Zone = "",
    expires: Expires = "",
    as_json: Json = False,
) -> None:
    """Change a schedule; what is not given stays, and work that has begun is finished."""
    document = _document(starts, length, every, zone, expires)
    if not document:
        raise typer.BadParameter("name what to change, such as --length 6h")
    with connect() as client:
        changed = client.patch(f"/v1/schedules/{schedule}", document)
    print_answer(f"Changed schedule {schedule}. {_first_window(changed)}", changed, as_json=as_json)


@app.command("list")
def list_schedules(
    limit: Limit = LIST_ITEMS_DEFAULT, after: After = "", as_json: Json = False
) -> None:
    """List schedules with their next windows."""
    with connect() as client:
        page = client.list("/v1/schedules", limit=limit, after=after)
    print_page(
        {
            "SCHEDULE": "name",
            "EVERY": lambda schedule: schedule.get("recur_every") or "never",
            "ZONE": "zone",
            "LENGTH": lambda schedule: show_length(schedule.get("length_s", 0)),
            "NEXT": _next_opening,
            "GROUPS": lambda schedule: ", ".join(schedule.get("groups", [])),
        },
        page,
        as_json=as_json,
    )


@app.command("show")
def show(schedule: Schedule, as_json: Json = False) -> None:
    """Show a schedule with its groups and its next five windows."""
    with connect() as client:
        found = client.get(f"/v1/schedules/{schedule}")
    every = found.get("recur_every") or "never"
    groups = ", ".join(found.get("groups", [])) or "no group"
    end = f", until {found['expires']}" if found.get("expires") else ""
    head = (
        f"{schedule}: {every}, {show_length(found.get('length_s', 0))} from {found.get('starts')}"
        f" {found.get('zone')}{end}; for {groups}"
    )
    print_answer(head, found, as_json=as_json)
    if not as_json:
        say("")
        columns = {
            "OPENS": lambda window: show_moment(window.get("opens")),
            "CLOSES": lambda window: show_moment(window.get("closes")),
        }
        print_table(columns, found.get("windows", []))


@app.command("assign")
def assign(schedule: Schedule, group: Group, as_json: Json = False) -> None:
    """Let a group's OS image upgrades happen in the schedule's windows alone."""
    with connect() as client:
        answer = client.put(f"/v1/schedules/{schedule}/groups/{group}")
    line = f"Group {group} is upgraded in the windows of {schedule}. {_first_window(answer)}"
    print_answer(line, answer, as_json=as_json)


@app.command("unassign")
def unassign(schedule: Schedule, group: Group, as_json: Json = False) -> None:
    """Take a group out of a schedule; with no other one any time will do."""
    with connect() as client:
        answer = client.delete(f"/v1/schedules/{schedule}/groups/{group}")
    line = f"Group {group} no longer waits for the windows of {schedule}."
    print_answer(line, answer, as_json=as_json)


@app.command("delete")
def delete(schedule: Schedule, as_json: Json = False) -> None:
    """Delete a schedule; groups that have no other one may be upgraded at any time."""
    with connect() as client:
        answer = client.delete(f"/v1/schedules/{schedule}")
    print_answer(f"Deleted schedule {schedule}.", answer, as_json=as_json)


def _document(starts: str, length: str, every: str | None, zone: str, expires: str) -> Document:
    """Only what was given is in it."""
    document: Document = {}
    if starts:
        document["starts"] = starts
    if length:
        document["length_s"] = parse_length_s(length)
    if every is not None:
        document["recur_every"] = every
    if zone:
        document["zone"] = zone
    if expires:
        document["expires"] = None if expires == "never" else expires
    return document


def _next_opening(schedule: Any) -> str:
    windows = schedule.get("windows") or [{}]
    return show_moment(windows[0].get("opens")) or "none"


def _first_window(schedule: Any) -> str:
    opening = _next_opening(schedule)
    return "No window is coming." if opening == "none" else f"The next window opens {opening}."
