"""What to do next with the commands that came: pure, so that every interruption can be tried.

The loop keeps this order, and then `kill -9` anywhere ends in the same place:
    journal = accept(journal, commands);  write it
    journal, effect = next_effect(journal, ...);  write it;  only then act on the effect
    journal = finish(journal, key, ...);  write it
    a reply came to a request that carried `done`:  journal = acknowledge(journal, done);  write it

Invariants: commands run one at a time, in the order in which they came; a key is worked on at
most once per boot and process; a key that was answered is answered again, never done again; a
command with a lower fence than the highest seen does nothing.

This module does not read clocks, files or the network, and draws no numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .text_enum import TextEnum
from .wire import Command, Done, Outcome

ENTRIES_MAX = 128  # Twice what one reply can bring, so a whole reply fits beside a whole backlog.
DRAIN_TIMEOUT_S_RANGE = (1, 3_600)
DRAIN_TIMEOUT_S_DEFAULT = 300  # Where the command names none: the published health wait, 5 min.


class Verb(TextEnum):
    RESTART = "restart"
    DRAIN = "drain"
    REPORT = "report"


class EntryState(TextEnum):
    RECEIVED = "received"  # Written down, nothing begun.
    STARTED = "started"  # Written before the act: it may have happened, or not.
    DONE = "done"  # Has an outcome.


@dataclass(frozen=True)
class Entry:
    """One command's row in the journal.

    Attributes:
        boot_id: of the boot in which it was started; empty before.
        acknowledged: a reply has come to a request that carried the outcome.
    """

    key: str
    fence: int
    verb: str
    args: Mapping[str, Any] = field(default_factory=dict)
    state: EntryState = EntryState.RECEIVED
    boot_id: str = ""
    outcome: Outcome | None = None
    detail: str = ""
    acknowledged: bool = False


@dataclass(frozen=True)
class Journal:
    """All that must survive: entries in the order of arrival, and the highest fence seen."""

    entries: tuple[Entry, ...] = ()
    fence_max: int = 0


@dataclass(frozen=True)
class Effect:
    """What the loop must now do in the world; `report` needs none and never becomes one.

    Attributes:
        timeout_s: for drain.
    """

    verb: Verb
    key: str
    timeout_s: int = 0


def accept(journal: Journal, commands: Sequence[Command]) -> Journal:
    """The journal with what came; a journal that did not change is returned as it is."""
    for command in commands:
        journal = _accept_one(journal, command)
    return journal


def next_effect(
    journal: Journal, *, boot_id: str, in_hand: frozenset[str] = frozenset()
) -> tuple[Journal, Effect | None]:
    """Moves the oldest open command on by one step.

    Args:
        boot_id: of the running boot.
        in_hand: keys whose effect this process has begun and not finished; their effect is not
            given a second time.  Empty in a new process, so what a crash interrupted is done
            again: a reboot that did not come, a drain hook that was cut short.
    """
    for entry in journal.entries:
        if entry.state is EntryState.DONE:
            continue
        return _advance(journal, entry, boot_id=boot_id, in_hand=in_hand)
    return journal, None


def finish(journal: Journal, key: str, outcome: Outcome, detail: str = "") -> Journal:
    """Writes a started command's outcome; one that is not open any more keeps its own."""
    entry = find(journal, key)
    if entry is None or entry.state is EntryState.DONE:
        return journal
    return _put(journal, replace(entry, state=EntryState.DONE, outcome=outcome, detail=detail))


def pending_done(journal: Journal) -> tuple[Done, ...]:
    """The outcomes that the next request carries: all that no reply has confirmed."""
    return tuple(
        Done(entry.key, entry.fence, entry.outcome, entry.detail)
        for entry in journal.entries
        if entry.outcome is not None and not entry.acknowledged
    )


def acknowledge(journal: Journal, sent: Sequence[Done]) -> Journal:
    """Marks what a request carried, after its reply; an outcome that changed meanwhile stays."""
    for done in sent:
        entry = find(journal, done.key)
        if entry is None or entry.acknowledged or entry.outcome is not done.outcome:
            continue
        if entry.fence == done.fence:
            journal = _put(journal, replace(entry, acknowledged=True))
    return journal


def find(journal: Journal, key: str) -> Entry | None:
    for entry in journal.entries:
        if entry.key == key:
            return entry
    return None


def _accept_one(journal: Journal, command: Command) -> Journal:
    known = find(journal, command.key)
    stale = command.fence < journal.fence_max
    if known is not None and known.outcome is not Outcome.FENCED:
        return _repeat(journal, known, command)
    if stale:
        fenced = Entry(
            command.key,
            command.fence,
            command.verb,
            state=EntryState.DONE,
            outcome=Outcome.FENCED,
            detail=f"fence {command.fence} is older than {journal.fence_max}",
        )
        return _put(journal, fenced)
    entry = Entry(command.key, command.fence, command.verb, command.args)
    # A refused key that comes back with a good fence is a new request, at the end of the queue.
    without = tuple(each for each in journal.entries if each.key != command.key)
    return replace(_put(replace(journal, entries=without), entry), fence_max=command.fence)


def _repeat(journal: Journal, known: Entry, command: Command) -> Journal:
    """A key that is in the journal: the outcome is sent again, under the newest fence seen."""
    fence = max(known.fence, command.fence)
    again = replace(known, fence=fence, acknowledged=False)
    if again == known:
        return journal
    return replace(_put(journal, again), fence_max=max(journal.fence_max, fence))


def _advance(
    journal: Journal, entry: Entry, *, boot_id: str, in_hand: frozenset[str]
) -> tuple[Journal, Effect | None]:
    if entry.verb == Verb.REPORT.value:
        return finish(journal, entry.key, Outcome.SUCCEEDED), None
    if entry.verb not in (Verb.RESTART.value, Verb.DRAIN.value):
        detail = f"this agent does not know the verb {entry.verb[:40]!r}; update the agent"
        return finish(journal, entry.key, Outcome.FAILED, detail), None
    if (
        entry.verb == Verb.RESTART.value
        and entry.state is EntryState.STARTED
        and entry.boot_id != boot_id
    ):
        return finish(journal, entry.key, Outcome.SUCCEEDED, "the boot id has changed"), None
    if entry.key in in_hand:
        return journal, None
    if entry.state is EntryState.RECEIVED:
        journal = _put(journal, replace(entry, state=EntryState.STARTED, boot_id=boot_id))
    if entry.verb == Verb.RESTART.value:
        return journal, Effect(Verb.RESTART, entry.key)
    return journal, Effect(Verb.DRAIN, entry.key, _drain_timeout_s(entry.args))


def _drain_timeout_s(args: Mapping[str, Any]) -> int:
    asked = args.get("timeout_s")
    if isinstance(asked, bool) or not isinstance(asked, int):
        return DRAIN_TIMEOUT_S_DEFAULT
    low, high = DRAIN_TIMEOUT_S_RANGE
    return min(max(asked, low), high)


def _put(journal: Journal, entry: Entry) -> Journal:
    """The journal with this entry in its place, or at the end; bounded.

    When it is full the oldest confirmed outcome goes.  When none is confirmed the new command is
    not taken: the server has it and sends it again.
    """
    entries = list(journal.entries)
    for index, each in enumerate(entries):
        if each.key == entry.key:
            entries[index] = entry
            return replace(journal, entries=tuple(entries))
    if len(entries) >= ENTRIES_MAX:
        for index, each in enumerate(entries):
            if each.acknowledged:
                del entries[index]
                break
        else:
            return journal
    return replace(journal, entries=(*entries, entry))
