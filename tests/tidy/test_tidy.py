"""The shape of the code, held by tests: who imports whom, what is impure, how long things are.

Each rule is a function from source to complaints, so that a test can show it something bad too.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "upkeep"

FILE_LINES_MAX = 600
CORE_FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60

# Package: the packages of upkeep that it must not import.
FORBIDDEN = {
    "engine": {"store", "api", "cli", "web", "server"},
    "store": {"api", "cli", "web", "server", "sim"},
}
SIM_USERS = {"sim", "cli", "demo"}

# The core may use these beside the standard library and itself.
CORE_LIBRARIES = {"dateutil"}
IMPURE_MODULES = {"time", "random", "uuid", "logging", "secrets", "socket", "subprocess"}
IMPURE_CALLS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "os.environ"}
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "common", "manager"}


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports_of(source: str) -> Iterator[str]:
    """Full names of all absolute imports, also those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def wrong_imports(package: str, source: str) -> list[str]:
    """The imports that point the wrong way for a file of this package of upkeep."""
    wrong = []
    for name in imports_of(source):
        top, _, rest = name.partition(".")
        inside = rest.split(".")[0] if top == "upkeep" else ""
        is_stdlib = top in sys.stdlib_module_names
        refused = (
            (package == "core" and inside != "core" and not is_stdlib and top not in CORE_LIBRARIES)
            or (package == "agent" and inside != "agent" and not is_stdlib)
            or inside in FORBIDDEN.get(package, set())
            or (inside == "sim" and package not in SIM_USERS)
        )
        if refused:
            wrong.append(name)
    return wrong


def impure(source: str) -> list[str]:
    """Whatever reads a clock, draws a number, looks around or writes a log."""
    found = [name for name in imports_of(source) if name.split(".")[0] in IMPURE_MODULES]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found += [call for call in IMPURE_CALLS if ast.unparse(node).endswith(call)]
    return found


def too_long(name: str, source: str) -> dict[str, int]:
    """Lengths over the rule, by file or by file and function."""
    found = {}
    lines = len(source.splitlines())
    limit = CORE_FILE_LINES_MAX if name.startswith("src/upkeep/core/") else FILE_LINES_MAX
    if lines > limit:
        found[name] = lines
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                found[f"{name}:{node.name}"] = length
    return found


def mocks(source: str) -> list[str]:
    return [name for name in imports_of(source) if name.startswith("unittest")]


def package_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", python_files(SRC), ids=relative)
def test_imports_point_one_way(path: Path) -> None:
    assert wrong_imports(package_of(path), path.read_text()) == []


PURE = [*python_files(SRC / "core"), SRC / "agent" / "step.py"]


@pytest.mark.parametrize("path", PURE, ids=relative)
def test_what_decides_is_pure(path: Path) -> None:
    assert impure(path.read_text()) == []


def test_files_and_functions_are_short() -> None:
    found: dict[str, int] = {}
    for path in python_files(ROOT / "src", ROOT / "tests"):
        found |= too_long(relative(path), path.read_text())
    assert found == {}


def test_no_file_is_named_after_nothing() -> None:
    files = python_files(ROOT / "src", ROOT / "tests")
    assert files
    assert [relative(p) for p in files if EMPTY_NAMES & set(p.stem.split("_"))] == []


def test_nothing_is_mocked() -> None:
    files = python_files(ROOT / "src", ROOT / "tests")
    assert {relative(p): found for p in files if (found := mocks(p.read_text()))} == {}


@pytest.mark.parametrize(
    ("package", "line", "is_wrong"),
    [
        ("core", "from upkeep.core import model", False),
        ("core", "from dateutil import rrule", False),
        ("core", "from upkeep.ports import Platform", True),
        ("core", "import msgspec", True),
        ("engine", "from upkeep.core import plan", False),
        ("engine", "from upkeep.store import fleet", True),
        ("engine", "def f():\n    import upkeep.web.pages", True),
        ("store", "from upkeep.engine.fleet_store import Sighting", False),
        ("store", "from upkeep import api", True),
        ("server", "from upkeep.sim import kernel", True),
        ("cli", "from upkeep.sim import command", False),
        ("agent", "from .wire import Reply", False),
        ("agent", "from upkeep.core import model", True),
        ("agent", "import httpx", True),
    ],
)
def test_the_rule_on_imports_can_fail(package: str, line: str, is_wrong: bool) -> None:
    assert bool(wrong_imports(package, line)) is is_wrong


@pytest.mark.parametrize(
    ("source", "is_impure"),
    [
        ("import time\ntime.monotonic()", True),
        ("from random import random", True),
        ("import uuid", True),
        ("import logging", True),
        ("import os\nos.environ['X']", True),
        ("from datetime import datetime\ndatetime.now(UTC)", True),
        ("import datetime\ndatetime.datetime.now()", True),
        ("from datetime import timedelta\ntimedelta(1)", False),
    ],
)
def test_the_rule_on_purity_can_fail(source: str, is_impure: bool) -> None:
    assert bool(impure(source)) is is_impure


def test_the_rule_on_length_can_fail() -> None:
    long = "def f():\n" + "    x = 1\n" * 60
    assert too_long("src/upkeep/core/x.py", long) == {"src/upkeep/core/x.py:f": 61}
    assert too_long("src/upkeep/core/x.py", "x = 1\n" * 401) == {"src/upkeep/core/x.py": 401}
    assert too_long("src/upkeep/api/x.py", "x = 1\n" * 600) == {}
    assert mocks("from unittest import mock") == ["unittest.mock"]
