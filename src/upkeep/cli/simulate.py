"""`upkeep simulate`: fleets in virtual time, with faults, each drawn from a seed."""

import re
from typing import Annotated

import typer

_SEEDS = re.compile(r"\d{1,12}(\.\.\d{1,12})?")


def simulate(
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="One world, told as it goes.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="A..B", help="Many worlds.")] = None,
    machines: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Instead of a drawn number.")
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Instead of a drawn number.")
    ] = None,
    bad_versions: Annotated[
        bool, typer.Option("--bad-versions", help="Measure how well bad versions are found.")
    ] = False,
) -> None:
    """Run whole fleets with faults in virtual time; every rule is checked at every step.

    A broken rule prints its seed and the line that plays it again, and ends with 1.
    """
    if (seed is None) == (seeds is None):
        raise typer.BadParameter("name the worlds: --seed N or --seeds A..B")
    if seeds is not None and not is_range(seeds):
        raise typer.BadParameter(f"--seeds is A..B, such as 1..200, not {seeds!r}")
    from upkeep.sim import command

    arguments = ["--seed", str(seed)] if seeds is None else ["--seeds", seeds]
    if machines is not None:
        arguments += ["--machines", str(machines)]
    if days is not None:
        arguments += ["--days", str(days)]
    if bad_versions:
        arguments.append("--bad-versions")
    raise typer.Exit(command.main(arguments))


def is_range(seeds: str) -> bool:
    first, dots, last = seeds.partition("..")
    return _SEEDS.fullmatch(seeds) is not None and (not dots or int(first) <= int(last))
