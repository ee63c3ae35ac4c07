"""The benches say what they must, and the smallest of them runs; no time is asserted here."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from bench.figure import Figure
from bench.registry import BENCHES, benches_named

ROOT = Path(__file__).parents[2]
# What is read from bench.json by others; a name is never taken away.
PROMISED = {
    "roll_ratio",
    "rollback_ratio",
    "plan_group_1000_ms",
    "tick_100k_one_changed_ms",
    "tick_100k_idle_ms",
    "checkins_per_s",
    "checkin_p99_ms",
    "server_rss_100k_mib",
    "long_poll_kib",
    "worlds_per_min",
}


def test_every_promised_figure_is_measured_by_one_bench() -> None:
    figures = [name for names in BENCHES.values() for name in names]
    assert set(figures) >= PROMISED
    assert len(figures) == len(set(figures))


def test_every_bench_is_a_module_and_documented() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    for bench, figures in BENCHES.items():
        assert callable(import_module(f"bench.{bench}").measure)
        assert [name for name in figures if f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    ("named", "benches"),
    [
        ([], list(BENCHES)),
        (["tick"], ["tick"]),
        (["roll_ratio", "plan"], ["plan", "roll"]),
    ],
)
def test_a_bench_is_found_by_its_own_name_and_by_its_figures(
    named: list[str], benches: list[str]
) -> None:
    assert benches_named(named) == benches


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError, match="no bench or figure 'speed'"):
        benches_named(["plan", "speed"])


@pytest.mark.parametrize(
    ("bound", "value", "holds"),
    [("at_most", 5, True), ("at_most", 5.1, False), ("at_least", 5, True), ("at_least", 4, False)],
)
def test_a_figure_knows_whether_it_holds(bound: str, value: float, holds: bool) -> None:
    figure = Figure(name="x", value=value, unit="ms", budget=5, bound=bound)  # type: ignore[arg-type]
    assert figure.to_json()["holds"] is holds


def test_the_smallest_bench_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    subprocess.run(
        [sys.executable, "-m", "bench", "--only", "plan", "--json", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    figures = json.loads(out.read_text())
    assert [figure["name"] for figure in figures] == list(BENCHES["plan"])
    for figure in figures:
        assert {"name", "value", "unit", "budget", "holds"} <= set(figure)
        assert figure["value"] > 0
        assert figure["holds"] is (figure["value"] <= figure["budget"])
