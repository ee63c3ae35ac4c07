"""Planted bugs: each still fits the code, and the simulator finds one (`make mutants`: all)."""

import shutil
from pathlib import Path

import pytest
from tests.sim.mutants import MUTANTS, PACKAGE, ROOT, Mutant, hunt, plant


def test_there_are_at_least_twenty() -> None:
    assert len(MUTANTS) >= 20
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_still_fits_the_code_and_compiles(mutant: Mutant, tmp_path: Path) -> None:
    for edit in mutant.edits:
        copy = tmp_path / PACKAGE / edit.file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / PACKAGE / edit.file, copy)
    plant(mutant, tmp_path)
    for edit in mutant.edits:
        path = tmp_path / PACKAGE / edit.file
        compile(path.read_text(), path, "exec")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["a budget allows one more", "a claim is given back while its machine is in hand"]
)
def test_the_simulator_finds_a_planted_bug(name: str) -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    assert hunt(mutant, seeds=60).rule
