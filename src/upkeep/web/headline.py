"""The top of the page: who is down and why, in one to four sentences, worst first."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from upkeep.core.hold import HoldReason
from upkeep.core.model import Health, Lifecycle, RolloutState, System
from upkeep.store.overview import GroupRow, HoldRow, MachineRow, Overview, RolloutRow
from upkeep.web.looks import Look, is_down, look_of
from upkeep.web.words import DOING, REASONS, cause, count, target, verdict

# Machines named one by one; more are counted by cause.
NAMED_MAX = 3
SENTENCES_MAX = 4

# Ours: down, and back by itself when the work is done.
_PLANNED = frozenset({Look.WORKING, Look.GOING_BACK, Look.STARTING, Look.LEAVING})

# Holds that a person may want to lift; the others are a rollout's ordinary course.
_WORTH_SAYING = (
    HoldReason.CLOCK_STEPPED,
    HoldReason.BUDGET_SPENT,
    HoldReason.BUDGET_RESERVED,
    HoldReason.RETRIES_SPENT,
    HoldReason.ALARM,
    HoldReason.HOOK,
    HoldReason.NEEDS_APPROVAL,
    HoldReason.CANARY,
    HoldReason.REPAIRS_SUSPENDED,
    HoldReason.PAUSED,
    HoldReason.BLACKOUT,
)


class Severity(IntEnum):
    """How loudly the page says it; worst last."""

    EMPTY = 0
    WELL = 1
    WAITS = 2
    WORK = 3
    DOWN = 4
    HALTED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One line of the headline.

    Attributes:
        detail: the evidence, in smaller print.
        group: the name of the one group that it speaks of; empty for several.
    """

    severity: Severity
    text: str
    detail: str = ""
    group: str = ""


def headline(overview: Overview, *, now: datetime) -> list[Sentence]:
    """The sentences of the whole fleet; there is always one."""
    if not overview.groups:
        text = "Nothing to keep up yet: there is no group."
        detail = "Make the first one with “upkeep group create”."
        return [Sentence(severity=Severity.EMPTY, text=text, detail=detail)]
    names = {group.id: group.name for group in overview.groups}
    said = _halted(overview, names) + _lost(overview, names)
    said += _down(overview, now=now) + _at_work(overview, names) + _waiting(overview, names)
    said.sort(key=lambda sentence: -sentence.severity)
    if not said or said[0].severity < Severity.WORK:
        said.insert(0, _all_well(overview))
    elif not any(is_down(machine) for machine in overview.down):
        said.append(_all_up(overview))
    return said[:SENTENCES_MAX]


def machines_meant_up(overview: Overview) -> int:
    return sum(_present_and_down(overview, group)[0] for group in overview.groups)


def _all_well(overview: Overview) -> Sentence:
    up = machines_meant_up(overview)
    text = f"All well: {count(up, 'machine')} up." if up else "No machine is meant to be up."
    return Sentence(severity=Severity.WELL, text=text)


def _all_up(overview: Overview) -> Sentence:
    """Something goes on, or was halted, and nobody is down."""
    up = machines_meant_up(overview)
    text = f"All {count(up, 'machine')} up." if up else "No machine is meant to be up."
    return Sentence(severity=Severity.WELL, text=text)


def _halted(overview: Overview, names: dict[str, str]) -> list[Sentence]:
    """Rollouts that stopped themselves, until a newer one ends or nothing is held by it."""
    said = []
    for rollout in overview.rollouts:
        if rollout.state is RolloutState.ROLLING_BACK:
            said.append(_halt(rollout, names, "its machines go back"))
    busy = {r.group for r in overview.rollouts if r.system is System.OS_IMAGE}
    waiting = {hold.group for hold in overview.holds if hold.system is System.OS_IMAGE}
    judged: set[str] = set()
    for rollout in overview.ended:
        if rollout.group in judged:
            continue  # The newest of each group speaks for it.
        judged.add(rollout.group)
        stopped = rollout.state is RolloutState.FAULTED
        if stopped and rollout.group in waiting and rollout.group not in busy:
            said.append(_halt(rollout, names, ""))
    return said


def _halt(rollout: RolloutRow, names: dict[str, str], then: str) -> Sentence:
    group = names[rollout.group]
    text = f"Rollout halted in {group}: {verdict(rollout)}" + (f"; {then}." if then else ".")
    return Sentence(severity=Severity.HALTED, text=text, detail=rollout.evidence, group=group)


def _lost(overview: Overview, names: dict[str, str]) -> list[Sentence]:
    """A lost domain is said once, however many groups it holds."""
    lost = [hold for hold in overview.holds if hold.reason is HoldReason.DOMAIN_LOST]
    groups = sorted({names[hold.group] for hold in lost})
    if not groups:
        return []
    # The hold says which domain, then what lifts it: `zone 2 is lost; 10 minutes after …`.
    domain, _, lifted = lost[0].lifted_by.partition("; ")
    return [
        Sentence(
            severity=Severity.DOWN,
            text=f"{domain[:1].upper()}{domain[1:]}: work waits in {_few(groups)}.",
            detail=f"No version is blamed. Work goes on {lifted}." if lifted else "",
            group=groups[0] if len(groups) == 1 else "",
        )
    ]


def _down(overview: Overview, *, now: datetime) -> list[Sentence]:
    down = [machine for machine in overview.down if is_down(machine)]
    if not down:
        return []
    known = sum(_present_and_down(overview, group)[1] for group in overview.groups)
    planned = all(look_of(machine) in _PLANNED for machine in down)
    groups = {machine.group for machine in down}
    by_id = {group.id: group.name for group in overview.groups}
    who = _named(down, now=now) if known <= NAMED_MAX else _by_cause(down, known, by_id)
    return [
        Sentence(
            severity=Severity.WORK if planned else Severity.DOWN,
            text=f"{known:,} of {machines_meant_up(overview):,} down: {who}.",
            group=by_id[next(iter(groups))] if len(groups) == 1 else "",
        )
    ]


def _named(down: Sequence[MachineRow], *, now: datetime) -> str:
    return "; ".join(f"{m.name}, {cause(m, today=now)}".rstrip(".") for m in down)


def _by_cause(down: Sequence[MachineRow], known: int, names: dict[str, str]) -> str:
    """`470 not reached (web), 10 being upgraded (web)`; rows beyond the read ones are said so."""
    causes: Counter[str] = Counter()
    where: dict[str, set[str]] = {}
    for machine in down:
        look = look_of(machine)
        text = "unhealthy" if look is Look.UNHEALTHY else "not reached"
        if look in _PLANNED:
            text = "going back" if look is Look.GOING_BACK else "starting"
            if machine.verb is not None and look is not Look.GOING_BACK:
                text = DOING[machine.verb]
        causes[text] += 1
        where.setdefault(text, set()).add(names[machine.group])
    parts = [
        f"{number:,} {text} ({_few(sorted(where[text]))})" for text, number in causes.most_common()
    ]
    if known > len(down):
        parts.append(f"{known - len(down):,} more")
    return ", ".join(parts)


def _at_work(overview: Overview, names: dict[str, str]) -> list[Sentence]:
    """Running rollouts, so that `nobody down` is not mistaken for `nothing going on`."""
    running = [
        r
        for r in overview.rollouts
        if r.system is System.OS_IMAGE and r.state is not RolloutState.ROLLING_BACK
    ]
    if not running:
        return []
    if len(running) > 1:
        groups = _few(sorted(names[r.group] for r in running))
        text = f"{count(len(running), 'rollout')} running: {groups}."
        return [Sentence(severity=Severity.WORK, text=text)]
    rollout = running[0]
    group = names[rollout.group]
    if rollout.state is RolloutState.CANCELLING:
        text = f"The rollout of {target(rollout)} in {group} is being cancelled."
    elif rollout.paused:
        text = f"The rollout of {target(rollout)} in {group} is paused after batch {rollout.batch}."
    else:
        batch = f"batch {rollout.batch}" if rollout.batch else "no batch begun yet"
        text = f"{group} is on its way to {target(rollout)}: {batch}."
    return [Sentence(severity=Severity.WORK, text=text, group=group)]


def _waiting(overview: Overview, names: dict[str, str]) -> list[Sentence]:
    said = []
    for reason in _WORTH_SAYING:
        holds = [hold for hold in overview.holds if hold.reason is reason]
        if holds:
            said.append(_wait(reason, holds, names))
    return said


def _wait(reason: HoldReason, holds: Sequence[HoldRow], names: dict[str, str]) -> Sentence:
    machines = sum(hold.machines for hold in holds)
    groups = sorted({names[hold.group] for hold in holds})
    verb = "waits" if machines == 1 else "wait"
    return Sentence(
        severity=Severity.WAITS,
        text=f"{count(machines, 'machine')} of {_few(groups)} {verb}: {REASONS[reason]}.",
        detail=f"Lifted by: {holds[0].lifted_by}." if len(holds) == 1 else "",
        group=groups[0] if len(groups) == 1 else "",
    )


def _few(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def group_states(overview: Overview, group: GroupRow) -> str:
    """One short phrase for a group: `all 12 up`, `3 of 12 down`."""
    present, down = _present_and_down(overview, group)
    return f"{down:,} of {present:,} down" if down else f"all {present:,} up"


def group_mood(overview: Overview, group: GroupRow) -> str:
    """`good`, `busy` where whoever is down is in work, else `bad`."""
    _, down = _present_and_down(overview, group)
    if not down:
        return "good"
    in_work = sum(
        1
        for machine in overview.down
        if machine.group == group.id and is_down(machine) and look_of(machine) in _PLANNED
    )
    return "busy" if in_work == down else "bad"


def _present_and_down(overview: Overview, group: GroupRow) -> tuple[int, int]:
    present = [c for c in overview.counts.get(group.id, ()) if c.lifecycle is Lifecycle.PRESENT]
    down = sum(c.machines for c in present if c.health is not Health.HEALTHY)
    return sum(c.machines for c in present), down
