"""From rows to what a template shows: every sentence, count and picture is made here."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from markupsafe import Markup

from upkeep.core.model import Lifecycle, RolloutState
from upkeep.core.policy import share_of
from upkeep.store.overview import (
    AlarmRow,
    BlackoutRow,
    BudgetRow,
    GroupRow,
    HoldRow,
    MachineRow,
    Overview,
    RolloutRow,
    TaskCount,
)
from upkeep.store.policies import policy_from_json
from upkeep.web.drawing import (
    batch_strip,
    batches_to_come,
    columns_for,
    icon,
    machine_map,
    strip_tally,
)
from upkeep.web.headline import group_mood, group_states
from upkeep.web.looks import WORDS, Look, is_down, look_of, tally
from upkeep.web.words import cause, count, moment, verdict, work

# Up to so many machines each is a card with its name; beyond, a map of cells.
CARDS_MAX = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A point in time as the page writes it, and as the script reads it."""

    text: str
    iso: str


def written(at: datetime, *, now: datetime) -> Moment:
    return Moment(text=moment(at, today=now), iso=at.isoformat(timespec="seconds"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One machine of a small group.

    Attributes:
        why: the cause if it is down, else what it waits for or nothing.
    """

    name: str
    look: Look
    word: str
    icon: Markup
    version: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """The machines of one zone, as cards or as a map."""

    name: str
    machines: int
    cards: tuple[Card, ...] = ()
    map: Markup | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """A running or an ended rollout.

    Attributes:
        tally: (kind, words, machines) as `drawing.strip_tally` gives it.
        loud: it stopped itself: a person should read the verdict.
    """

    row: RolloutRow
    title: str
    state: str
    verdict: str
    loud: bool
    strip: Markup
    tally: tuple[tuple[str, str, int], ...]
    started: Moment
    ended: Moment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldView:
    row: HoldRow
    names: tuple[str, ...]
    more: int
    since: Moment
    until: Moment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """One group's panel.

    Attributes:
        tally: (icon, word, machines) of each look there is.
        versions: (version, machines), most machines first.
        mood: `good`, `busy` (whoever is down is in work) or `bad`: how the badge looks.
        stopped: the newest of `ended`, where it halted and nothing runs: it is shown in full.
        earlier: the others of `ended`.
        drawn: False where the fleet is too large for this group's cells.
    """

    row: GroupRow
    state: str
    mood: str
    machines: int
    tally: tuple[tuple[Markup, str, int], ...]
    versions: tuple[tuple[str, int], ...]
    zones: tuple[Zone, ...]
    drawn: bool
    running: tuple[RolloutView, ...]
    ended: tuple[RolloutView, ...]
    stopped: RolloutView | None
    earlier: tuple[RolloutView, ...]
    holds: tuple[HoldView, ...]
    budgets: tuple[BudgetRow, ...]
    blackouts: tuple[BlackoutRow, ...]
    alarms: tuple[AlarmRow, ...]
    notes: tuple[str, ...]


def group_view(overview: Overview, group: GroupRow, *, now: datetime) -> GroupView:
    machines = overview.cells.get(group.id, ())
    counts = overview.counts.get(group.id, ())
    running = tuple(_rollout(r, overview, now) for r in overview.rollouts if r.group == group.id)
    ended = tuple(_rollout(r, overview, now) for r in overview.ended if r.group == group.id)
    stopped = ended[0] if ended and ended[0].loud and not running else None
    return GroupView(
        row=group,
        state=group_states(overview, group),
        mood=group_mood(overview, group),
        machines=sum(each.machines for each in counts),
        tally=tuple((icon(look), WORDS[look], number) for look, number in tally(machines)),
        versions=_versions(overview, group),
        zones=_zones(group, machines, now),
        drawn=group.id in overview.cells,
        running=running,
        ended=ended,
        stopped=stopped,
        earlier=ended[1:] if stopped else ended,
        holds=tuple(_hold(row, now) for row in overview.holds if row.group == group.id),
        budgets=tuple(row for row in overview.budgets if row.group == group.id),
        blackouts=tuple(row for row in overview.blackouts if row.group == group.id),
        alarms=tuple(row for row in overview.alarms if row.group == group.id),
        notes=_notes(group, counts_present=_present(overview, group)),
    )


def _present(overview: Overview, group: GroupRow) -> int:
    return sum(
        each.machines
        for each in overview.counts.get(group.id, ())
        if each.lifecycle is not Lifecycle.DELETING
    )


def _notes(group: GroupRow, *, counts_present: int) -> tuple[str, ...]:
    """What is unusual about how the group is set, in a word or two each."""
    notes = []
    if group.leaving:
        notes.append("being deleted")
    if group.paused:
        notes.append("paused")
    if not group.auto_upgrade:
        notes.append("automatic upgrade off")
    if group.kind == "scale_set" and counts_present != group.capacity:
        notes.append(f"capacity {group.capacity:,}, has {counts_present:,}")
    return tuple(notes)


def _versions(overview: Overview, group: GroupRow) -> tuple[tuple[str, int], ...]:
    machines: dict[str, int] = {}
    for each in overview.counts.get(group.id, ()):
        version = each.image or "unknown version"
        machines[version] = machines.get(version, 0) + each.machines
    return tuple(sorted(machines.items(), key=lambda pair: (-pair[1], pair[0])))


def _zones(group: GroupRow, machines: Sequence[MachineRow], now: datetime) -> tuple[Zone, ...]:
    as_cards = len(machines) <= CARDS_MAX
    columns = columns_for(len(machines))
    zones = []
    for name, members in groupby(machines, key=lambda machine: machine.zone):
        listed = list(members)
        if as_cards:
            cards = tuple(card(machine, now=now) for machine in listed)
            zones.append(Zone(name=name, machines=len(listed), cards=cards))
        else:
            words = ", ".join(f"{number:,} {WORDS[look]}" for look, number in tally(listed))
            where = f"{group.name}, zone {name}" if name else group.name
            label = f"{where}: {words}. Arrow keys move, Enter opens a machine."
            drawn = machine_map(listed, columns=columns, label=label)
            zones.append(Zone(name=name, machines=len(listed), map=drawn))
    return tuple(zones)


def card(machine: MachineRow, *, now: datetime) -> Card:
    look = look_of(machine)
    why = ""
    if is_down(machine) or look in (Look.WORKING, Look.LEAVING, Look.GOING_BACK):
        # The word stands above it already.
        why = cause(machine, today=now).removeprefix(f"{WORDS[look]} ")
    elif look is Look.WATCHED:
        why = f"after its upgrade (batch {machine.batch})"
    return Card(
        name=machine.name,
        look=look,
        word=WORDS[look],
        icon=icon(look),
        version=machine.image,
        why=why,
    )


_STATES = {
    RolloutState.RUNNING: "running",
    RolloutState.CANCELLING: "being cancelled",
    RolloutState.ROLLING_BACK: "halted, going back",
    RolloutState.COMPLETED: "completed",
    RolloutState.CANCELLED: "cancelled",
    RolloutState.FAULTED: "halted",
}


def _rollout(row: RolloutRow, overview: Overview, now: datetime) -> RolloutView:
    tasks = overview.tasks.get(row.id, ())
    size = share_of(policy_from_json(row.policy).max_batch_percent, size=row.size)
    state = "paused" if row.paused and row.ended_at is None else _STATES[row.state]
    if row.ended_at is None and row.state is RolloutState.RUNNING and row.target:
        state += _progress(row, tasks, size)
    stopped = row.state in (RolloutState.ROLLING_BACK, RolloutState.FAULTED)
    return RolloutView(
        row=row,
        title=work(row.verb, row.target),
        state=state,
        verdict=verdict(row) if stopped or row.code else "",
        loud=stopped,
        strip=batch_strip(tasks, batch=0 if row.ended_at else row.batch, size=size),
        tally=tuple(strip_tally(tasks)),
        started=written(row.started_at, now=now),
        ended=written(row.ended_at, now=now) if row.ended_at else None,
    )


def _progress(row: RolloutRow, tasks: Sequence[TaskCount], size: int) -> str:
    """`, batch 2 of 5`; how many are to come is a guess: zones and domains may make it more."""
    waiting = sum(task.machines for task in tasks if task.state == "held")
    to_come = batches_to_come(waiting, size=size)
    if row.batch == 0:
        return f", {count(to_come, 'batch', 'batches')} to come" if to_come else ""
    of = f" of about {row.batch + to_come}" if to_come else ", the last"
    return f", batch {row.batch}{of}"


def _hold(row: HoldRow, now: datetime) -> HoldView:
    return HoldView(
        row=row,
        names=row.names,
        more=row.machines - len(row.names),
        since=written(row.since, now=now),
        until=written(row.until, now=now) if row.until else None,
    )


def fleet_budgets(overview: Overview) -> tuple[BudgetRow, ...]:
    """Budgets that no single group owns."""
    return tuple(row for row in overview.budgets if not row.group)


def groups_on_page(
    groups: Sequence[GroupRow], *, after: str, most: int
) -> tuple[list[GroupRow], str]:
    """The groups of one page, and the name after which the next page begins (empty: none)."""
    rest = [group for group in groups if group.name > after]
    return rest[:most], rest[most - 1].name if len(rest) > most else ""
