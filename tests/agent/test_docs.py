"""docs/agent.md names everything a person can set, read or be told."""

from dataclasses import fields
from pathlib import Path

import pytest

import upkeep.agent
from upkeep.agent import doctor, health
from upkeep.agent.timing import Timing

ROOT = Path(upkeep.agent.__file__).parents[3]
TEXT = (ROOT / "docs" / "agent.md").read_text()


@pytest.mark.parametrize("key", sorted(health.SETTING_KEYS))
def test_every_setting_of_a_health_source_has_a_row(key: str) -> None:
    assert f"| `{key}` |" in TEXT


@pytest.mark.parametrize("field", [each.name for each in fields(Timing)])
def test_every_wait_has_a_row(field: str) -> None:
    assert f"`{field}`" in TEXT


def test_every_rule_of_the_doctor_has_a_row_and_no_other(machine) -> None:
    table = TEXT.split("| RuleId |")[1].split("\n\n")[0].splitlines()[2:]
    told = [line.split("|")[1].strip() for line in table]
    assert told == [row.rule_id for row in doctor.examine(machine.paths)]
