"""Reads and shows lengths, moments, shares and sizes as people write them on a command line.

A length is `30s`, `5m`, `2h`, `1d`, `1h30m` or ISO 8601 (`PT5M`); a bare number is refused, since
nobody can tell whether 5 are seconds or minutes.  A moment is RFC 3339 with its time zone, `now`,
or `+2h` from now.  What cannot be read is a usage error that shows what can.
"""

import re
from datetime import UTC, datetime, timedelta

import typer

_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_ISO = re.compile(
    r"P(?:(?P<w>\d+)W)?(?:(?P<d>\d+)D)?"
    r"(?:T(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?"
)
# Longer than any wait in the product (35 days at most), and far from overflowing a timedelta.
_LENGTH_S_MAX = 366 * 86400
_KIB = 1024


def parse_length_s(text: str) -> float:
    """Seconds; a whole number of them is an `int`, as the API shows it.

    Raises:
        typer.BadParameter: it is no length, or longer than a year.
    """
    length = text.strip()
    seconds = _iso_s(length.upper()) if length[:1].upper() == "P" else _short_s(length.lower())
    if seconds is None:
        raise typer.BadParameter(
            f"{text!r} is no length of time; write it with its unit: 30s, 5m, 2h, 1d or PT5M"
        )
    if seconds > _LENGTH_S_MAX:
        raise typer.BadParameter(f"{text!r} is longer than a year")
    return int(seconds) if seconds == int(seconds) else round(seconds, 3)


def _short_s(length: str) -> float | None:
    if length == "0":
        return 0
    parts = _PART.findall(length)
    if not parts or "".join(number + unit for number, unit in parts) != length:
        return None
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def _iso_s(length: str) -> float | None:
    found = _ISO.fullmatch(length)
    if found is None or length[-1] in "PT":
        return None
    return sum(float(number) * _UNITS_S[unit] for unit, number in found.groupdict("0").items())


def parse_percents(text: str) -> list[int]:
    """`10,50` or `10%, 50%`; `none` is an empty list.

    Raises:
        typer.BadParameter: one of them is no whole number.
    """
    if text.strip() == "none":
        return []
    parts = [part.strip().removesuffix("%").strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 3 for part in parts):
        raise typer.BadParameter(f"{text!r} are no percentages; write 10,50 or none")
    return [int(part) for part in parts]


def parse_moment(text: str, *, now: datetime | None = None) -> datetime:
    """An aware moment in UTC.

    Raises:
        typer.BadParameter: it cannot be read, or has no time zone.
    """
    now = now or datetime.now(UTC)
    if text == "now":
        return now
    if text.startswith("+"):
        return now + timedelta(seconds=parse_length_s(text[1:]))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None:
        raise typer.BadParameter(
            f"{text!r} is no moment; write 2026-12-24T18:00Z, 2026-12-24T19:00+01:00, now or +2h"
        )
    if moment.tzinfo is None:
        raise typer.BadParameter(
            f"{text!r} has no time zone; write {text}Z for UTC, or an offset such as {text}+01:00"
        )
    return moment.astimezone(UTC)


def to_rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def show_length(seconds: float) -> str:
    """The two largest units: `0s`, `45s`, `5m`, `1h30m`, `3d4h`."""
    whole = max(0, round(seconds))
    if 0 < seconds < 1:
        return f"{round(seconds * 1000)}ms"
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, whole = divmod(whole, int(_UNITS_S[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"


def show_moment(text: object) -> str:
    """An RFC 3339 moment without its fraction; anything else as it is, nothing as nothing."""
    moment = read_moment(text)
    if moment is None:
        return str(text) if text else ""
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def show_age(text: object, *, now: datetime | None = None) -> str:
    """How long ago a moment was: `4m`; a coming one is `in 4m`."""
    moment = read_moment(text)
    if moment is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    return show_length(seconds) if seconds >= 0 else f"in {show_length(-seconds)}"


def read_moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment is not None and moment.tzinfo else None


def show_size(size_bytes: float) -> str:
    """`512 B`, `11.2 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < _KIB or unit == "GiB":
            break
        size_bytes /= _KIB
    return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
