"""`upkeep simulate`: seeds in, a summary out; exit code 1 if a rule was broken."""

import argparse
import signal
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
    if summary.interrupted:
        print("interrupted; until then:", file=out)
    print(summary_text(summary), file=out)
    if table:
        print(met_table(summary), file=out)
    if len(summary.broken) > shown:
        rest = ", ".join(str(result.seed) for result in summary.broken[shown:])
        print(f"also broken: {rest}", file=out)
    if summary.broken:
        return 1
    return 128 + signal.SIGINT if summary.interrupted else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="upkeep simulate", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seeds", "--seed", default="1..50", help="one (7) or many (1..50)")
    parser.add_argument("--machines", type=int, help="fixed number of machines in each world")
    parser.add_argument("--days", type=int, help="fixed number of days with faults")
    parser.add_argument("--bad-versions", action="store_true", help="measure blame")
    parser.add_argument("--processes", type=int, default=0, help="0: one for each core")
    parser.add_argument("--no-table", action="store_true", help="leave the table of faults out")
    parser.add_argument("--verbose", action="store_true", help="a line for each world")
    given = parser.parse_args(arguments)
    try:
        seeds = parse_seeds(given.seeds)
    except SeedsError as error:
        parser.error(str(error))
    return simulate(
        seeds=seeds,
        machines=given.machines,
        days=given.days,
        bad_versions=given.bad_versions,
        processes=given.processes,
        table=not given.no_table,
        verbose=given.verbose,
    )
