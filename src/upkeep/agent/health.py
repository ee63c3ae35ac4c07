"""Application health: what one probe says, and when many of them change the state.

Pure: no clock, no I/O.  The agent uses it for the probe inside the machine and the server for
the probe from outside, so both agree on every rule.  Sending the probe is `probe.py` here and
`engine/prober.py` there.

Time is `now`, float seconds of any one clock that does not go back (monotonic on a machine,
`datetime.timestamp()` in a simulation); only differences mean anything.

Two ways of reading an answer (contract sheet of OS image upgrades, §6):
  binary  Healthy is exactly status 200, or a TCP connection; all else is Unhealthy.
  rich    the body says Healthy or Unhealthy; whatever does not say so is Unknown.  TCP as binary.

Invariants: a state changes only after `number_of_probes` equal observations in a row, or by the
end of the grace period; Initializing happens once, at the start.

    settings = parse_settings({"protocol": "http", "port": 8080, "path": "/health"})
    health = start(settings, now=0.0)
    health = observe(settings, health, judge(settings, answered=True, status=200), now=0.1)
    assert health.state is HealthState.HEALTHY
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .text_enum import TextEnum

INTERVAL_S_RANGE = (5, 60)  # Sheet §6.1.
INTERVAL_MS_RANGE = (100, 60_000)  # Ours: fast probes, for demonstrations and tests.
NUMBER_OF_PROBES_RANGE = (1, 24)  # Sheet §6.1.
GRACE_PERIOD_S_RANGE = (5, 14_400)  # Sheet §6.1: four hours is the longest start-up.
PORT_RANGE = (1, 65_535)
DECISION_MS_MAX = (
    240_000  # interval x probes, sheet §6.1: slower is not worth being called a probe.
)
PATH_LENGTH_MAX = 2_048  # What servers commonly accept in a request line.
CLIENT_TIMEOUT_S = 30.0  # Sheet §6.1, the probe inside the machine.
BODY_BYTES_MAX = 8_192  # Of an answer: a rich health document is a few hundred bytes.
DETAIL_LENGTH_MAX = 256  # One line on a page.

DEFAULT_INTERVAL_MS = 5_000
DEFAULT_PORTS = {"http": 80, "https": 443}
SETTING_KEYS = frozenset(
    {
        "protocol",
        "port",
        "path",
        "interval_s",
        "interval_ms",
        "number_of_probes",
        "grace_period_s",
        "rich",
    }
)


class ProbeProtocol(TextEnum):
    TCP = "tcp"
    HTTP = "http"
    HTTPS = "https"


class HealthState(TextEnum):
    INITIALIZING = "initializing"  # Started, and nothing decided yet: wait.
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"  # Rich only: nothing that can be understood came back.


class SettingsError(ValueError):
    """A health source that cannot be used.

    Attributes:
        field: the key that is wrong.
        detail: for people: what is wrong with it and what is allowed.
    """

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail


@dataclass(frozen=True)
class ProbeSettings:
    """A health source after validation, with every default filled in.

    Attributes:
        port: always set: 80 for http and 443 for https when none was given.
        path: begins with `/` for http(s); empty for tcp.
        interval_ms: from the start of one probe to the start of the next.
        grace_period_s: how long Initializing may last; 0 means that the first observation decides.
    """

    protocol: ProbeProtocol
    port: int
    path: str = ""
    interval_ms: int = DEFAULT_INTERVAL_MS
    number_of_probes: int = 1
    grace_period_s: float = 0.0
    rich: bool = False

    @property
    def interval_s(self) -> float:
        return self.interval_ms / 1000

    @property
    def state_after_grace(self) -> HealthState:
        """What an application is that did not become healthy in its grace period."""
        return HealthState.UNKNOWN if self.has_unknown else HealthState.UNHEALTHY

    @property
    def has_unknown(self) -> bool:
        """True where an answer can be missing rather than bad: rich, and not tcp."""
        return self.rich and self.protocol is not ProbeProtocol.TCP


@dataclass(frozen=True)
class CustomMetrics:
    """What the application says of its own upgrade; read when a rollout starts.

    Attributes:
        phase: PhaseOrderingNumber; None when not given.
        skip: SkipUpgrade: leave this machine out.
        error: why the metrics could not be used; health is not touched by it.
    """

    phase: int | None = None
    skip: bool = False
    error: str = ""


NO_METRICS = CustomMetrics()


@dataclass(frozen=True)
class Observation:
    """What one probe says; never Initializing."""

    state: HealthState
    detail: str = ""
    metrics: CustomMetrics = NO_METRICS


@dataclass(frozen=True)
class Health:
    """The state of one health source between two probes.

    Attributes:
        since: when `state` was entered.
        grace_ends_at: end of the grace period; None once Initializing is over.
        candidate: the last observation's state; None before the first and after a commit.
        count: equal observations in a row, at most `number_of_probes`.
        detail: the last observation in words.
        metrics: of the last observation.
    """

    state: HealthState
    since: float
    grace_ends_at: float | None
    candidate: HealthState | None = None
    count: int = 0
    detail: str = ""
    metrics: CustomMetrics = NO_METRICS


# --- Settings ---------------------------------------------------------------------------------


def parse_settings(raw: Mapping[str, object]) -> ProbeSettings:
    """Reads `probe.json` or the `probe` of a reply; every rule of the sheet §6.1 is checked.

    `interval_ms` is ours and excludes `interval_s`.  Without `grace_period_s` a rich source has
    interval x probes, but at least 5 s, and a binary one has none, as in the two versions of the
    extension that this follows.

    Raises:
        SettingsError: for the first rule that is broken, in the order of the fields.
    """
    unknown = sorted(set(raw) - SETTING_KEYS)
    if unknown:
        raise SettingsError(unknown[0], f"is not a setting; known are {_listed(SETTING_KEYS)}")
    protocol = _parse_protocol(raw.get("protocol"))
    interval_ms = _parse_interval_ms(raw)
    probes = _parse_int(raw, "number_of_probes", NUMBER_OF_PROBES_RANGE, default=1)
    if interval_ms * probes > DECISION_MS_MAX:
        raise SettingsError(
            "number_of_probes",
            f"{probes} probes every {interval_ms / 1000:g} s take more than"
            f" {DECISION_MS_MAX // 1000} s; use fewer probes or a shorter interval",
        )
    rich = raw.get("rich", False)
    if not isinstance(rich, bool):
        raise SettingsError("rich", "must be true or false")
    return ProbeSettings(
        protocol=protocol,
        port=_parse_port(raw, protocol),
        path=_parse_path(raw.get("path"), protocol),
        interval_ms=interval_ms,
        number_of_probes=probes,
        grace_period_s=_parse_grace_period_s(raw, rich=rich, decision_ms=interval_ms * probes),
        rich=rich,
    )


def settings_to_json(settings: ProbeSettings) -> dict[str, Any]:
    """The wire form; `parse_settings` reads it back to an equal value."""
    wire: dict[str, Any] = {
        "protocol": settings.protocol.value,
        "port": settings.port,
        "number_of_probes": settings.number_of_probes,
        "rich": settings.rich,
    }
    if settings.path:
        wire["path"] = settings.path
    low, high = INTERVAL_S_RANGE
    if settings.interval_ms % 1000 == 0 and low <= settings.interval_ms // 1000 <= high:
        wire["interval_s"] = settings.interval_ms // 1000
    else:
        wire["interval_ms"] = settings.interval_ms
    # A default of a fractional length (fast probes) is not sent: it is derived again.
    if settings.grace_period_s and settings.grace_period_s == int(settings.grace_period_s):
        wire["grace_period_s"] = int(settings.grace_period_s)
    return wire


def outside_timeout_s(settings: ProbeSettings) -> float:
    """How long a probe from outside the machine waits.  Source: sheet §6.5, min(interval, 30 s)."""
    return min(settings.interval_s, CLIENT_TIMEOUT_S)


def _parse_protocol(value: object) -> ProbeProtocol:
    for protocol in ProbeProtocol:
        if isinstance(value, str) and value == protocol.value:
            return protocol
    raise SettingsError("protocol", "is required and is tcp, http or https")


def _parse_int(
    raw: Mapping[str, object], key: str, allowed: tuple[int, int], *, default: int
) -> int:
    value = raw.get(key, default)
    low, high = allowed
    # bool is an int to Python, and `true` is no number of anything here.
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SettingsError(key, f"must be a whole number from {low} to {high}")
    return value


def _parse_interval_ms(raw: Mapping[str, object]) -> int:
    if "interval_ms" not in raw:
        seconds = _parse_int(raw, "interval_s", INTERVAL_S_RANGE, default=INTERVAL_S_RANGE[0])
        return seconds * 1000
    if "interval_s" in raw:
        raise SettingsError("interval_ms", "excludes interval_s; give one of them")
    return _parse_int(raw, "interval_ms", INTERVAL_MS_RANGE, default=DEFAULT_INTERVAL_MS)


def _parse_port(raw: Mapping[str, object], protocol: ProbeProtocol) -> int:
    default = DEFAULT_PORTS.get(protocol.value)
    if default is None and "port" not in raw:
        raise SettingsError("port", "is required for tcp")
    return _parse_int(raw, "port", PORT_RANGE, default=default or 0)


def _parse_path(value: object, protocol: ProbeProtocol) -> str:
    if protocol is ProbeProtocol.TCP:
        if value is not None:
            raise SettingsError("path", "is not allowed for tcp")
        return ""
    if not isinstance(value, str) or not value:
        raise SettingsError("path", f"is required for {protocol}")
    # It becomes part of a request line, where a space or a line end would begin something else.
    if not all("!" <= char <= "~" for char in value):
        raise SettingsError("path", "must be printable ASCII without spaces; encode others as %XX")
    path = value if value.startswith("/") else "/" + value
    if len(path) > PATH_LENGTH_MAX:
        raise SettingsError("path", f"must be at most {PATH_LENGTH_MAX} characters")
    return path


def _parse_grace_period_s(raw: Mapping[str, object], *, rich: bool, decision_ms: int) -> float:
    low, _ = GRACE_PERIOD_S_RANGE
    if "grace_period_s" in raw:
        return float(_parse_int(raw, "grace_period_s", GRACE_PERIOD_S_RANGE, default=low))
    return max(float(low), decision_ms / 1000) if rich else 0.0


def _listed(keys: frozenset[str]) -> str:
    return ", ".join(sorted(keys))


# --- One answer -------------------------------------------------------------------------------


def judge(
    settings: ProbeSettings,
    *,
    answered: bool,
    status: int = 0,
    body: bytes = b"",
    detail: str = "",
) -> Observation:
    """What one answer means.

    Args:
        answered: a connection was made and, for http(s), a whole answer came in time.  Redirects
            are never followed: they are answers like any other and neither 200 nor 2xx.
        status: HTTP status; not looked at for tcp.
        detail: the transport's own words, kept where nothing better is known.
    """
    detail = detail[:DETAIL_LENGTH_MAX]
    if settings.protocol is ProbeProtocol.TCP:
        return Observation(
            HealthState.HEALTHY if answered else HealthState.UNHEALTHY,
            detail or ("connected" if answered else "no connection"),
        )
    if not settings.rich:
        healthy = answered and status == 200
        words = detail or (str(status) if answered else "no answer")
        return Observation(HealthState.HEALTHY if healthy else HealthState.UNHEALTHY, words)
    if not answered:
        return Observation(HealthState.UNKNOWN, detail or "no answer")
    if not 200 <= status <= 299:
        return Observation(HealthState.UNKNOWN, detail or f"status {status}, want 2xx")
    return _judge_document(body)


def _judge_document(body: bytes) -> Observation:
    """Reads the rich health document; keys in any case, values exactly as they are published."""
    try:
        # RecursionError: a document that is only brackets is bad JSON, not our failure.
        document = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return Observation(HealthState.UNKNOWN, "the answer is not JSON")
    if not isinstance(document, dict):
        return Observation(HealthState.UNKNOWN, "the answer is not a JSON object")
    fields = _lower_keys(document)
    said = fields.get("applicationhealthstate")
    if said == "Healthy":
        state = HealthState.HEALTHY
    elif said == "Unhealthy":
        state = HealthState.UNHEALTHY
    else:
        shown = "missing" if said is None else f"{said!r}"[:60]
        return Observation(
            HealthState.UNKNOWN,
            f"ApplicationHealthState is {shown}; it must be Healthy or Unhealthy",
        )
    metrics = NO_METRICS
    if "custommetrics" in fields:
        metrics = parse_custom_metrics(fields["custommetrics"])
    return Observation(state, f"the application says {said}", metrics)


def parse_custom_metrics(value: object) -> CustomMetrics:
    """Reads `CustomMetrics`: JSON in a string, a non-empty object, keys in any case.

    Only `rollingUpgrade` is used; other keys are the application's own.  Whatever is wrong is in
    `error`, and then neither phase nor skip is believed.  Source: sheet §6.3, §6.4.
    """
    if not isinstance(value, str):
        return CustomMetrics(error="CustomMetrics must be a string that holds JSON")
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        return CustomMetrics(error="CustomMetrics is not JSON")
    if not isinstance(document, dict) or not document:
        return CustomMetrics(error="CustomMetrics must hold a non-empty JSON object")
    rolling = _lower_keys(document).get("rollingupgrade", {})
    if not isinstance(rolling, dict):
        return CustomMetrics(error="rollingUpgrade must be an object")
    fields = _lower_keys(rolling)
    phase = fields.get("phaseorderingnumber")
    if phase is not None and (isinstance(phase, bool) or not isinstance(phase, int) or phase < 0):
        return CustomMetrics(error="PhaseOrderingNumber must be a whole number from 0")
    skip = fields.get("skipupgrade", False)
    if isinstance(skip, str):  # The published samples send "false".
        skip = {"true": True, "false": False}.get(skip.lower(), skip)
    if not isinstance(skip, bool):
        return CustomMetrics(error="SkipUpgrade must be true or false")
    return CustomMetrics(phase=phase, skip=skip)


def _lower_keys(document: dict[str, Any]) -> dict[str, Any]:
    return {key.lower(): value for key, value in document.items()}


# --- Many answers -----------------------------------------------------------------------------


def start(settings: ProbeSettings, *, now: float) -> Health:
    """A health source that has just been started or whose settings have changed."""
    return Health(HealthState.INITIALIZING, now, now + settings.grace_period_s, detail="starting")


def expire(settings: ProbeSettings, health: Health, *, now: float) -> Health:
    """Ends the grace period when its time has come, without waiting for the next probe.

    A source without a grace period waits for its first observation, however late.
    """
    if settings.grace_period_s == 0 or health.grace_ends_at is None or now < health.grace_ends_at:
        return health
    detail = f"not healthy within {settings.grace_period_s:g} s: {health.detail}"
    return _committed(
        health,
        settings.state_after_grace,
        now=now,
        detail=detail[:DETAIL_LENGTH_MAX],
        metrics=health.metrics,
    )


def observe(
    settings: ProbeSettings, health: Health, observation: Observation, *, now: float
) -> Health:
    """The state after one more probe.

    The grace period's end comes first: an observation at that very moment is the first of the
    new count.  The count restarts at 1 on each different observation, at 0 after a commit.

    Worked example, 3 probes, state Healthy: U U H U U U -> Unhealthy at the last, not before.
    """
    assert observation.state is not HealthState.INITIALIZING, "a probe never says Initializing"
    health = expire(settings, health, now=now)
    seen = observation.state
    count = health.count + 1 if seen is health.candidate else 1
    if health.state is not HealthState.INITIALIZING:
        commits = count >= settings.number_of_probes
    elif settings.grace_period_s == 0:
        commits = True
    else:
        # What the end of the grace period would say does not end it early: an application that
        # starts slowly refuses connections first.  The count may stand at its limit meanwhile.
        commits = count >= settings.number_of_probes and seen is not settings.state_after_grace
    detail = observation.detail[:DETAIL_LENGTH_MAX]
    if commits:
        return _committed(health, seen, now=now, detail=detail, metrics=observation.metrics)
    return Health(
        health.state,
        health.since,
        health.grace_ends_at,
        candidate=seen,
        count=min(count, settings.number_of_probes),
        detail=detail,
        metrics=observation.metrics,
    )


def _committed(
    health: Health, state: HealthState, *, now: float, detail: str, metrics: CustomMetrics
) -> Health:
    """Enters `state`, or stays in it; either way Initializing is over and the count is spent."""
    since = health.since if state is health.state else now
    return Health(state, since, grace_ends_at=None, detail=detail, metrics=metrics)
