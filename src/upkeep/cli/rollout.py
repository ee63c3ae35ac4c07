"""`upkeep rollout`: one system's work in one group, watched and steered."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from upkeep.cli.client import Client, Document, connect
from upkeep.cli.exit_codes import CommandFailed, ExitCode
from upkeep.cli.options import LIST_ITEMS_DEFAULT, After, Force, Json, Limit, Timeout, parse_name
from upkeep.cli.output import Columns, print_answer, print_json, print_page, print_table, say
from upkeep.cli.quantities import show_moment
from upkeep.cli.rollout_view import brought

app = typer.Typer(no_args_is_help=True, help="Rollouts: a group's machines, batch by batch.")

Rollout = Annotated[
    str, typer.Argument(parser=parse_name, metavar="ROLLOUT", help="From `upkeep rollout list`.")
]
Group = Annotated[str, typer.Argument(parser=parse_name, metavar="GROUP", help="The group's name.")]
Follow = Annotated[
    bool,
    typer.Option("--follow", "-f", help="Watch until it has ended; exit 8 unless it completed."),
]

COLUMNS: Columns = {
    "ROLLOUT": "id",
    "GROUP": "group",
    "WORK": lambda rollout: _work(rollout),
    "STATE": "state",
    "MACHINES": "size",
    "STARTED": lambda rollout: show_moment(rollout.get("started_at")),
    "ENDED": lambda rollout: show_moment(rollout.get("ended_at")),
    "BY": "started_by",
    "CODE": "code",
}


def _work(rollout: Mapping[str, Any]) -> str:
    """`1.0.2`, `model 3f2a09c1d4e5`, `restart`."""
    target, verb = str(rollout.get("target") or ""), str(rollout.get("verb"))
    return brought(target, verb) if target else verb


@app.command("list")
def list_rollouts(
    group: Annotated[str, typer.Option(metavar="GROUP", help="Only this group's.")] = "",
    state: Annotated[
        str, typer.Option(metavar="STATE", help="Only these: running, completed, faulted, ...")
    ] = "",
    limit: Limit = LIST_ITEMS_DEFAULT,
    after: After = "",
    as_json: Json = False,
) -> None:
    """List rollouts."""
    with connect() as client:
        page = client.list("/v1/rollouts", limit=limit, after=after, group=group, status=state)
    print_page(COLUMNS, page, as_json=as_json)


@app.command("history")
def history(group: Group, as_json: Json = False) -> None:
    """List a group's running rollout and those that ended lately."""
    with connect() as client:
        page = client.list(f"/v1/groups/{group}/rollouts", limit=LIST_ITEMS_DEFAULT)
    print_page(COLUMNS, page, as_json=as_json)


@app.command("show")
def show(
    rollout: Rollout, follow: Follow = False, timeout: Timeout = None, as_json: Json = False
) -> None:
    """Show a rollout with each machine's state; with --follow, until it has ended."""
    with connect() as client:
        if follow:
            follow_to_end(client, rollout, timeout_s=timeout, as_json=as_json)
        elif as_json:
            print_json(client.get(f"/v1/rollouts/{rollout}"))
        else:
            _print_once(client, rollout)


@app.command("start")
def start(
    group: Group,
    version: Annotated[
        str, typer.Option(metavar="VERSION", help="Image version; otherwise the latest.")
    ] = "",
    model: Annotated[
        bool,
        typer.Option(
            "--model", help="Bring the group's changed custom data and scripts, and no version."
        ),
    ] = False,
    machine: Annotated[
        list[str] | None,
        typer.Option(metavar="MACHINE", help="Only this machine; repeat. Otherwise all."),
    ] = None,
    force: Force = False,
    follow: Follow = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Start a rollout by hand, also again after one was halted.

    One that was started by hand stops at a bad version like any other, but leaves the machines
    that failed as they are, to be looked at.
    """
    document: Document = {}
    if version:
        document["version"] = version
    if model:
        document["model"] = True
    if machine:
        document["machines"] = machine
    if force:
        document["force"] = True
    with connect() as client:
        _start(client, group, document, follow=follow, timeout_s=timeout, as_json=as_json)


@app.command("restart")
def restart(
    rollout: Rollout,
    force: Force = False,
    follow: Follow = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Start an ended rollout's version, or its model, again in its group."""
    with connect() as client:
        ended = client.get(f"/v1/rollouts/{rollout}")
        if not ended.get("target"):
            raise CommandFailed(
                ExitCode.REFUSED,
                f"{rollout} was not a rollout of an image version.",
                "Ask for the same thing again instead, such as `upkeep machine restart NAME`.",
            )
        document: Document = {"version": ended["target"]}
        if ended.get("verb") == "reimage":
            document = {"model": True}
            now = client.get(f"/v1/groups/{ended['group']}").get("model")
            if now != ended["target"]:
                raise CommandFailed(
                    ExitCode.REFUSED,
                    f"{rollout} brought model {ended['target']}; the group's model is {now} now.",
                    f"Roll that out with `upkeep rollout start {ended['group']} --model`, or change"
                    " the group's custom data and scripts back.",
                )
        if force:
            document["force"] = True
        _start(client, ended["group"], document, follow=follow, timeout_s=timeout, as_json=as_json)


@app.command("cancel")
def cancel(rollout: Rollout, as_json: Json = False) -> None:
    """End a rollout: the open batch is finished, nothing else starts."""
    _steer(rollout, "cancel", f"{rollout} is being cancelled.", as_json=as_json)


@app.command("pause")
def pause(rollout: Rollout, as_json: Json = False) -> None:
    """Let a rollout start nothing more until it is resumed."""
    _steer(rollout, "pause", f"{rollout} is paused.", as_json=as_json)


@app.command("resume")
def resume(rollout: Rollout, as_json: Json = False) -> None:
    """Let a paused rollout go on."""
    _steer(rollout, "resume", f"{rollout} goes on.", as_json=as_json)


@app.command("promote")
def promote(rollout: Rollout, as_json: Json = False) -> None:
    """Let a rollout go on after its canary."""
    _steer(rollout, "promote", f"{rollout} goes on after its canary.", as_json=as_json)


@app.command("approve")
def approve(
    rollout: Rollout,
    machine: Annotated[
        list[str] | None,
        typer.Option(metavar="MACHINE", help="Only this machine; repeat. Otherwise all."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Let a rollout take machines, where the group's policy asks for approval."""
    names = machine or []
    with connect() as client:
        document = {"machines": names} if names else {}
        answer = client.post(f"/v1/rollouts/{rollout}/approve", document)
    print_answer(
        f"{rollout} may take {', '.join(names) or 'every machine that waits in it'}.",
        answer,
        as_json=as_json,
    )


def _steer(rollout: str, verb: str, line: str, *, as_json: bool) -> None:
    with connect() as client:
        answer = client.post(f"/v1/rollouts/{rollout}/{verb}")
    print_answer(line, answer, as_json=as_json)


def _start(
    client: Client,
    group: str,
    document: Document,
    *,
    follow: bool,
    timeout_s: float | None,
    as_json: bool,
) -> None:
    answer = client.post(f"/v1/groups/{group}/rollouts", document)
    if follow:
        follow_to_end(client, answer["id"], timeout_s=timeout_s, as_json=as_json)
    else:
        print_answer(f"Started {answer['id']} in group {group}.", answer, as_json=as_json)


def _print_once(client: Client, rollout: str) -> None:
    from upkeep.cli.rollout_display import print_rollout
    from upkeep.cli.rollout_follow import read_rollout

    view = read_rollout(client, rollout)
    print_rollout(view)
    say("")
    held = {hold.machine: f"{hold.reason}: {hold.lifted_by}" for hold in view.holds}
    rows = [
        {
            "machine": task.machine,
            "batch": task.batch or "",
            "state": task.state,
            "detail": task.detail or held.get(task.machine, ""),
        }
        for task in view.tasks
    ]
    columns = {"MACHINE": "machine", "BATCH": "batch", "STATE": "state", "DETAIL": "detail"}
    print_table(columns, rows)


def follow_to_end(client: Client, rollout: str, *, timeout_s: float | None, as_json: bool) -> None:
    """Watch, then end as the rollout ended; as JSON nothing is shown but its last document."""
    from upkeep.cli.rollout_display import say_it_goes_on, showing
    from upkeep.cli.rollout_follow import follow

    try:
        if as_json:
            ended = follow(client, rollout, lambda _: None, timeout_s=timeout_s)
            print_json(client.get(f"/v1/rollouts/{rollout}"))
        else:
            with showing() as show_view:
                ended = follow(client, rollout, show_view, timeout_s=timeout_s)
    except KeyboardInterrupt:
        say_it_goes_on(rollout)
        raise
    if ended.exit_code() is not ExitCode.OK:
        raise typer.Exit(ended.exit_code())
