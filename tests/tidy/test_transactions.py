"""The engine's clock is never asked inside of a write transaction.

It writes its high-water mark in a transaction of its own every few seconds.  On SQLite one inside
of another waits for itself: the request hung for 30 s and failed, once in some thousands.
"""

import ast
from pathlib import Path

SRC = Path(__file__).parents[2] / "src" / "upkeep"

ASKS_THE_CLOCK = {"now", "accept_step"}


def clocks_in_transactions(source: str) -> list[int]:
    """Lines that ask a clock within `with ….write() as connection:`."""
    return [
        call.lineno
        for block in ast.walk(ast.parse(source))
        if isinstance(block, ast.With) and any(_is_write(item) for item in block.items)
        for statement in block.body
        for call in ast.walk(statement)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ASKS_THE_CLOCK
    ]


def _is_write(item: ast.withitem) -> bool:
    call = item.context_expr
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "write"
        and item.optional_vars is not None
    )


def test_no_clock_is_asked_inside_a_write_transaction() -> None:
    found = {
        path.relative_to(SRC).as_posix(): lines
        for path in sorted(SRC.rglob("*.py"))
        if (lines := clocks_in_transactions(path.read_text()))
    }
    assert found == {}, "take the time before the transaction begins"


def test_the_rule_sees_what_it_is_for() -> None:
    bad = "with self._database.write() as connection:\n    use(connection, now=clock.now())\n"
    assert clocks_in_transactions(bad) == [2]
    assert (
        clocks_in_transactions("now = clock.now()\nwith db.write() as c:\n    use(c, now)\n") == []
    )
