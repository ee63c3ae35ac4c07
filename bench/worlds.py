"""How many simulated worlds a minute run on all cores: what a night of them costs.

The floor comes from use: a release is held against 3,000 worlds in a night, and two hours of it are
theirs.
"""

from bench.figure import Figure
from bench.workspace import load_now
from upkeep.sim.drawing import Options
from upkeep.sim.fleet_run import cores, run_all

SEEDS = range(1, 41)
WORLDS_WANTED = 3_000
MINUTES = 120


def measure() -> list[Figure]:
    return [worlds_figure(SEEDS)]


def worlds_figure(seeds: range) -> Figure:
    summary = run_all(seeds, Options(), processes=cores())
    assert not summary.broken, f"seed {summary.broken[0].seed} breaks {summary.broken[0].rule}"
    return Figure(
        name="worlds_per_min",
        value=60 * summary.results / summary.seconds,
        unit="1/min",
        budget=WORLDS_WANTED / MINUTES,
        bound="at_least",
        note=f"seeds {seeds[0]}..{seeds[-1]} on {cores()} cores, {summary.days:.0f} days in "
        f"{summary.seconds:.0f} s; {load_now()}",
    )
