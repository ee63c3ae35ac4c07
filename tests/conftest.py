"""Options and paths for all tests."""

import sys
from pathlib import Path

import pytest

# Tests of one kind may use the tools of another: `from tests.core.story import Story`.
sys.path.insert(0, str(Path(__file__).parent.parent))

# What `make check` leaves to `make test`, so that it stays under 90 s: whole processes, browsers,
# full disks, thousands of requests; files and folders.  Single tests are marked where they stand.
SLOW = frozenset(
    {
        "agent/test_full_disk.py",
        "agent/test_zipapp.py",
        "api/arm",
        "api/test_agent_rules.py",
        "api/test_agents.py",
        "api/test_certificates.py",
        "api/test_cookie.py",
        "api/test_doors.py",
        "api/test_full_disk.py",
        "api/test_garbage.py",
        "api/test_mistakes.py",
        "api/test_staging.py",
        "cli/test_end_to_end.py",
        "contract/test_fleet_store_concurrency.py",
        "contract/test_fleet_store_model.py",
        "crash/test_kill_at_every_write.py",
        "demo/test_poller.py",
        "demo/test_simulated_host.py",
        "sim/test_worlds.py",
        "store/test_deadlock.py",
        "web/test_page.py",
        "web/test_routes.py",
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(root)
        if SLOW & {path.as_posix(), path.parent.as_posix()}:
            item.add_marker(pytest.mark.slow)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the transcripts of tests/golden anew; read the difference before you commit it",
    )
