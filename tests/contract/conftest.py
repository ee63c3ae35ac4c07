"""Fixtures of the contract suites.

Platforms: each once per session, one fleet per test.  Stores: an empty one per test, on one
PostgreSQL server per session.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fleet_stores import Backend, MemoryBackend, new_postgres, new_sqlite
from platform_fleet import Fleet
from platforms import CASES, PlatformCase, nowhere
from postgres import cluster

from upkeep.ports import OsImage


@pytest.fixture(
    scope="session", params=[pytest.param(case, id=case.name, marks=case.marks) for case in CASES]
)
def case(request: pytest.FixtureRequest) -> Iterator[PlatformCase]:
    case: PlatformCase = request.param
    if why := case.missing():
        pytest.skip(f"{case.name}: {why}")
    yield case
    case.close()


@pytest.fixture(scope="session")
def case_root(case: PlatformCase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp(case.name)
    yield root
    shutil.rmtree(root)  # Unpacked images are big; pytest would keep three sessions' worth.


@pytest.fixture(scope="session")
def images(case: PlatformCase) -> Callable[[str], OsImage]:
    built: dict[str, OsImage] = {}

    def image(version: str) -> OsImage:
        if version not in built:
            built[version] = case.make_image(version)
        return built[version]

    return image


@pytest.fixture
def fleet(case: PlatformCase, case_root: Path, images: Callable[[str], OsImage]) -> Iterator[Fleet]:
    fleet = Fleet(case, case_root, case.open(case_root, nowhere), images)
    yield fleet
    fleet.delete_all()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with cluster() as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("template") / "fleet.db"


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def backend(
    request: pytest.FixtureRequest, sqlite_template: Path, tmp_path: Path
) -> Iterator[Backend]:
    """An empty store of each kind in turn."""
    made: Backend
    match request.param:
        case "memory":
            made = MemoryBackend()
        case "sqlite":
            made = new_sqlite(sqlite_template, tmp_path)
        case _:
            made = new_postgres(request.getfixturevalue("postgres_url"))
    yield made
    made.close()
