"""The pages that tell the core's tables tell them as they are."""

import re
from pathlib import Path

from tests.docs.task_states import PAGE, page

from upkeep.core.hold import HoldReason

HOLDS = Path(__file__).parents[2] / "docs" / "holds.md"
ROW = re.compile(r"\| `([A-Z_]+)` \| ([^|]+) \| ([^|]+) \|")


def test_the_diagram_of_task_states_is_current() -> None:
    assert PAGE.read_text() == page(), "run .venv/bin/python tests/docs/task_states.py"


def test_every_hold_reason_has_one_row_and_no_row_is_left_over() -> None:
    named = [row[1] for line in HOLDS.read_text().splitlines() if (row := ROW.fullmatch(line))]
    assert sorted(named) == sorted(reason.value for reason in HoldReason)
