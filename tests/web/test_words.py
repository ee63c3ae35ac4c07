"""Whatever the page may have to say has words."""

from enum import StrEnum

import pytest

from upkeep.core.hold import HoldReason
from upkeep.core.model import Health, RolloutCode, Verb
from upkeep.core.task import TaskState
from upkeep.web import words


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (words.REASONS, HoldReason),
        (words.CODES, RolloutCode),
        (words.DOING, Verb),
        (words.WORK, Verb),
        (words.TASKS, TaskState),
        (words.HEALTH, Health),
    ],
)
def test_every_state_has_words(said: dict[StrEnum, str], kind: type[StrEnum]) -> None:
    assert set(said) == set(kind)
