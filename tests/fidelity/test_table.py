"""docs/fidelity.md is what the tests cite, and no row is passed over in silence."""

import pytest
from tests.fidelity.rows import ROWS, Row
from tests.fidelity.table import PAGE, cited, render


def test_every_citation_names_a_row() -> None:
    known = {(sheet, row.name) for sheet, rows in ROWS.items() for row in rows}
    assert set(cited()) - known == set()


@pytest.mark.parametrize("sheet", ROWS)
def test_a_row_has_a_test_or_says_why_not(sheet: str) -> None:
    names = [row.name for row in ROWS[sheet]]
    assert len(names) == len(set(names))
    found = cited()
    for row in ROWS[sheet]:
        assert bool(row.missing) is ((sheet, row.name) not in found), row.name


def test_the_page_is_what_the_tests_cite() -> None:
    """Each of them passes, or this run of the tests fails by itself."""
    found = cited()
    tests = {test for each in found.values() for test in each}
    page = render(found, dict.fromkeys(tests, True))
    assert PAGE.read_text() == page, "run: make fidelity"


def test_a_failure_is_seen_on_the_page() -> None:
    sheet, rows = next(iter(ROWS.items()))
    row: Row = rows[0]
    page = render({(sheet, row.name): ["tests/x.py::test_y"]}, {"tests/x.py::test_y": False})
    assert "`x.py::test_y` | **fail** |" in page
