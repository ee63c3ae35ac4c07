"""Writes docs/fidelity.md: each number of the sheets, the tests that cite it, and how they ended.

`make fidelity` runs those tests and writes the page; a test holds the page to what tests cite.
"""

import ast
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

from tests.fidelity.rows import ROWS, Row

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "fidelity.md"

HEAD = """\
# Fidelity

Each number of the contract sheets, the tests that hold upkeep to it, and how they ended. Generated
from the tests (`make fidelity`); a test fails when this page and the tests differ.
"""

# A row's test, as `tests/core/test_numbers.py::test_thresholds_are_strict`.
Test = str
Cited = Mapping[tuple[str, str], list[Test]]


def cited() -> Cited:
    """Which tests cite which row, from the sources: nothing is run."""
    found: dict[tuple[str, str], list[Test]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for row in _rows_of(function):
                    test = f"{path.relative_to(ROOT).as_posix()}::{function.name}"
                    found.setdefault(row, []).append(test)
    return found


def _rows_of(function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.number":
            sheet, name = (ast.literal_eval(argument) for argument in decorator.args)
            yield sheet, name


def render(found: Cited, passed: Mapping[Test, bool]) -> str:
    """The page.

    Args:
        passed: how each test ended.
    """
    lines = [HEAD]
    for sheet, rows in ROWS.items():
        with_test = sum((sheet, row.name) in found for row in rows)
        lines += [
            f"## Sheet {sheet}, system S1",
            f"{len(rows)} rows, {with_test} with a test.",
            "",
            "| # | rule | number | source | test | result |",
            "|---|---|---|---|---|---|",
        ]
        for number, row in enumerate(rows, start=1):
            lines.append(_line(number, row, found.get((sheet, row.name), []), passed))
        lines.append("")
    return "\n".join(lines)


def _line(number: int, row: Row, tests: list[Test], passed: Mapping[Test, bool]) -> str:
    names = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in tests)
    result = "pass" if all(passed[test] for test in tests) else "**fail**"
    if not tests:
        result = row.missing
    return f"| {number} | {row.rule} | {row.number} | {row.source} | {names} | {result} |"


def run(tests: list[Test]) -> dict[Test, bool]:
    """How each of the tests ends; of one with parameters, whether all of them pass."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *tests],
            cwd=ROOT,
            check=False,
        )
        cases = ElementTree.parse(report).iter("testcase")
        ended: dict[Test, bool] = {}
        for case in cases:
            path = case.attrib["classname"].replace(".", "/") + ".py"
            test = f"{path}::{case.attrib['name'].partition('[')[0]}"
            is_well = not any(child.tag in ("failure", "error", "skipped") for child in case)
            ended[test] = ended.get(test, True) and is_well
    return {test: ended.get(test, False) for test in tests}


def main() -> int:
    found = cited()
    tests = sorted({test for each in found.values() for test in each})
    passed = run(tests)
    PAGE.write_text(render(found, passed))
    print(f"{PAGE.relative_to(ROOT)}: {len(tests)} tests, {sum(passed.values())} pass")
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
