"""docs/compared-with-azure.md: all fifteen complaints, and tests that are there."""

import ast
import re

import pytest
from tests.fidelity.table import ROOT

PAGE = (ROOT / "docs" / "compared-with-azure.md").read_text()
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


def test_each_complaint_has_a_line() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|", PAGE, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 16))
    assert all(complaint.strip() and here.strip() for _, complaint, here in rows)


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_test_that_is_named_is_there(file: str, test: str) -> None:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
