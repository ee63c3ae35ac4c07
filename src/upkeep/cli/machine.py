"""`upkeep machine` and `upkeep explain`: single machines, what is done to them, and why not."""

from collections.abc import Sequence
from typing import Annotated

import typer

from upkeep.cli.client import Document, connect
from upkeep.cli.options import (
    LIST_ITEMS_DEFAULT,
    After,
    Force,
    Json,
    Limit,
    Timeout,
    Yes,
    parse_name,
)
from upkeep.cli.output import (
    Columns,
    confirm,
    note,
    print_answer,
    print_details,
    print_json,
    print_page,
    print_table,
    say,
)
from upkeep.cli.quantities import show_age, show_moment
from upkeep.cli.rollout import Follow, follow_to_end
from upkeep.cli.rollout_view import doing

app = typer.Typer(no_args_is_help=True, help="Machines, one at a time.")

Name = Annotated[
    str, typer.Argument(parser=parse_name, metavar="MACHINE", help="The machine's name.")
]

HOLD_COLUMNS: Columns = {
    "REASON": "reason",
    "SYSTEM": "system",
    "SINCE": lambda hold: show_age(hold.get("since")),
    "UNTIL": lambda hold: show_moment(hold.get("until")),
    "LIFTED BY": "lifted_by",
}


@app.command("list")
def list_machines(
    group: Annotated[str, typer.Option(metavar="GROUP", help="Only this group's.")] = "",
    state: Annotated[
        str, typer.Option(metavar="STATE", help="Only these: healthy, unhealthy, unknown, ...")
    ] = "",
    limit: Limit = LIST_ITEMS_DEFAULT,
    after: After = "",
    as_json: Json = False,
) -> None:
    """List machines."""
    with connect() as client:
        page = client.list("/v1/machines", limit=limit, after=after, group=group, state=state)
    print_page(
        {
            "MACHINE": "name",
            "GROUP": "group",
            "IMAGE": "image",
            "HEALTH": "health",
            "SINCE": lambda machine: show_age(machine.get("health_since")),
            "STATE": "lifecycle",
            "ZONE": "zone",
            "ADDRESS": "address",
        },
        page,
        as_json=as_json,
    )


@app.command("show")
def show(name: Name, as_json: Json = False) -> None:
    """Show one machine."""
    with connect() as client:
        machine = client.get(f"/v1/machines/{name}")
    if as_json:
        print_json(machine)
        return
    agent = machine.get("agent") or {}
    print_details({**_lines(machine), **_lines(agent, before="agent ")})


def _lines(document: Document, *, before: str = "") -> dict[str, object]:
    return {
        before + key.replace("_", " "): show_moment(value) if key in _MOMENTS else value
        for key, value in document.items()
        if not isinstance(value, dict)
    }


_MOMENTS = frozenset({"health_since", "worked_at", "created_at", "seen_at", "enrolled_at"})


@app.command("add")
def add(
    name: Name,
    group: Annotated[
        str,
        typer.Option(
            metavar="GROUP",
            help="Group of platform agent_only that it joins; not needed for a machine that was"
            " added before.",
        ),
    ] = "",
    zone: Annotated[str, typer.Option(metavar="ZONE", help="Zone it stands in.")] = "",
    as_json: Json = False,
) -> None:
    """Add a machine that exists already: prints the one line to paste on it.

    The line enrols the machine once, within an hour. Run this again for a new line.
    """
    with connect() as client:
        if group:
            document = {"name": name, "group": group, **({"zone": zone} if zone else {})}
            answer = client.post("/v1/machines", document)
        else:
            answer = client.post(f"/v1/machines/{name}/enrol-token")
    if as_json:
        print_json(answer)
        return
    say(answer["line"])
    note(f"Paste it on {name} as root before {show_moment(answer['expires_at'])}.")


@app.command("restart")
def restart(
    name: Name,
    force: Force = False,
    follow: Follow = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Restart a machine, when budgets and windows let it."""
    _ask(name, "restart", force=force, follow=follow, timeout_s=timeout, as_json=as_json)


@app.command("reimage")
def reimage(
    name: Name,
    force: Force = False,
    follow: Follow = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Give a machine a fresh OS disk of the version that it runs; its data stays."""
    _ask(name, "reimage", force=force, follow=follow, timeout_s=timeout, as_json=as_json)


@app.command("stop")
def stop(
    name: Name,
    force: Force = False,
    follow: Follow = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Stop a machine; it is then left alone until it is started."""
    _ask(name, "stop", force=force, follow=follow, timeout_s=timeout, as_json=as_json)


@app.command("start")
def start(
    name: Name,
    force: Force = False,
    follow: Follow = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Start a stopped machine."""
    _ask(name, "start", force=force, follow=follow, timeout_s=timeout, as_json=as_json)


@app.command("delete")
def delete(
    name: Name,
    yes: Yes = False,
    force: Force = False,
    follow: Follow = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Delete a machine with its data; its group does not make it again."""
    confirm(f"Delete machine {name} with its data?", yes=yes)
    _ask(name, "delete", force=force, follow=follow, timeout_s=timeout, as_json=as_json)


@app.command("protect")
def protect(name: Name, as_json: Json = False) -> None:
    """Let nothing be done to a machine by itself."""
    _change(name, {"protected": True}, f"{name} is protected.", as_json=as_json)


@app.command("keep")
def keep(name: Name, as_json: Json = False) -> None:
    """Never remove a machine because its group shrinks; rollouts still take it."""
    _change(name, {"scale_in_protected": True}, f"{name} stays in its group.", as_json=as_json)


@app.command("unkeep")
def unkeep(name: Name, as_json: Json = False) -> None:
    """Let a shrinking group remove the machine again."""
    _change(
        name, {"scale_in_protected": False}, f"{name} may go when its group shrinks.",
        as_json=as_json,
    )  # fmt: skip


@app.command("unprotect")
def unprotect(name: Name, as_json: Json = False) -> None:
    """End the protection."""
    _change(name, {"protected": False}, f"{name} is no longer protected.", as_json=as_json)


@app.command("opt-out")
def opt_out(name: Name, as_json: Json = False) -> None:
    """Leave a machine out of rollouts; operators' own calls still reach it."""
    _change(name, {"opted_out": True}, f"{name} is left out of rollouts.", as_json=as_json)


@app.command("opt-in")
def opt_in(name: Name, as_json: Json = False) -> None:
    """Take a machine into rollouts again."""
    _change(name, {"opted_out": False}, f"{name} takes part in rollouts again.", as_json=as_json)


def explain(name: Name, as_json: Json = False) -> None:
    """Say what is being done to a machine, or why nothing is and what would change that."""
    with connect() as client:
        answer = client.get(f"/v1/machines/{name}/explain")
    if as_json:
        print_json(answer)
        return
    say(explain_line(answer))
    holds: Sequence[Document] = answer["holds"]
    if holds:
        print_table(HOLD_COLUMNS, holds)


def explain_line(answer: Document) -> str:
    """The one sentence that answers "what about this machine?"."""
    machine, task = answer["machine"], answer["task"]
    name = machine["name"]
    if task is not None:
        work = doing(task["target"], task["verb"])
        detail = f" ({task['detail']})" if task["detail"] else ""
        return (
            f"{name}: {work}, {task['state'].replace('_', ' ')} for {show_age(task['since'])}"
            f"{detail}, in rollout {task['rollout']}."
        )
    version = f", on image {machine['image']}" if machine["image"] else ""
    wait = "held:" if answer["holds"] else "nothing is to be done."
    return f"{name} is {machine['lifecycle']} and {machine['health']}{version}; {wait}"


def _ask(
    name: str, verb: str, *, force: bool, follow: bool, timeout_s: float | None, as_json: bool
) -> None:
    with connect() as client:
        rollout = client.post(f"/v1/machines/{name}/{verb}", {"force": force})
        if follow:
            follow_to_end(client, rollout["id"], timeout_s=timeout_s, as_json=as_json)
            return
    print_answer(
        f"{rollout['id']}: {verb} {name}. Watch it: upkeep rollout show {rollout['id']} --follow",
        rollout,
        as_json=as_json,
    )


def _change(name: str, document: Document, line: str, *, as_json: bool) -> None:
    with connect() as client:
        machine = client.patch(f"/v1/machines/{name}", document)
    print_answer(line, machine, as_json=as_json)
