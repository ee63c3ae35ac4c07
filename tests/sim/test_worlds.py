"""The simulator itself: a seed is a world, a broken rule is reported, and old worlds stay whole."""

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from upkeep.sim import command
from upkeep.sim.checkers import BlindChecker, Commit, RuleBroken
from upkeep.sim.command import SeedsError, parse_seeds, simulate
from upkeep.sim.drawing import Options
from upkeep.sim.faults import Fault
from upkeep.sim.simulation import Result, run

SMALL = Options(machines=12, days=14)
ONCE_BROKEN = [
    line.split(maxsplit=2)[:2]
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def test_the_same_seed_is_the_same_world_to_the_last_event() -> None:
    first, second = run(3, SMALL), run(3, SMALL)
    assert (first.digest, first.events, first.plans) == (
        second.digest,
        second.events,
        second.plans,
    )
    assert run(4, SMALL).digest != first.digest


def test_a_world_does_not_depend_on_how_strings_are_hashed() -> None:
    script = (
        "from upkeep.sim.simulation import run\n"
        "from upkeep.sim.drawing import Options\n"
        "print(run(5, Options(machines=12, days=14)).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_machines_and_days_can_be_fixed() -> None:
    result = run(1, Options(machines=7, days=14))
    assert result.machines == 7
    assert result.days >= 14


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "mix"), ONCE_BROKEN, ids=lambda value: str(value))
def test_a_world_that_once_broke_a_rule_is_whole(seed: str, mix: str) -> None:
    result = run(int(seed), Options(bad_versions=mix == "bad-versions"))
    assert (result.rule, result.detail) == ("", "")


class Grumbler(BlindChecker):
    """Finds fault with the fifth plan that is written."""

    seen = 0

    def committed(self, commit: Commit) -> None:
        self.seen += 1
        if self.seen == 5:
            raise RuleBroken("GRUMBLE", "the fifth plan is not to my liking")


@pytest.fixture
def grumbling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upkeep.sim.simulation.HoldChecker", Grumbler)


@pytest.mark.usefixtures("grumbling")
def test_a_broken_rule_ends_its_world_and_says_how_to_play_it_again() -> None:
    out = io.StringIO()
    code = simulate(seeds=[9], machines=12, days=14, processes=1, out=out)
    text = out.getvalue()
    assert code == 1
    assert re.search(r"^seed 9  commit \S+  broken rule GRUMBLE$", text, re.MULTILINE)
    assert "the fifth plan is not to my liking" in text
    assert "process p1 starts" in text  # The last events.
    assert "play it again: upkeep simulate --seed 9 --machines 12 --days 14" in text
    assert "worlds 1, broken 1" in text


@pytest.mark.usefixtures("grumbling")
def test_after_five_broken_worlds_the_others_are_only_named() -> None:
    out = io.StringIO()
    simulate(seeds=range(1, 8), machines=6, days=14, processes=1, table=False, out=out)
    assert out.getvalue().count("play it again") == 5
    assert "also broken: 6, 7" in out.getvalue()


def test_the_table_counts_each_fault_in_each_state() -> None:
    out = io.StringIO()
    assert simulate(seeds=[2], machines=30, processes=1, out=out) == 0
    for fault in Fault:
        assert fault.value in out.getvalue()
    assert "the rarest pair was met" in out.getvalue()


@pytest.mark.parametrize(("text", "seeds"), [("7", range(7, 8)), ("1..3", range(1, 4))])
def test_seeds_are_one_or_a_range(text: str, seeds: range) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "3..1", "-1", "1..", "1...3"])
def test_seeds_that_cannot_be_read_say_how_they_are_written(text: str) -> None:
    with pytest.raises(SeedsError, match=r"write one seed as 7|must not be below"):
        parse_seeds(text)


def test_the_command_refuses_bad_seeds_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--seeds", "no"])
    assert ended.value.code == 2
    assert "write one seed as 7" in capsys.readouterr().err


def test_a_result_says_which_versions_were_bad_and_which_were_called_so() -> None:
    results = [run(seed, Options(bad_versions=True, machines=12, days=14)) for seed in range(1, 9)]
    assert all(isinstance(r, Result) and not r.rule for r in results)
    verdicts = results[0].verdicts
    for result in results[1:]:
        verdicts.add(result.verdicts)
    assert 0 < verdicts.stopped == verdicts.tried
    assert 0 < verdicts.right <= verdicts.guilty


# Where the tests run in the background, interrupts may be ignored from the start.
AS_IN_A_TERMINAL = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("upkeep.sim", run_name="__main__")
"""


def test_interrupted_it_says_what_it_came_to_until_then() -> None:
    command_line = [sys.executable, "-c", AS_IN_A_TERMINAL, "--seeds", "1..100000", "--verbose"]
    command_line += ["--machines", "3", "--days", "14", "--no-table"]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            first = running.stdout.readline()
            running.send_signal(signal.SIGINT)
            rest, _ = running.communicate(timeout=60)
        finally:
            running.kill()
    assert first.startswith("seed 1: ")
    assert "interrupted; until then:\nworlds " in rest
    assert running.returncode == 130
