"""Windows that recur, by the calendar: literal schedules and the days on which they open.

Source: sheet maintenance §1.2, §1.3.
"""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upkeep.core.recurrence import (
    RecurrenceError,
    Schedule,
    next_windows,
    occurrences,
    parse_recurrence,
    windows_of,
)

HOUR = timedelta(hours=1)


def at(text: str) -> datetime:
    """A wall-clock time, of whichever zone."""
    return datetime.fromisoformat(text)


def a_schedule(recur_every: str, **changes: Any) -> Schedule:
    plain: dict[str, Any] = {
        "name": "nights",
        "starts": at("2026-01-05 22:00"),  # A Monday.
        "zone": "UTC",
        "length": 5 * HOUR,
        "recur_every": recur_every,
    }
    return Schedule(**plain | changes)


def openings(schedule: Schedule, count: int, *, now: datetime | None = None) -> list[str]:
    """In the schedule's own zone, as people would say them."""
    found = next_windows(schedule, now=now or datetime(2026, 1, 1, tzinfo=UTC), count=count)
    return [window.opens.strftime("%m-%d %H:%M") for window in found]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Day", ["01-05 22:00", "01-06 22:00", "01-07 22:00"]),
        ("3Days", ["01-05 22:00", "01-08 22:00", "01-11 22:00"]),
        ("5days", ["01-05 22:00", "01-10 22:00", "01-15 22:00"]),
        ("Week", ["01-05 22:00", "01-12 22:00", "01-19 22:00"]),
        ("Week Saturday,Sunday", ["01-10 22:00", "01-11 22:00", "01-17 22:00"]),
        ("2Weeks Saturday, Sunday", ["01-10 22:00", "01-11 22:00", "01-24 22:00"]),
        ("1week  friday", ["01-09 22:00", "01-16 22:00", "01-23 22:00"]),
        ("Month day23,day24", ["01-23 22:00", "01-24 22:00", "02-23 22:00"]),
        ("Month day31", ["01-31 22:00", "03-31 22:00", "05-31 22:00"]),
        ("Month day-1", ["01-31 22:00", "02-28 22:00", "03-31 22:00"]),
        ("Month Third Sunday Offset6", ["01-24 22:00", "02-21 22:00", "03-21 22:00"]),
        ("Month Last Sunday Offset-3", ["01-22 22:00", "02-19 22:00", "03-26 22:00"]),
        ("Month First Monday", ["01-05 22:00", "02-02 22:00", "03-02 22:00"]),
        ("2Months First Sunday Offset2", ["01-06 22:00", "03-03 22:00", "05-05 22:00"]),
    ],
)
def test_words_and_the_days_they_mean(words: str, expected: list[str]) -> None:
    assert openings(a_schedule(words), 3) == expected


def test_the_first_window_is_the_first_match_on_or_after_the_start() -> None:
    """A start on Wednesday 17 January and every Monday begin on Monday 22.  Sheet §1.3 (TS)."""
    schedule = a_schedule("Week Monday", starts=at("2024-01-17 22:00"))
    now = datetime(2024, 1, 1, tzinfo=UTC)
    assert openings(schedule, 2, now=now) == ["01-22 22:00", "01-29 22:00"]


def test_every_second_week_counts_from_the_first_match() -> None:
    """Not from the week in which the start lies: a Sunday, and its Monday is tomorrow."""
    schedule = a_schedule("2Weeks Monday", starts=at("2026-01-11 22:00"))
    assert openings(schedule, 2) == ["01-12 22:00", "01-26 22:00"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("", "how often"),
        ("0Days", "how often"),
        ("Fortnight", "how often"),
        ("Day Monday", "nothing follows"),
        ("Week Someday", "'someday' is no weekday"),
        ("Month", "which day of the month"),
        ("2Months", "which day of the month"),
        ("Month day32", "day1 to day31"),
        ("Month day0", "day1 to day31"),
        ("Month Fifth Monday", "which day of the month"),
        ("Month First Monday Offset7", "-6 to 6"),
        ("Month day1,Monday", "which day of the month"),
    ],
)
def test_words_that_say_nothing_are_refused_with_what_to_write(words: str, why: str) -> None:
    with pytest.raises(RecurrenceError, match=why):
        parse_recurrence(words)


def test_a_window_opens_at_the_same_wall_clock_time_in_summer_and_in_winter() -> None:
    schedule = a_schedule("Day", zone="Europe/Berlin", starts=at("2026-03-01 22:00"))
    before, *_, after = next_windows(schedule, now=datetime(2026, 3, 28, tzinfo=UTC), count=3)
    assert (before.opens.hour, after.opens.hour) == (21, 20)
    assert before.closes - before.opens == after.closes - after.opens == 5 * HOUR


def test_a_time_that_the_clock_leaves_out_is_an_hour_later_and_one_that_comes_twice_the_first(
) -> None:  # fmt: skip
    schedule = a_schedule("Day", zone="Europe/Berlin", starts=at("2026-03-01 02:30"))
    spring = datetime(2026, 3, 29, tzinfo=UTC)
    assert next_windows(schedule, now=spring, count=1)[0].opens == spring + 1.5 * HOUR
    autumn = datetime(2026, 10, 25, tzinfo=UTC)
    assert next_windows(schedule, now=autumn, count=1)[0].opens == autumn + 0.5 * HOUR


def test_nothing_opens_after_the_schedule_has_expired_or_without_a_recurrence() -> None:
    expires = at("2026-01-07 22:00")
    assert len(openings(a_schedule("Day", expires=expires), 9)) == 3
    assert openings(a_schedule(""), 9) == []


def test_the_window_that_is_open_is_the_first_of_those_to_come() -> None:
    now = datetime(2026, 1, 6, 2, 59, tzinfo=UTC)
    assert openings(a_schedule("Day"), 1, now=now) == ["01-05 22:00"]
    assert openings(a_schedule("Day"), 1, now=now + HOUR) == ["01-06 22:00"]


def test_windows_of_several_schedules_come_in_order_and_none_is_over() -> None:
    mornings = a_schedule("Week Tuesday", starts=at("2026-01-06 01:00"), name="mornings")
    now = datetime(2026, 1, 6, 2, tzinfo=UTC)
    found = windows_of([a_schedule("Day"), mornings], now=now)
    assert [window.name for window in found[:3]] == ["nights", "mornings", "nights"]
    assert all(window.closes > now for window in found)


def test_a_window_that_is_far_away_is_known_so_that_somebody_wakes_for_it() -> None:
    schedule = a_schedule("Week", starts=at("2026-09-07 22:00"))
    (far,) = windows_of([schedule], now=datetime(2026, 1, 1, tzinfo=UTC))
    assert far.opens == datetime(2026, 9, 7, 22, tzinfo=UTC)
    monthly = a_schedule("Month day1", starts=at("2026-01-01 22:00"))
    now = datetime(2026, 1, 1, 23, tzinfo=UTC)
    assert [w.opens.month for w in windows_of([monthly], now=now)] == [1, 2]


words = st.sampled_from(
    ["Day", "2Days", "7Days", "Week", "Week Monday,Friday", "2Weeks Sunday", "Month day31",
     "Month Last Friday Offset-6", "3Months Second Tuesday Offset4"]
)  # fmt: skip
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
moments = st.datetimes(at("2025-06-01 00:00"), at("2027-06-01 00:00"))


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(words, zones, moments, moments)
def test_no_window_before_the_start_none_twice_and_always_the_same_ones(
    recur_every: str, zone: str, starts: datetime, around: datetime
) -> None:
    starts = starts.replace(minute=0, second=0, microsecond=0)
    schedule = a_schedule(recur_every, zone=zone, starts=starts)
    now = around.replace(tzinfo=UTC)
    every = [w.opens for w in occurrences(schedule, after=now - 99 * 24 * HOUR, until=now)]
    late = [w.opens for w in occurrences(schedule, after=now - 40 * 24 * HOUR, until=now)]
    assert every == sorted(set(every))
    assert late == [opens for opens in every if opens >= now - 40 * 24 * HOUR]
    gap = parse_recurrence(recur_every).longest_gap
    if recur_every != "Month day31":
        for one, other in pairwise(every):
            assert other - one <= gap + HOUR
    seen = [w for w in windows_of([schedule], now=now) if w.opens <= now]
    assert [w.opens for w in seen] == [opens for opens in every if opens + schedule.length > now]
