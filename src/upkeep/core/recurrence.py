"""When a schedule's windows open: the words in which people say how often, and their occurrences.

The words are Azure's `recurEvery`: `Day`, `3Days`, `Week Saturday,Sunday`, `2Weeks`,
`Month day1,day15`, `Month Second Tuesday Offset4`.  Cases and blanks do not matter.  A window
opens at the same wall-clock time of its zone, summer and winter; its length is elapsed time.
Source: sheet maintenance §1.2, §1.3.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

from dateutil import rrule

from upkeep.core.snapshot import Interval

EXAMPLES = "Day, 3Days, Week Saturday,Sunday, Month day1, or Month Second Tuesday Offset4"

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "last": -1}
_FREQUENCY: Mapping[str, Literal[1, 2, 3]] = {
    "day": rrule.DAILY,
    "week": rrule.WEEKLY,
    "month": rrule.MONTHLY,
}
# An offset moves a monthly day by up to six days, so into the month before or after.
OFFSET_MAX = timedelta(days=6)
# Two openings of everything that recurs at least weekly lie within it.
_LOOK_AHEAD = timedelta(days=15)
_FOR_EVER = timedelta(days=3_653)

_COUNT = re.compile(r"([0-9]{0,3})(day|week|month)s?")
_MONTH_DAY = re.compile(r"day(-1|[0-9]{1,2})")
_MONTH_WEEK = re.compile(r"([a-z]+) ([a-z]+)(?: ?offset ?([+-]?[0-9]{1,2}))?")


class RecurrenceError(ValueError):
    """The words say nothing that could recur; the text says what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """How often, read from words.

    Attributes:
        unit: day, week or month; every: of how many.
        weekdays: 0 is Monday; empty with a unit of week: the start's own.
        month_days: 1..31, or -1 for the last; a month without the day is left out.
        ordinal: which of the month's weekdays, -1 is the last; 0 where month_days says it.
        offset: days after (or, negative, before) that day.
    """

    unit: str
    every: int = 1
    weekdays: tuple[int, ...] = ()
    month_days: tuple[int, ...] = ()
    ordinal: int = 0
    offset: timedelta = timedelta(0)

    @property
    def longest_gap(self) -> timedelta:
        """No two occurrences that follow each other are further apart (months: 31 days each)."""
        days = {"day": 1, "week": 7, "month": 31}[self.unit]
        return timedelta(days=days * self.every) + 2 * abs(self.offset)


def parse_recurrence(words: str) -> Recurrence:
    """Reads `recurEvery`.

    Raises:
        RecurrenceError: it is none.
    """
    text = re.sub(r"\s*,\s*", ",", " ".join(words.split())).casefold()
    head, _, rest = text.partition(" ")
    found = _COUNT.fullmatch(head)
    if found is None or found[1] == "0":
        raise RecurrenceError(f"{words!r} does not say how often; write {EXAMPLES}")
    every, unit = int(found[1] or 1), found[2]
    if unit == "month":
        return _monthly(words, every, rest)
    if unit == "week":
        return Recurrence(unit=unit, every=every, weekdays=_weekdays(words, rest))
    if rest:
        raise RecurrenceError(f"{words!r}: nothing follows {head!r}; write {EXAMPLES}")
    return Recurrence(unit=unit, every=every)


def _weekdays(words: str, rest: str) -> tuple[int, ...]:
    if not rest:
        return ()
    unknown = [name for name in rest.split(",") if name not in _WEEKDAYS]
    if unknown:
        raise RecurrenceError(f"{words!r}: {unknown[0]!r} is no weekday, written out in English")
    return tuple(sorted({_WEEKDAYS.index(name) for name in rest.split(",")}))


def _monthly(words: str, every: int, rest: str) -> Recurrence:
    """A month needs a day: Azure's service refuses a bare `Month`, whatever its SDK says."""
    if not rest:
        raise RecurrenceError(f"{words!r} does not say which day of the month; write {EXAMPLES}")
    days = [_MONTH_DAY.fullmatch(part) for part in rest.split(",")]
    if all(days):
        numbers = tuple(sorted({int(day[1]) for day in days if day}))
        if any(not (number == -1 or 1 <= number <= 31) for number in numbers):
            raise RecurrenceError(f"{words!r}: day1 to day31, or day-1 for a month's last")
        return Recurrence(unit="month", every=every, month_days=numbers)
    found = _MONTH_WEEK.fullmatch(rest)
    if found is None or found[1] not in _ORDINALS or found[2] not in _WEEKDAYS:
        raise RecurrenceError(f"{words!r} does not say which day of the month; write {EXAMPLES}")
    offset = timedelta(days=int(found[3] or 0))
    if abs(offset) > OFFSET_MAX:
        raise RecurrenceError(f"{words!r}: an offset is -6 to 6 days")
    return Recurrence(
        unit="month",
        every=every,
        weekdays=(_WEEKDAYS.index(found[2]),),
        ordinal=_ORDINALS[found[1]],
        offset=offset,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Windows that recur.

    Attributes:
        starts: wall-clock time in the zone; the first window is the first match on or after it.
        expires: wall-clock time in the zone after which none opens; None: never.
        zone: IANA name.
        length: of each window, elapsed time.
        recur_every: in words; empty: no window ever opens by itself.
    """

    name: str
    starts: datetime
    expires: datetime | None = None
    zone: str
    length: timedelta
    recur_every: str


def windows_of(schedules: Sequence[Schedule], *, now: datetime) -> tuple[Interval, ...]:
    """The windows of all of them that are open and that open within about two weeks, by time; of
    each at least the next, however far."""
    found = [window for schedule in schedules for window in _around(schedule, now.date())]
    return tuple(sorted((w for w in found if w.closes > now), key=lambda w: (w.opens, w.name)))


@lru_cache(maxsize=4096)
def _around(schedule: Schedule, day: date) -> tuple[Interval, ...]:
    """What may be open on the day (UTC) and what opens after it: asked once a day."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    first, tomorrow = midnight - schedule.length, midnight + timedelta(days=1)
    found = list(occurrences(schedule, after=first, until=midnight + _LOOK_AHEAD))
    if not found or found[-1].opens < tomorrow:
        found += itertools.islice(_coming(schedule, after=tomorrow), 1)
    return tuple(found)


def next_windows(schedule: Schedule, *, now: datetime, count: int) -> list[Interval]:
    """The window that is open and those that come, so many at most."""
    ahead = _coming(schedule, after=now - schedule.length)
    return list(itertools.islice((window for window in ahead if window.closes > now), count))


def _coming(schedule: Schedule, *, after: datetime) -> Iterator[Interval]:
    """Its windows from then on, or from its start on, for ten years."""
    starts = schedule.starts.replace(tzinfo=UTC)
    return occurrences(schedule, after=after, until=max(after, starts) + _FOR_EVER)


def occurrences(schedule: Schedule, *, after: datetime, until: datetime) -> Iterator[Interval]:
    """The schedule's windows that open from `after` to `until`, in order."""
    if not schedule.recur_every:
        return
    recurrence = parse_recurrence(schedule.recur_every)
    zone = ZoneInfo(schedule.zone)
    last = until.astimezone(zone).replace(tzinfo=None)
    if schedule.expires is not None:
        last = min(last, schedule.expires)
    for day in _days(schedule.starts, recurrence, until=last + OFFSET_MAX):
        local = day + recurrence.offset
        # A time that the change to summer time leaves out is an hour later; one that comes twice
        # in autumn is the first of the two.
        opens = local.replace(tzinfo=zone).astimezone(UTC)
        if local >= schedule.starts and local <= last and opens >= after:
            yield Interval(opens=opens, closes=opens + schedule.length, name=schedule.name)


def _days(starts: datetime, recurrence: Recurrence, *, until: datetime) -> Iterator[datetime]:
    """Wall-clock times that match, before the offset: the first on or after the start, and every
    so many days, weeks or months from that one."""
    # A positive offset brings a day of before the start to after it.
    begin = starts - max(recurrence.offset, timedelta(0))
    every_one = _rule(recurrence, begin, every=1, until=until)
    first = next((day for day in every_one if day + recurrence.offset >= starts), None)
    if first is not None:
        yield from _rule(recurrence, first, every=recurrence.every, until=until)


def _rule(
    recurrence: Recurrence, begin: datetime, *, every: int, until: datetime
) -> Iterator[datetime]:
    days = [rrule.weekday(day) for day in recurrence.weekdays]
    if recurrence.ordinal:
        days = [day(recurrence.ordinal) for day in days]
    rule = rrule.rrule(
        _FREQUENCY[recurrence.unit],
        dtstart=begin,
        interval=every,
        byweekday=days or None,
        bymonthday=recurrence.month_days or None,
        until=until,
    )
    return iter(rule)
