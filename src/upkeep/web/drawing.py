"""Pictures as SVG text: icons, a map of very many machines, a rollout's batches as a strip.

Sizes and colours are the style sheet's; here are only shapes.  Whatever comes from a row goes
through `escape`.  A map of 5,000 machines is one path per look, not 5,000 elements.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from upkeep.core.task import TaskState
from upkeep.store.overview import MachineRow, TaskCount
from upkeep.web.looks import LETTERS, Look, look_of
from upkeep.web.words import TASKS, count

# A cell is a square of ten units; shapes leave a little air around them.
CELL = 10

# Where each shape starts in its cell, and how its outline goes on from there.
_SHAPES: Mapping[Look, tuple[float, float, str]] = {
    Look.WELL: (1, 1, "h8v8h-8z"),
    Look.WAITING: (1, 1, "h3v8h-3zm5 0h3v8h-3z"),
    Look.WATCHED: (1, 1, "h8v8h-8zm2.5 2.5v3h3v-3z"),
    Look.WORKING: (5, 0.5, "l4.5 9h-9z"),
    Look.GOING_BACK: (0.5, 5, "l9-4.5v9z"),
    Look.STARTING: (1, 1, "h8v8h-8zm1.5 1.5v2.5h5v-2.5z"),
    Look.UNHEALTHY: (
        0.5, 2.5,
        "l2-2 2.5 2.5 2.5-2.5 2 2-2.5 2.5 2.5 2.5-2 2-2.5-2.5-2.5 2.5-2-2 2.5-2.5z",
    ),
    Look.UNKNOWN: (5, 0.3, "l4.7 4.7-4.7 4.7-4.7-4.7zm0 2.6l-2.1 2.1 2.1 2.1 2.1-2.1z"),
    Look.STOPPED: (1, 1, "h8v8h-8zm1.5 1.5v5h5v-5z"),
    Look.LEAVING: (1, 3.5, "h8v3h-8z"),
}  # fmt: skip

# Machines in a row of a map, by how many there are: cells shrink as groups grow.
_COLUMNS = ((300, 48), (1_500, 72), (6_000, 100))
_COLUMNS_MOST = 144


def _outline(look: Look, column: int, row: int) -> str:
    x, y, outline = _SHAPES[look]
    return f"M{column * CELL + x:g} {row * CELL + y:g}{outline}"


def icon(look: Look) -> Markup:
    """One look's shape, to stand before its word."""
    shape = _outline(look, 0, 0)
    return Markup(
        f'<svg class="icon look-{look}" viewBox="0 0 10 10" aria-hidden="true">'
        f'<path d="{shape}"/></svg>'
    )


def columns_for(machines: int) -> int:
    return next((columns for most, columns in _COLUMNS if machines <= most), _COLUMNS_MOST)


def machine_map(machines: Sequence[MachineRow], *, columns: int, label: str) -> Markup:
    """All the machines as cells, in the order given, `columns` in a row.

    The script reads names and looks from the two attributes to say what is under the pointer or
    the keyboard's cursor.
    """
    looks = [look_of(machine) for machine in machines]
    outlines: dict[Look, list[str]] = {}
    for index, look in enumerate(looks):
        row, column = divmod(index, columns)
        outlines.setdefault(look, []).append(_outline(look, column, row))
    rows = -(-len(machines) // columns)
    paths = "".join(
        f'<path class="look-{look}" d="{"".join(outlines[look])}"/>'
        for look in Look
        if look in outlines
    )
    names = escape(" ".join(machine.name for machine in machines))
    letters = "".join(LETTERS[look] for look in looks)
    return Markup(
        f'<svg class="map" tabindex="0" role="application" aria-roledescription="map of machines" '
        f'viewBox="0 0 {columns * CELL} {rows * CELL}" data-columns="{columns}" '
        f'data-looks="{letters}" data-names="{names}" aria-label="{escape(label)}">'
        f'{paths}<rect class="cursor" width="{CELL}" height="{CELL}"/></svg>'
    )


# How a task is drawn in a strip, in the order from left to right inside one batch.
_STRIP: Mapping[TaskState, str] = {
    TaskState.DONE: "done",
    TaskState.BAKING: "watched",
    TaskState.VERIFYING: "working",
    TaskState.RUNNING: "working",
    TaskState.DRAINING: "working",
    TaskState.ANNOUNCED: "working",
    TaskState.ROLLING_BACK: "back",
    TaskState.ROLLED_BACK: "back",
    TaskState.FAILED: "failed",
    TaskState.SKIPPED: "left",
    TaskState.CANCELLED: "never",
    TaskState.HELD: "waiting",
}

STRIP_WORDS: Mapping[str, str] = {
    "done": "done",
    "watched": "watched",
    "working": "in work",
    "back": "back as before",
    "failed": "failed",
    "waiting": "waiting",
    "left": "left out",
    "never": "never begun",
}


def strip_tally(tasks: Iterable[TaskCount]) -> list[tuple[str, str, int]]:
    """(kind, words, machines) for the line under a strip, absent kinds left out."""
    counted = dict.fromkeys(STRIP_WORDS, 0)
    for task in tasks:
        counted[_STRIP[task.state]] += task.machines
    return [(kind, STRIP_WORDS[kind], number) for kind, number in counted.items() if number]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """A stretch of the strip: a batch, one still to come (number 0), or those left out (-1)."""

    number: int
    parts: tuple[tuple[str, int, str], ...]

    @property
    def machines(self) -> int:
        return sum(machines for _, machines, _ in self.parts)


def batches_to_come(waiting: int, *, size: int) -> int:
    """At least so many batches are left; zones and update domains may make it more."""
    return -(-waiting // max(1, size))


def _batches(tasks: Sequence[TaskCount], size: int) -> list[_Batch]:
    order = list(_STRIP)
    taken: dict[int, list[TaskCount]] = {}
    for task in tasks:
        if task.batch > 0:
            taken.setdefault(task.batch, []).append(task)
    batches = [
        _Batch(
            number=number,
            parts=tuple(
                (_STRIP[task.state], task.machines, TASKS[task.state])
                for task in sorted(taken[number], key=lambda task: order.index(task.state))
            ),
        )
        for number in sorted(taken)
    ]
    waiting = sum(t.machines for t in tasks if t.batch == 0 and t.state is TaskState.HELD)
    while waiting > 0:
        part = min(max(1, size), waiting)
        batches.append(_Batch(number=0, parts=(("waiting", part, "waiting"),)))
        waiting -= part
    for state in (TaskState.SKIPPED, TaskState.CANCELLED):
        left = sum(t.machines for t in tasks if t.batch == 0 and t.state is state)
        if left:
            batches.append(_Batch(number=-1, parts=((_STRIP[state], left, TASKS[state]),)))
    return batches


def batch_strip(tasks: Sequence[TaskCount], *, batch: int, size: int) -> Markup:
    """A rollout from its first batch to the last one still to come, as wide as it has machines.

    Args:
        batch: the number of the open batch.
        size: machines in a full batch: how the ones still to come are guessed.
    """
    batches = _batches(tasks, size)
    total = sum(each.machines for each in batches)
    if total == 0:
        return Markup("")
    drawn = []
    at = 0
    for each in batches:
        start = at
        for kind, machines, words in each.parts:
            x, width = 100 * at / total, 100 * machines / total
            name = f"batch {each.number}: " if each.number > 0 else ""
            drawn.append(
                f'<rect class="strip-{kind}" x="{x:.3f}%" width="{width:.3f}%" height="22">'
                f"<title>{name}{machines:,} {words}</title></rect>"
            )
            at += machines
        share = 100 * (at - start) / total
        if start:
            edge = 100 * start / total
            drawn.append(f'<line class="edge" x1="{edge:.3f}%" x2="{edge:.3f}%" y1="0" y2="22"/>')
        if each.number > 0 and share >= 2:
            middle = 100 * start / total + share / 2
            now = " now" if each.number == batch else ""
            drawn.append(f'<text class="number{now}" x="{middle:.3f}%" y="36">{each.number}</text>')
    words = ", ".join(f"{number:,} {said}" for _, said, number in strip_tally(tasks))
    label = f"{count(total, 'machine')} in batches: {words}"
    return Markup(
        f'<svg class="strip" height="40" width="100%" role="img" aria-label="{label}">'
        f"{''.join(drawn)}</svg>"
    )


# A budget with more places is a bar.
PLACES_DRAWN_MAX = 40


def meter(used: int, allowed: int) -> Markup:
    """A budget's places, taken ones filled; very many are one bar."""
    label = f"{used:,} of {allowed:,} places taken"
    if max(used, allowed) > PLACES_DRAWN_MAX:
        share = 100 * min(used, allowed) / allowed if allowed else 100
        drawn = [
            '<rect class="place" width="100%" height="8"/>',
            f'<rect class="taken" width="{share:.2f}%" height="8"/>',
        ]
        return _meter(120, label, drawn)
    places = max(used, allowed)
    drawn = []
    for place in range(places):
        kind = "taken" if place < min(used, allowed) else "over" if place >= allowed else "place"
        drawn.append(f'<rect class="{kind}" x="{place * 11 + 1}" y="1" width="8" height="8"/>')
    return _meter(places * 11, label, drawn)


def _meter(width: int, label: str, drawn: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="meter" width="{width}" height="10" role="img" aria-label="{label}">'
        f"{''.join(drawn)}</svg>"
    )
