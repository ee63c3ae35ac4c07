"""How a machine looks to a person: ten looks, each with a word and a shape of its own.

Colour is never the only sign: `drawing.py` draws each look in another shape, the legend and every
cell say the word.
"""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

from upkeep.core.model import Health, Lifecycle, Verb
from upkeep.core.task import TaskState
from upkeep.store.overview import MachineRow


class Look(StrEnum):
    """From what needs a person most to what needs nobody; legends keep this order."""

    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"
    GOING_BACK = "going-back"
    WORKING = "working"
    STARTING = "starting"
    WATCHED = "watched"
    WAITING = "waiting"
    LEAVING = "leaving"
    STOPPED = "stopped"
    WELL = "well"


WORDS = {
    Look.UNHEALTHY: "unhealthy",
    Look.UNKNOWN: "not reached",
    Look.GOING_BACK: "going back",
    Look.WORKING: "in work",
    Look.STARTING: "starting",
    Look.WATCHED: "watched",
    Look.WAITING: "well, waits",
    Look.LEAVING: "being deleted",
    Look.STOPPED: "stopped",
    Look.WELL: "well",
}

# One letter a look: how a map of thousands tells the script which cell is what.
LETTERS = {
    Look.UNHEALTHY: "x",
    Look.UNKNOWN: "u",
    Look.GOING_BACK: "b",
    Look.WORKING: "k",
    Look.STARTING: "s",
    Look.WATCHED: "a",
    Look.WAITING: "h",
    Look.LEAVING: "d",
    Look.STOPPED: "o",
    Look.WELL: "w",
}

_IN_WORK = frozenset(
    {TaskState.ANNOUNCED, TaskState.DRAINING, TaskState.RUNNING, TaskState.VERIFYING}
)


def look_of(machine: MachineRow) -> Look:
    """The one look of a machine: work in hand says more than health, and health than waiting."""
    if machine.task is TaskState.ROLLING_BACK:
        return Look.GOING_BACK
    if machine.lifecycle is Lifecycle.DELETING or (
        machine.task in _IN_WORK and machine.verb is Verb.DELETE
    ):
        return Look.LEAVING
    if machine.task in _IN_WORK:
        return Look.STARTING if machine.verb in (Verb.CREATE, Verb.START) else Look.WORKING
    if machine.lifecycle is Lifecycle.STOPPED:
        return Look.STOPPED
    if machine.lifecycle is Lifecycle.CREATING:
        return Look.STARTING
    match machine.health:
        case Health.UNHEALTHY:
            return Look.UNHEALTHY
        case Health.UNKNOWN:
            return Look.UNKNOWN
        case Health.INITIALIZING:
            return Look.STARTING
        case Health.HEALTHY:
            if machine.task is TaskState.BAKING:
                return Look.WATCHED
            return Look.WAITING if machine.held else Look.WELL


def tally(machines: Iterable[MachineRow]) -> list[tuple[Look, int]]:
    """How many machines have each look, in the order of `Look`; absent ones are left out."""
    counted = Counter(look_of(machine) for machine in machines)
    return [(look, counted[look]) for look in Look if counted[look]]


def is_down(machine: MachineRow) -> bool:
    """It should serve and does not (budgets count claimed machines beside these)."""
    return machine.lifecycle is Lifecycle.PRESENT and machine.health is not Health.HEALTHY
