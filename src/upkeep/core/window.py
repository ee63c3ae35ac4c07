"""When disruptive work may start: inside a window, outside every blackout, with enough time left.

Windows and blackouts arrive as occurrences in UTC instants (`model.Interval`), half-open.
Work that has started is never interrupted by the end of a window: the reserve below makes sure
that it fits.  Source: sheet os-image §2.6; STYLE §5 example 10.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from upkeep.core.hold import HoldReason
from upkeep.core.snapshot import Interval


def is_open(interval: Interval, now: datetime) -> bool:
    return interval.opens <= now < interval.closes


def time_refusal(
    windows: Sequence[Interval] | None,
    blackouts: Sequence[Interval],
    *,
    reserve: timedelta,
    now: datetime,
) -> tuple[HoldReason, datetime | None, str] | None:
    """Why nothing may start now, until when, in words; None when it may.

    Args:
        windows: None means that no window is set, so any time will do; an empty sequence means
            that windows are set and none is coming.
        reserve: the longest that one machine may take; a window with less left is too short.
    """
    for blackout in blackouts:
        if is_open(blackout, now):
            name = blackout.name or "without a name"
            return HoldReason.BLACKOUT, blackout.closes, f"blackout {name} ends"
    if windows is None:
        return None
    for window in windows:
        if is_open(window, now):
            # Reserve the whole of one machine's work: stopping half-way through is worse than
            # missing a window.
            if window.closes - now < reserve:
                opening, words = _next_opening(windows, window.closes)
                words = f"one machine may take {reserve}, and less is left; {words}"
                return HoldReason.WINDOW_TOO_SHORT, opening, words
            return None
    opening, words = _next_opening(windows, now)
    return HoldReason.OUTSIDE_WINDOW, opening, words


def _next_opening(windows: Sequence[Interval], after: datetime) -> tuple[datetime | None, str]:
    """When, and what then lifts the hold, in words."""
    coming = [window for window in windows if window.opens >= after]
    if not coming:
        return None, "no window is coming: change the group's schedule, or take it away"
    first = min(coming, key=lambda window: window.opens)
    return first.opens, f"window {first.name} opens" if first.name else "the next window opens"
