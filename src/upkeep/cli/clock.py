"""`upkeep clock`: the engine's own time, and accepting a step of the wall clock."""

import typer

from upkeep.cli.client import Document, connect
from upkeep.cli.options import Json
from upkeep.cli.output import print_answer, print_json, say
from upkeep.cli.quantities import show_length, show_moment

app = typer.Typer(no_args_is_help=True, help="The engine's time.")


@app.command("show")
def show(as_json: Json = False) -> None:
    """Show the engine's time, and whether the server's clock agrees with it."""
    with connect() as client:
        clock = client.get("/v1/clock")
    if as_json:
        print_json(clock)
        return
    say(clock_line(clock))


@app.command("accept")
def accept(as_json: Json = False) -> None:
    """Say that the server's clock is right after it stepped, so that work starts again."""
    with connect() as client:
        clock = client.post("/v1/clock/accept")
    print_answer(f"Accepted. {clock_line(clock)}", clock, as_json=as_json)


def clock_line(clock: Document) -> str:
    now = show_moment(clock.get("now"))
    step = clock.get("step_s")
    if not step:
        return f"The engine's time is {now}, and the server's clock agrees."
    side = "ahead" if step > 0 else "behind"
    return (
        f"The engine's time is {now}; the server's clock is {show_length(abs(step))} {side}."
        " Nothing disruptive starts until they agree, or until `upkeep clock accept`."
    )
