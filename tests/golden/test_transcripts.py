"""Each story in stories/ is played and must end as its transcript says.

`pytest tests/golden --update-golden` writes the transcripts anew: read the difference aloud.
"""

from pathlib import Path

import pytest
from tests.golden.transcript import play

STORIES = sorted((Path(__file__).parent / "stories").glob("*.txt"))
BREAK = "----\n"


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_story_goes_as_it_is_told(path: Path, request: pytest.FixtureRequest) -> None:
    script, _, expected = path.read_text().partition(BREAK)
    transcript = play(script)
    if request.config.getoption("--update-golden"):
        path.write_text(script + BREAK + transcript)
    else:
        assert transcript == expected


def test_there_are_stories() -> None:
    assert len(STORIES) >= 10
