"""Many worlds on all cores, and the summary of them."""

import gc
import os
import signal
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from upkeep.core.task import TaskState
from upkeep.sim.drawing import Options
from upkeep.sim.faults import Fault
from upkeep.sim.simulation import Result, run
from upkeep.sim.verdicts import Verdicts

# Worlds handed to a process at once: enough to hide the handing over, few enough to share well.
WORLDS_AT_ONCE = 4


@dataclass(slots=True)
class Summary:
    """What many worlds came to."""

    results: int = 0
    seconds: float = 0.0
    machines: list[int] = field(default_factory=list)
    days: float = 0.0
    events: int = 0
    plans: int = 0
    met: Counter[tuple[str, str]] = field(default_factory=Counter)
    verdicts: Verdicts = field(default_factory=Verdicts)
    broken: list[Result] = field(default_factory=list)
    interrupted: bool = False

    def add(self, result: Result) -> None:
        self.results += 1
        self.machines.append(result.machines)
        self.days += result.days
        self.events += result.events
        self.plans += result.plans
        self.met.update(result.met)
        self.verdicts.add(result.verdicts)
        if result.rule:
            self.broken.append(result)


def run_all(
    seeds: Iterable[int],
    options: Options,
    *,
    processes: int,
    heard: Callable[[Result], None] = lambda result: None,
) -> Summary:
    """Run every seed; `heard` is told of each world in the order of the seeds.

    Interrupted from the keyboard it answers what the worlds until then came to.
    """
    summary = Summary()
    begun = time.monotonic()
    try:
        for result in _results(list(seeds), options, processes):
            summary.add(result)
            heard(result)
    except KeyboardInterrupt:
        summary.interrupted = True
    summary.seconds = time.monotonic() - begun
    return summary


def _run_alone(seed: int, options: Options) -> Result:
    """One world; its cycles are few and are collected once, at its end: a tenth faster."""
    gc.disable()
    try:
        return run(seed, options)
    finally:
        gc.enable()
        gc.collect()


def _results(seeds: list[int], options: Options, processes: int) -> Iterator[Result]:
    one = partial(_run_alone, options=options)
    if processes == 1 or len(seeds) == 1:
        yield from map(one, seeds)
        return
    with ProcessPoolExecutor(processes, initializer=_leave_interrupts_to_the_parent) as pool:
        try:
            yield from pool.map(one, seeds, chunksize=WORLDS_AT_ONCE)
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def cores() -> int:
    return os.cpu_count() or 1


def commit() -> str:
    """The commit that a failure belongs to, or `unknown` outside of a checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def failure_text(result: Result, options: Options) -> str:
    """Seed, commit, the broken rule, the last events and the command that plays it again."""
    again = f"upkeep simulate --seed {result.seed}"
    again += " --bad-versions" if options.bad_versions else ""
    again += f" --machines {options.machines}" if options.machines else ""
    again += f" --days {options.days}" if options.days else ""
    return "\n".join(
        [
            f"seed {result.seed}  commit {commit()}  broken rule {result.rule}",
            f"  {result.detail}",
            f"the last {len(result.lines)} events:",
            *(f"  {line}" for line in result.lines),
            f"play it again: {again}",
        ]
    )


def summary_text(summary: Summary) -> str:
    if not summary.results:
        return "no world was played to its end"
    per_minute = 60 * summary.results / summary.seconds if summary.seconds else 0.0
    verdicts = summary.verdicts
    lines = [
        f"worlds {summary.results}, broken {len(summary.broken)}, "
        f"machines median {statistics.median(summary.machines):.0f} "
        f"(from {min(summary.machines)} to {max(summary.machines)})",
        f"days {summary.days:.0f}, events {summary.events}, plans {summary.plans}, "
        f"{per_minute:.0f} worlds/min in {summary.seconds:.0f} s",
        f"bad versions: tried {verdicts.tried}, stopped {verdicts.stopped} "
        f"(recall {_percent(verdicts.stopped, verdicts.tried)})",
        f"called guilty {verdicts.guilty}, of these bad {verdicts.right} "
        f"(precision {_percent(verdicts.right, verdicts.guilty)})",
    ]
    lines += [f"  missed: {name}" for name in verdicts.missed[:10]]
    lines += [f"  wrongly guilty: {name}" for name in verdicts.wrong[:10]]
    return "\n".join(lines)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def met_table(summary: Summary) -> str:
    """Each kind of fault against each state in which it found a task."""
    states = list(TaskState)
    head = f"{'fault':26}" + "".join(f"{state.value[:8]:>9}" for state in states)
    rows = [head]
    for fault in Fault:
        counts = "".join(f"{summary.met[(fault.value, state.value)]:>9}" for state in states)
        rows.append(f"{fault.value:26}{counts}")
    least = min(summary.met[(fault.value, state.value)] for fault in Fault for state in states)
    rows.append(f"the rarest pair was met {least} times")
    return "\n".join(rows)
