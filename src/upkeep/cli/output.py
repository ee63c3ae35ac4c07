"""What commands print: documents as JSON, lists as tables, one document as lines, notes.

stdout carries the answer and nothing else; notes, progress and errors go to stderr.  On a
terminal tables have a bold head and fit its width; through a pipe they are plain columns that are
never cut, so that `grep` and `awk` see every character.  What comes from the server may hold text
that a machine sent: control characters are shown as `?`, and nothing is read as markup.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

SENTENCE_LENGTH_MAX = 2000  # A screenful; whatever is longer is no sentence.

Cell = Callable[[Mapping[str, Any]], object]
Columns = Mapping[str, Cell | str]


def print_json(document: object) -> None:
    """The API's document as it is.  On a terminal escaped to ASCII, so it cannot act on it."""
    text = json.dumps(document, indent=2, ensure_ascii=sys.stdout.isatty())
    sys.stdout.write(text + "\n")


def say(line: str) -> None:
    """One line of answer."""
    sys.stdout.write(printable(line) + "\n")


def note(line: str) -> None:
    """One line beside the answer."""
    sys.stderr.write(printable(line) + "\n")


def printable(value: object) -> str:
    """As one line of text with nothing in it that a terminal would obey."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(printable(each) for each in value)
    return "".join(c if c.isprintable() else "?" for c in str(value).replace("\n", " "))


def sentence(text: str) -> str:
    """Somebody else's words as a sentence of ours: a capital first, a stop last, not too long."""
    words = printable(text).strip()[:SENTENCE_LENGTH_MAX]
    first = words.partition(" ")[0]
    if first.isalpha():  # Not the name of a field, such as `policy:`, or a command.
        words = words[:1].upper() + words[1:]
    return words + ("" if words.endswith((".", "!", "?")) else ".")


def print_table(columns: Columns, items: Sequence[Mapping[str, Any]]) -> None:
    """One row an item; a column is a key of the item or a function of it."""
    rows = [[printable(_cell(column, item)) for column in columns.values()] for item in items]
    if not rows:
        note("Nothing to show.")
        return
    if sys.stdout.isatty():
        _print_rich_table(list(columns), rows)
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (list(columns), *rows):
        padded = (f"{cell or '-':<{width}}" for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(padded).rstrip() + "\n")


def print_page(columns: Columns, page: Mapping[str, Any], *, as_json: bool) -> None:
    """A list as the API answers it, and a note where it goes on."""
    if as_json:
        print_json(page)
        return
    print_table(columns, page["items"])
    if page.get("next"):
        shown = len(page["items"])
        note(f"{shown} shown, there are more: --limit {shown * 10}, or --after {page['next']}")


def print_details(lines: Mapping[str, object]) -> None:
    """One document as `name  value` lines; what is empty is left out."""
    shown = {name: printable(value) for name, value in lines.items()}
    shown = {name: text for name, text in shown.items() if text}
    width = max(map(len, shown), default=0)
    if not sys.stdout.isatty():
        for name, text in shown.items():
            sys.stdout.write(f"{name:<{width}}  {text}\n")
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for name, text in shown.items():
        grid.add_row(Text(name, style="bold"), Text(text, overflow="fold"))
    console().print(grid)


def print_answer(line: str, document: Mapping[str, Any], *, as_json: bool) -> None:
    """After a write: one sentence, or the document."""
    if as_json:
        print_json(document)
    else:
        say(line)


def confirm(question: str, *, yes: bool) -> None:
    """Asks before something that cannot be taken back; without a terminal `--yes` must say so.

    Raises:
        typer.BadParameter: nobody is there to ask.
        typer.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("this cannot be taken back, and nobody is here to ask: add --yes")
    typer.confirm(question, abort=True, err=True)


@contextmanager
def progress_bar(label: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """A bar on stderr that the block advances; shown only on a terminal, gone afterwards."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    stderr = console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    size = (BarColumn(), DownloadColumn(binary_units=True)) if total is not None else ()
    with Progress(
        *columns,
        *size,
        TimeElapsedColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    ) as progress:
        task = progress.add_task(label, total=total)
        yield lambda amount: progress.advance(task, amount)


@contextmanager
def step_lines(label: str) -> Iterator[Callable[[str], None]]:
    """Tells what a long command does: a spinner with the last line, or plain lines on stderr."""
    stderr = console(stderr=True)
    if not stderr.is_terminal:
        yield note
        return
    from rich.text import Text

    with stderr.status(label) as status:
        yield lambda line: status.update(Text(printable(line)))


def console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def _cell(column: Cell | str, item: Mapping[str, Any]) -> object:
    return item.get(column) if isinstance(column, str) else column(item)


def _print_rich_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell or "-", style=style_of(cell)) for cell in row))
    console().print(table)


# Colours of words that the API uses for states; every one is also told apart by the word itself.
_STYLES: Mapping[str, str] = {
    "completed": "green",
    "done": "green",
    "healthy": "green",
    "present": "",
    "running": "cyan",
    "announced": "yellow",
    "draining": "yellow",
    "verifying": "cyan",
    "baking": "blue",
    "initializing": "cyan",
    "creating": "cyan",
    "deleting": "yellow",
    "unhealthy": "red",
    "unknown": "magenta",
    "failed": "bold red",
    "faulted": "bold red",
    "rolling_back": "yellow",
    "rolled_back": "magenta",
    "cancelling": "yellow",
    "cancelled": "magenta",
    "held": "dim",
    "skipped": "dim",
    "paused": "yellow",
}


def style_of(state: str) -> str:
    return _STYLES.get(state, "")
