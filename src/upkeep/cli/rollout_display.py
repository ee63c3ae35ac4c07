"""Shows a rollout as it goes: a picture that is redrawn on a terminal, lines through a pipe.

Both show the same: what goes where, how far, counters that sum to the candidates, every machine's
state, who is held and why, how long it has taken.  A picture never grows beyond the terminal:
machines with something still to come are shown first, the rest are counted.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from upkeep.cli.output import console, note, say, style_of
from upkeep.cli.quantities import show_length
from upkeep.cli.rollout_view import (
    SETTLED,
    RolloutView,
    TaskView,
    counter_line,
    hold_lines,
    result_line,
    title_line,
)

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

REDRAWS_PER_S = 4
HOLD_LINES_MAX = 4
BAR_WIDTH_MAX = 40
# Lines of the picture that are not machines: title, bar, counters, result, and a spare one, since
# a picture as high as the terminal scrolls.
OTHER_LINES = 6
PICTURE_HEIGHT_MIN = 8

Show = Callable[[RolloutView], None]


@contextmanager
def showing() -> Iterator[Show]:
    """A function to call with each new view, and often in between: the elapsed time moves."""
    if sys.stdout.isatty():
        with _live() as show:
            yield show
    else:
        yield LineTeller()


@contextmanager
def _live() -> Iterator[Show]:
    from rich.live import Live

    screen = console()
    with Live(console=screen, refresh_per_second=REDRAWS_PER_S, vertical_overflow="crop") as live:
        yield lambda view: live.update(picture(view, width=screen.width, height=screen.height))


def picture(view: RolloutView, *, width: int, height: int) -> "Group":
    """The view as a picture that fits in a terminal of this size."""
    from rich.console import Group
    from rich.text import Text

    holds = hold_lines(view, lines_max=HOLD_LINES_MAX)
    room = max(height, PICTURE_HEIGHT_MIN) - OTHER_LINES - len(holds)
    lines = [
        Text(title_line(view), style="bold", no_wrap=True, overflow="ellipsis"),
        _bar(view, width),
        Text(counter_line(view), no_wrap=True, overflow="ellipsis"),
        *_cells(view.tasks, width=width, lines_max=max(1, room)),
        *(Text(line, style="yellow", no_wrap=True, overflow="ellipsis") for line in holds),
    ]
    if result_line(view):
        style = "" if view.state == "completed" else "red"
        lines.append(Text(result_line(view), style=style, overflow="fold"))
    return Group(*lines)


def _bar(view: RolloutView, width: int) -> "Text":
    """`████████░░░░  batch 2  3 of 5  1m12s`."""
    from rich.text import Text

    total = len(view.tasks)
    tail = f"  batch {view.batch}  {view.settled} of {total}  {show_length(view.elapsed_s())}"
    room = max(5, min(BAR_WIDTH_MAX, width - len(tail)))
    full = room * view.settled // total if total else 0
    color = style_of(view.state)
    return Text.assemble(
        ("█" * full, color), ("░" * (room - full), "dim"), tail, no_wrap=True, overflow="ellipsis"
    )


def _cells(tasks: Sequence[TaskView], *, width: int, lines_max: int) -> list["Text"]:
    """Machine and state in columns as wide as the widest; what still moves comes first."""
    from rich.text import Text

    texts = [f"{task.machine} {task.state.replace('_', ' ')}" for task in tasks]
    cell_width = min(width, max(map(len, texts), default=0) + 2)
    per_line = max(1, width // cell_width) if cell_width else 1
    room = per_line * lines_max
    shown = list(tasks)
    if len(shown) > room:
        room = max(per_line, room - per_line)  # The last line says how many are not shown.
        moving = [task for task in tasks if task.state not in SETTLED and task.state != "held"]
        chosen = {id(task) for task in moving[:room]}
        for task in tasks:
            if len(chosen) >= room:
                break
            chosen.add(id(task))
        shown = [task for task in tasks if id(task) in chosen]
    lines = []
    for start in range(0, len(shown), per_line):
        line = Text(no_wrap=True, overflow="ellipsis")
        for task in shown[start : start + per_line]:
            state = task.state.replace("_", " ")
            padding = " " * (cell_width - len(task.machine) - len(state) - 1)
            line.append(f"{task.machine} ").append(state, style=style_of(task.state))
            line.append(padding)
        line.rstrip()
        lines.append(line)
    if len(shown) < len(tasks):
        lines.append(_rest(len(tasks) - len(shown)))
    return lines


def _rest(machines: int) -> "Text":
    from rich.text import Text

    text = f"and {machines} more machines"
    return Text(text, style="dim", no_wrap=True, overflow="ellipsis")


class LineTeller:
    """Tells what changed since the last view, a line each, each with the elapsed time."""

    def __init__(self) -> None:
        self._last: RolloutView | None = None
        self._told: frozenset[str] = frozenset()

    def __call__(self, view: RolloutView) -> None:
        last, self._last = self._last, view
        if last == view:
            return
        at = f"{show_length(view.elapsed_s()):>6}"
        if last is None or title_line(last) != title_line(view):
            say(f"{at}  {title_line(view)}")
        before = {task.machine: task for task in last.tasks} if last else {}
        for task in view.tasks:
            if task != before.get(task.machine) and (last or task.state != "held"):
                say(f"{at}  {_task_line(task)}")
        holds = hold_lines(view, lines_max=HOLD_LINES_MAX)
        for line in holds:
            if line not in self._told:
                say(f"{at}  held: {line}")
        self._told = frozenset(holds)
        if last is None or last.counts() != view.counts():
            say(f"{at}  {counter_line(view)}")
        if not view.is_open and result_line(view):
            say(f"{at}  {result_line(view)}")
        sys.stdout.flush()


def _task_line(task: TaskView) -> str:
    batch = f" (batch {task.batch})" if task.batch else ""
    detail = f": {task.detail}" if task.detail else ""
    return f"{task.machine} {task.state.replace('_', ' ')}{batch}{detail}"


def print_rollout(view: RolloutView) -> None:
    """One look, everything in full."""
    say(title_line(view))
    say(f"batch {view.batch}, {view.settled} of {len(view.tasks)} settled,"
        f" {show_length(view.elapsed_s())}")  # fmt: skip
    say(counter_line(view))
    if result_line(view):
        say(result_line(view))


def say_it_goes_on(rollout: str) -> None:
    """After Ctrl-C, so that nobody thinks that it was cancelled."""
    note(f"The rollout goes on. Look again: upkeep rollout show {rollout} --follow.")
    note(f"To end it: upkeep rollout cancel {rollout}.")
