"""Options and paths for all tests."""

import sys
from pathlib import Path

import pytest

# Tests of one kind may use the tools of another: `from tests.core.story import Story`.
sys.path.insert(0, str(Path(__file__).parent.parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the transcripts of tests/golden anew; read the difference before you commit it",
    )
