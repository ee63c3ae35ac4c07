"""What people may write for a length or a moment, and how both are shown."""

from datetime import UTC, datetime

import pytest
import typer

from upkeep.cli.quantities import (
    parse_length_s,
    parse_moment,
    parse_percents,
    show_age,
    show_length,
    show_moment,
    show_size,
    to_rfc3339,
)

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("1w", 604800),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("0", 0),
        ("0s", 0),
        ("PT5M", 300),
        ("pt5m", 300),
        ("PT30S", 30),
        ("P1D", 86400),
        ("P1DT2H", 93600),
        ("PT0.5S", 0.5),
        (" 5m ", 300),
    ],
)
def test_lengths_are_read_with_their_unit(text: str, seconds: float) -> None:
    assert parse_length_s(text) == seconds
    assert isinstance(parse_length_s(text), type(seconds))


@pytest.mark.parametrize(
    "text", ["5", "", "m", "5 m", "5x", "-5m", "P", "PT", "PT5", "P5M2", "5m!"]
)
def test_what_is_no_length_is_refused_with_examples(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="30s, 5m, 2h, 1d or PT5M"):
        parse_length_s(text)


def test_a_length_of_more_than_a_year_is_a_slip() -> None:
    assert parse_length_s("366d") == 366 * 86400
    with pytest.raises(typer.BadParameter, match="longer than a year"):
        parse_length_s("367d")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", "2026-11-24T09:00:00Z"),
        ("+2h", "2026-11-24T11:00:00Z"),
        ("2026-12-24T18:00Z", "2026-12-24T18:00:00Z"),
        ("2026-12-24T19:00+01:00", "2026-12-24T18:00:00Z"),
    ],
)
def test_moments_are_read_into_utc(text: str, moment: str) -> None:
    assert to_rfc3339(parse_moment(text, now=NOW)) == moment


def test_a_moment_without_a_time_zone_is_refused_and_told_how() -> None:
    with pytest.raises(typer.BadParameter, match=r"2026-12-24T18:00Z for UTC"):
        parse_moment("2026-12-24T18:00", now=NOW)
    with pytest.raises(typer.BadParameter, match="is no moment"):
        parse_moment("christmas", now=NOW)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (0.25, "250ms"), (45, "45s"), (90, "1m30s"), (3600, "1h"), (273_600, "3d4h")],
)
def test_lengths_are_shown_by_their_two_largest_units(seconds: float, shown: str) -> None:
    assert show_length(seconds) == shown


def test_moments_ages_and_sizes_are_shown_short() -> None:
    assert show_moment("2026-11-24T08:55:10.123456Z") == "2026-11-24 08:55:10Z"
    assert show_moment(None) == ""
    assert show_age("2026-11-24T08:55:00Z", now=NOW) == "5m"
    assert show_age("2026-11-24T09:05:00Z", now=NOW) == "in 5m"
    assert show_size(512) == "512 B"
    assert show_size(11_744_051) == "11.2 MiB"


@pytest.mark.parametrize(
    ("text", "percents"), [("10,50", [10, 50]), (" 10% , 50 %", [10, 50]), ("7", [7]), ("none", [])]
)
def test_percentages_are_read(text: str, percents: list[int]) -> None:
    assert parse_percents(text) == percents


@pytest.mark.parametrize("text", ["", "10,", "ten", "1.5", "-1", "10 50", "\u0661", "1000"])
def test_percentages_that_are_none_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write 10,50 or none"):
        parse_percents(text)
