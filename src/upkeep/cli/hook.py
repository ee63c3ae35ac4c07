"""`upkeep hook`: what rollouts ask before they begin and before each batch."""

from typing import Annotated, Any

import typer

from upkeep.cli.client import Document, connect
from upkeep.cli.options import Json, parse_name
from upkeep.cli.output import Columns, print_answer, print_page, print_table, say
from upkeep.cli.quantities import parse_moment, show_age, show_moment, to_rfc3339

app = typer.Typer(
    no_args_is_help=True, help="Lifecycle hooks: what rollouts ask, and your answers."
)

Hook = Annotated[
    str, typer.Argument(parser=parse_name, metavar="HOOK", help="From `upkeep hook list`.")
]
Machines = Annotated[
    list[str] | None,
    typer.Option("--machine", metavar="MACHINE", help="Only this machine; repeat. Otherwise all."),
]

COLUMNS: Columns = {
    "HOOK": "id",
    "GROUP": "group",
    "ABOUT": lambda hook: _about(hook),
    "ANSWER": lambda hook: _answers(hook),
    "CLOSES": lambda hook: show_age(hook.get("wait_until")) if hook.get("open") else "closed",
    "SILENCE": "silence",
}


@app.command("list")
def list_hooks(
    group: Annotated[
        str, typer.Option(metavar="GROUP", help="All of this group; otherwise all that are open.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List what is asked, and what no answer will mean."""
    with connect() as client:
        page = client.get("/v1/hooks", group=group)
    print_page(COLUMNS, page, as_json=as_json)


@app.command("show")
def show(hook: Hook, as_json: Json = False) -> None:
    """Show a question with the answer for each machine."""
    with connect() as client:
        found = client.get(f"/v1/hooks/{hook}")
    until = show_moment(found.get("wait_until"))
    state = f"open until {until}" if found.get("open") else "closed"
    line = f"{hook}: {_about(found)} of group {found.get('group')}; {state},"
    print_answer(f"{line} no answer is {found.get('silence')}", found, as_json=as_json)
    if not as_json and found.get("answers"):
        say("")
        rows = [{"machine": name, "answer": said} for name, said in found["answers"].items()]
        print_table({"MACHINE": "machine", "ANSWER": "answer"}, rows)


@app.command("approve")
def approve(hook: Hook, machine: Machines = None, as_json: Json = False) -> None:
    """Let the rollout begin, or these machines be upgraded."""
    _answer(hook, "approved", machine or [], as_json=as_json)


@app.command("reject")
def reject(hook: Hook, machine: Machines = None, as_json: Json = False) -> None:
    """End the rollout before it begins, or leave these machines out of it."""
    _answer(hook, "rejected", machine or [], as_json=as_json)


@app.command("extend")
def extend(
    hook: Hook,
    until: Annotated[
        str, typer.Option(metavar="MOMENT", help="2026-12-24T18:00Z or +2h; two days at most.")
    ],
    as_json: Json = False,
) -> None:
    """Let a question wait until another moment."""
    moment = to_rfc3339(parse_moment(until))
    with connect() as client:
        answer = client.patch(f"/v1/hooks/{hook}", {"wait_until": moment})
    print_answer(f"{hook} waits until {show_moment(moment)}.", answer, as_json=as_json)


def _answer(hook: str, said: str, machines: list[str], *, as_json: bool) -> None:
    document: Document = {"answer": said}
    if machines:
        document["machines"] = machines
    with connect() as client:
        answer = client.post(f"/v1/hooks/{hook}/answer", document)
    what = ", ".join(machines) or "everything that it asks about"
    print_answer(f"{hook}: {said} for {what}.", answer, as_json=as_json)


def _about(hook: Any) -> str:
    if hook.get("about") == "start":
        return "the beginning"
    count = len(hook.get("answers", {}))
    return f"a batch of {count}"


def _answers(hook: Any) -> str:
    if hook.get("about") == "start":
        return str(hook.get("answer"))
    said = list(hook.get("answers", {}).values())
    parts = [f"{said.count(word)} {word}" for word in ("approved", "rejected", "waiting")]
    return ", ".join(part for part in parts if not part.startswith("0 "))
