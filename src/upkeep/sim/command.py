"""`upkeep simulate`: seeds in, a summary out; exit code 1 if a rule was broken."""

import sys
from collections.abc import Iterable
from typing import TextIO

from upkeep.sim.drawing import Options
from upkeep.sim.fleet_run import (
    cores,
    failure_text,
    met_table,
    run_all,
    summary_text,
)
from upkeep.sim.simulation import Result

# After so many broken worlds the rest of the failures is only counted.
FAILURES_SHOWN = 5


class SeedsError(ValueError):
    """Seeds that cannot be read; the text says how they are written."""


def parse_seeds(text: str) -> range:
    """`7` is one world, `1..50` are fifty."""
    first, dots, last = text.partition("..")
    try:
        begin = int(first)
        end = int(last) if dots else begin
    except ValueError:
        raise SeedsError(f"{text!r}: write one seed as 7, many as 1..50") from None
    if end < begin or begin < 0:
        raise SeedsError(f"{text!r}: the last seed must not be below the first, nor below 0")
    return range(begin, end + 1)


def simulate(
    *,
    seeds: Iterable[int],
    machines: int | None = None,
    days: int | None = None,
    bad_versions: bool = False,
    processes: int = 0,
    table: bool = True,
    verbose: bool = False,
    out: TextIO | None = None,
) -> int:
    """Run the worlds and print what they came to.

    Args:
        machines, days: fix what is else drawn from each seed.
        bad_versions: the mix that measures recall and precision of blame.
        processes: 0 means one for each core.
        table: also print which fault met which task state how often.
        verbose: a line for each world.
    """
    out = out or sys.stdout
    options = Options(bad_versions=bad_versions, machines=machines, days=days)
    shown = 0

    def heard(result: Result) -> None:
        nonlocal shown
        if verbose:
            state = result.rule or "ok"
            print(
                f"seed {result.seed}: {result.machines} machines, {result.days:.0f} days, "
                f"{result.events} events, {result.digest[:12]}, {state}",
                file=out,
                flush=True,
            )
        if result.rule and shown < FAILURES_SHOWN:
            shown += 1
            print(failure_text(result, options), file=out, flush=True)

    summary = run_all(seeds, options, processes=processes or cores(), heard=heard)
    print(summary_text(summary), file=out)
    if table:
        print(met_table(summary), file=out)
    if len(summary.broken) > shown:
        rest = ", ".join(str(result.seed) for result in summary.broken[shown:])
        print(f"also broken: {rest}", file=out)
    return 1 if summary.broken else 0
