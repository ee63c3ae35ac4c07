"""Runs worlds by their seeds and tells what became of them.

A failure prints all that is needed to see it again: seed, commit, broken rule, the last events
and the line that plays the same world.  Answers 1 if any rule was broken.
"""

import argparse
import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import Pool
from pathlib import Path
from statistics import median

from upkeep.sim.drawing import Options
from upkeep.sim.simulation import Result, run
from upkeep.sim.verdicts import Verdicts

_GIT_SECONDS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m upkeep.sim", description=__doc__)
    worlds = parser.add_mutually_exclusive_group(required=True)
    worlds.add_argument("--seed", type=int, metavar="N", help="one world")
    worlds.add_argument("--seeds", type=_seeds, metavar="A..B", help="many worlds, on all cores")
    parser.add_argument("--machines", type=int, metavar="N", help="instead of a drawn number")
    parser.add_argument("--days", type=int, metavar="N", help="instead of a drawn number")
    parser.add_argument("--bad-versions", action="store_true", help="measure blame")
    chosen = parser.parse_args(arguments)
    seeds = range(chosen.seed, chosen.seed + 1) if chosen.seeds is None else chosen.seeds
    options = Options(bad_versions=chosen.bad_versions, machines=chosen.machines, days=chosen.days)
    return simulate(seeds, options)


def _seeds(text: str) -> range:
    first, dots, last = text.partition("..")
    try:
        found = range(int(first), int(last if dots else first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not A..B, such as 1..200") from None
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names no seed")
    return found


def simulate(seeds: range, options: Options) -> int:
    """Run these worlds, print what is worth telling, answer 1 if a rule was broken."""
    begun = time.monotonic()
    results = []
    for result in run_all(seeds, options):
        results.append(result)
        if result.rule:
            print(failure(result, options), flush=True)
        elif len(seeds) == 1:
            print("\n".join(result.lines))
    print(summary(results, options, time.monotonic() - begun))
    return 1 if any(result.rule for result in results) else 0


def run_all(seeds: range, options: Options) -> Iterator[Result]:
    """In the order of the seeds; on every core if there are several."""
    if len(seeds) == 1:
        yield run(seeds[0], options)
        return
    with Pool(min(len(seeds), os.cpu_count() or 1)) as pool:
        yield from pool.imap(_run_one, ((seed, options) for seed in seeds))


def _run_one(work: tuple[int, Options]) -> Result:
    return run(*work)


def failure(result: Result, options: Options) -> str:
    """Everything that somebody who was not there needs."""
    return "\n".join(
        (
            f"seed {result.seed}, commit {commit()}: rule {result.rule} is broken "
            f"on day {result.days:.2f}",
            f"  {result.detail}",
            f"the last {len(result.lines)} events:",
            *(f"  {line}" for line in result.lines),
            f"again: {replay(result.seed, options)}",
            "",
        )
    )


def replay(seed: int, options: Options) -> str:
    words = ["python -m upkeep.sim", f"--seed {seed}"]
    if options.machines is not None:
        words.append(f"--machines {options.machines}")
    if options.days is not None:
        words.append(f"--days {options.days}")
    if options.bad_versions:
        words.append("--bad-versions")
    return " ".join(words)


def commit() -> str:
    """Which code ran: a seed says nothing without it."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()


def summary(results: Sequence[Result], options: Options, seconds: float) -> str:
    broken = [result for result in results if result.rule]
    lines = [
        f"{len(results)} worlds, {len(broken)} with a broken rule, in {seconds:.1f} s "
        f"({60 * len(results) / max(seconds, 0.001):.0f} worlds/min); "
        f"machines: median {median(r.machines for r in results):.0f}, "
        f"most {max(r.machines for r in results)}; "
        f"{sum(r.days for r in results):.0f} days, {sum(r.events for r in results)} events, "
        f"{sum(r.plans for r in results)} plans"
    ]
    lines += [f"  seed {result.seed}: {result.rule}" for result in broken]
    if options.bad_versions:
        lines += _verdicts(result.verdicts for result in results)
    return "\n".join(lines)


def _verdicts(all_verdicts: Iterable[Verdicts]) -> list[str]:
    total = Verdicts()
    for verdicts in all_verdicts:
        total.add(verdicts)
    lines = [
        f"bad versions: {total.tried} tried, {total.stopped} stopped; "
        f"{total.guilty} called guilty, {total.right} of them bad"
    ]
    lines += [f"  missed: {what}" for what in total.missed]
    lines += [f"  wrongly guilty: {what}" for what in total.wrong]
    return lines
