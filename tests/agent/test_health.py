"""The sheet of OS image upgrades, §6, row by row."""

import json

import pytest

from upkeep.agent.health import (
    NO_METRICS,
    CustomMetrics,
    Health,
    HealthState,
    Observation,
    ProbeProtocol,
    ProbeSettings,
    SettingsError,
    expire,
    judge,
    observe,
    outside_timeout_s,
    parse_custom_metrics,
    parse_settings,
    settings_to_json,
    start,
)

H, U, X = HealthState.HEALTHY, HealthState.UNHEALTHY, HealthState.UNKNOWN
I = HealthState.INITIALIZING  # noqa: E741  One letter per state makes the tables readable.
HTTP = {"protocol": "http", "path": "/health"}
TCP = {"protocol": "tcp", "port": 22}


@pytest.mark.number("os-image", "health settings")
@pytest.mark.number("os-image", "grace period")
@pytest.mark.number("os-image", "outside probe")
def test_defaults_are_those_of_the_sheet() -> None:
    assert parse_settings(HTTP) == ProbeSettings(
        ProbeProtocol.HTTP, 80, "/health", interval_ms=5000, number_of_probes=1
    )
    assert parse_settings({**HTTP, "protocol": "https"}).port == 443
    assert parse_settings(HTTP).grace_period_s == 0
    assert parse_settings({**HTTP, "rich": True}).grace_period_s == 5
    rich = parse_settings({**HTTP, "rich": True, "interval_s": 10, "number_of_probes": 24})
    assert rich.grace_period_s == 240
    assert parse_settings({**HTTP, "rich": True, "interval_ms": 100}).grace_period_s == 5


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"interval_s": 4}, "interval_s"),
        ({"interval_s": 61}, "interval_s"),
        ({"interval_s": 5.0}, "interval_s"),
        ({"interval_s": True}, "interval_s"),
        ({"interval_s": "5"}, "interval_s"),
        ({"interval_ms": 99}, "interval_ms"),
        ({"interval_ms": 60_001}, "interval_ms"),
        ({"interval_ms": 500, "interval_s": 5}, "interval_ms"),
        ({"number_of_probes": 0}, "number_of_probes"),
        ({"number_of_probes": 25}, "number_of_probes"),
        ({"interval_s": 60, "number_of_probes": 5}, "number_of_probes"),
        ({"interval_s": 11, "number_of_probes": 22}, "number_of_probes"),
        ({"grace_period_s": 4}, "grace_period_s"),
        ({"grace_period_s": 14_401}, "grace_period_s"),
        ({"port": 0}, "port"),
        ({"port": 65_536}, "port"),
        ({"protocol": "udp"}, "protocol"),
        ({"protocol": None}, "protocol"),
        ({"path": None}, "path"),
        ({"path": ""}, "path"),
        ({"path": "/a b"}, "path"),
        ({"path": "/a\r\nHost: x"}, "path"),
        ({"path": "/ü"}, "path"),
        ({"path": "/" + "a" * 2048}, "path"),
        ({"rich": "yes"}, "rich"),
        ({"intervalInSeconds": 5}, "intervalInSeconds"),
    ],
)
@pytest.mark.number("os-image", "health settings")
@pytest.mark.number("os-image", "grace period")
def test_a_setting_outside_its_rule_is_refused_by_name(
    change: dict[str, object], field: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings({**HTTP, **change})
    assert caught.value.field == field
    assert caught.value.detail


def test_tcp_needs_a_port_and_takes_no_path() -> None:
    assert parse_settings(TCP).path == ""
    with pytest.raises(SettingsError, match=r"port: is required for tcp"):
        parse_settings({"protocol": "tcp"})
    with pytest.raises(SettingsError, match=r"path: is not allowed for tcp"):
        parse_settings({**TCP, "path": "/"})


@pytest.mark.parametrize(
    "change",
    [
        {"interval_s": 5},
        {"interval_s": 60, "number_of_probes": 4},
        {"interval_s": 10, "number_of_probes": 24},
        {"interval_ms": 100},
        {"interval_ms": 60_000},
        {"interval_ms": 2500, "number_of_probes": 3, "rich": True},
        {"grace_period_s": 5},
        {"grace_period_s": 14_400, "rich": True},
        {"port": 1},
        {"port": 65_535},
        {"path": "without-a-slash"},
    ],
)
@pytest.mark.number("os-image", "health settings")
@pytest.mark.number("os-image", "grace period")
def test_the_limits_themselves_are_allowed_and_survive_the_wire(change: dict[str, object]) -> None:
    settings = parse_settings({**HTTP, **change})
    assert parse_settings(json.loads(json.dumps(settings_to_json(settings)))) == settings
    assert settings.path.startswith("/")


@pytest.mark.number("os-image", "outside probe")
def test_a_probe_from_outside_waits_its_interval_and_at_most_30_seconds() -> None:
    assert outside_timeout_s(parse_settings({**HTTP, "interval_s": 5})) == 5
    assert outside_timeout_s(parse_settings({**HTTP, "interval_s": 60})) == 30


@pytest.mark.parametrize(
    ("raw", "answered", "status", "body", "state"),
    [
        # Binary: exactly 200, or a connection.
        (HTTP, True, 200, b"", H),
        (HTTP, True, 204, b"", U),
        (HTTP, True, 301, b"", U),
        (HTTP, True, 503, b"", U),
        (HTTP, False, 0, b"", U),
        (TCP, True, 0, b"", H),
        (TCP, False, 0, b"", U),
        # Rich over tcp has no Unknown.
        ({**TCP, "rich": True}, True, 0, b"", H),
        ({**TCP, "rich": True}, False, 0, b"", U),
        # Rich over http: any 2xx, and the document decides.
        ({**HTTP, "rich": True}, True, 200, b'{"ApplicationHealthState":"Healthy"}', H),
        ({**HTTP, "rich": True}, True, 299, b'{"applicationHealthState":"Unhealthy"}', U),
        ({**HTTP, "rich": True}, True, 200, b'\xef\xbb\xbf{"ApplicationHealthState":"Healthy"}', H),
        ({**HTTP, "rich": True}, True, 200, b'{"ApplicationHealthState":"healthy"}', X),
        ({**HTTP, "rich": True}, True, 200, b'{"ApplicationHealthState":"Unknown"}', X),
        ({**HTTP, "rich": True}, True, 200, b'{"ApplicationHealthState":"Initializing"}', X),
        ({**HTTP, "rich": True}, True, 200, b'{"ApplicationHealthState":1}', X),
        ({**HTTP, "rich": True}, True, 200, b"{}", X),
        ({**HTTP, "rich": True}, True, 200, b"", X),
        ({**HTTP, "rich": True}, True, 200, b"[]", X),
        ({**HTTP, "rich": True}, True, 200, b"\xff\xfe", X),
        ({**HTTP, "rich": True}, True, 200, b"[" * 8000, X),
        ({**HTTP, "rich": True}, True, 302, b'{"ApplicationHealthState":"Healthy"}', X),
        ({**HTTP, "rich": True}, True, 503, b'{"ApplicationHealthState":"Unhealthy"}', X),
        ({**HTTP, "rich": True}, False, 0, b"", X),
    ],
)
def test_what_one_answer_means(
    raw: dict[str, object], answered: bool, status: int, body: bytes, state: HealthState
) -> None:
    observation = judge(parse_settings(raw), answered=answered, status=status, body=body)
    assert observation.state is state
    assert observation.detail
    assert observation.metrics == NO_METRICS


@pytest.mark.parametrize(
    ("value", "metrics"),
    [
        (
            '{"rollingUpgrade":{"PhaseOrderingNumber":3,"SkipUpgrade":true}}',
            CustomMetrics(phase=3, skip=True),
        ),
        (
            '{"RollingUpgrade":{"phaseorderingnumber":0,"skipUpgrade":"false"}}',
            CustomMetrics(phase=0),
        ),
        ('{"rollingUpgrade":{"SkipUpgrade":"True"}}', CustomMetrics(skip=True)),
        ('{"mine":1}', NO_METRICS),
    ],
)
def test_custom_metrics_that_are_understood(value: str, metrics: CustomMetrics) -> None:
    assert parse_custom_metrics(value) == metrics


@pytest.mark.parametrize(
    "value",
    [
        {"rollingUpgrade": {"PhaseOrderingNumber": 1}},  # An object where a string must be.
        "",
        "{}",
        "[]",
        "not json",
        '{"rollingUpgrade":1}',
        '{"rollingUpgrade":{"PhaseOrderingNumber":-1,"SkipUpgrade":true}}',
        '{"rollingUpgrade":{"PhaseOrderingNumber":true}}',
        '{"rollingUpgrade":{"PhaseOrderingNumber":1.5}}',
        '{"rollingUpgrade":{"PhaseOrderingNumber":"1"}}',
        '{"rollingUpgrade":{"PhaseOrderingNumber":1,"SkipUpgrade":"maybe"}}',
        '{"rollingUpgrade":{"SkipUpgrade":0}}',
        None,
    ],
)
def test_bad_custom_metrics_are_said_and_do_not_touch_health(value: object) -> None:
    body = json.dumps({"ApplicationHealthState": "Healthy", "CustomMetrics": value}).encode()
    observation = judge(
        parse_settings({**HTTP, "rich": True}), answered=True, status=200, body=body
    )
    assert observation.state is H
    assert observation.metrics.error
    assert (observation.metrics.phase, observation.metrics.skip) == (None, False)


def test_binary_and_tcp_read_no_metrics() -> None:
    body = b'{"ApplicationHealthState":"Healthy","CustomMetrics":"{\\"a\\":1}"}'
    for raw in (HTTP, {**TCP, "rich": True}):
        settings = parse_settings(raw)
        assert judge(settings, answered=True, status=200, body=body).metrics == NO_METRICS


def run(raw: dict[str, object], states: list[HealthState], *, every_s: float) -> list[HealthState]:
    """The state after each observation, the first one at time 0."""
    settings = parse_settings(raw)
    health = start(settings, now=0.0)
    seen = []
    for index, state in enumerate(states):
        health = observe(settings, health, Observation(state), now=index * every_s)
        seen.append(health.state)
    return seen


RICH3 = {**HTTP, "rich": True, "number_of_probes": 3, "grace_period_s": 60}
TCP3 = {**TCP, "rich": True, "number_of_probes": 3, "grace_period_s": 60}


@pytest.mark.parametrize(
    ("raw", "observed", "states"),
    [
        # One probe: the first valid one ends Initializing at once.
        ({**RICH3, "number_of_probes": 1}, [H], [H]),
        ({**RICH3, "number_of_probes": 1}, [U], [U]),
        ({**RICH3, "number_of_probes": 1}, [X, H, X], [I, H, X]),
        ({**TCP3, "number_of_probes": 1}, [U, U, H, U], [I, I, H, U]),
        # Three probes, http: Healthy or Unhealthy three times in a row, never Unknown.
        (RICH3, [H, H, H], [I, I, H]),
        (RICH3, [U, U, U], [I, I, U]),
        (RICH3, [H, H, X, H, H, H], [I, I, I, I, I, H]),
        (RICH3, [X, X, X, X, H, H, H], [I, I, I, I, I, I, H]),
        # Three probes, tcp: only Healthy.
        (TCP3, [U, U, U, U, H, H, H], [I, I, I, I, I, I, H]),
        # After that the count restarts at each different observation...
        (RICH3, [H, H, H, U, U, H, U, U, U], [I, I, H, H, H, H, H, H, U]),
        # ...a third state in between as well...
        (RICH3, [H, H, H, U, U, X, U, U, X, X, X], [I, I, H, H, H, H, H, H, H, H, X]),
        # ...and at 0 after a commit: three more are needed to come back.
        (RICH3, [U, U, U, H, H, H, X, X, X], [I, I, U, U, U, H, H, H, X]),
        # Grace over at 60 s, the 13th probe: Unknown for http, Unhealthy for tcp, at once, and
        # that observation is the first of the new count.
        (RICH3, [X] * 12 + [H, H, H], [I] * 12 + [X, X, H]),
        (RICH3, [H, U] * 6 + [H, H, H], [I] * 12 + [X, X, H]),
        (TCP3, [U] * 12 + [U, H, H, H], [I] * 12 + [U, U, U, H]),
        # Without a grace period (binary) the first observation decides, later ones are counted.
        ({**HTTP, "number_of_probes": 3}, [U, H, H, H], [U, U, U, H]),
        ({**HTTP, "number_of_probes": 3}, [H, U, U, H, U, U, U], [H, H, H, H, H, H, U]),
        # Binary with a grace period waits for Healthy in it.
        ({**HTTP, "grace_period_s": 60}, [U] * 12 + [U], [I] * 12 + [U]),
        ({**HTTP, "grace_period_s": 60}, [U, U, H, U], [I, I, H, U]),
    ],
)
def test_the_state_after_each_of_many_probes(
    raw: dict[str, object], observed: list[HealthState], states: list[HealthState]
) -> None:
    assert run(raw, observed, every_s=5.0) == states


def test_grace_ends_at_once_and_only_once_without_a_probe() -> None:
    settings = parse_settings(RICH3)
    health = start(settings, now=100.0)
    assert expire(settings, health, now=159.9) is health
    over = expire(settings, health, now=160.0)
    assert (over.state, over.since, over.grace_ends_at) == (X, 160.0, None)
    assert "not healthy within 60 s" in over.detail
    assert expire(settings, over, now=1000.0) is over


def test_a_source_without_grace_waits_for_its_first_probe() -> None:
    settings = parse_settings(HTTP)
    health = start(settings, now=0.0)
    assert expire(settings, health, now=1e9).state is I


def test_since_is_when_the_state_was_entered_not_when_it_was_last_confirmed() -> None:
    settings = parse_settings({**RICH3, "number_of_probes": 1})
    health = start(settings, now=0.0)
    for now, state in [(1.0, H), (2.0, H), (3.0, U), (4.0, U)]:
        health = observe(settings, health, Observation(state), now=now)
    assert (health.state, health.since) == (U, 3.0)


def test_metrics_and_detail_are_those_of_the_last_probe() -> None:
    settings = parse_settings(RICH3)
    health: Health = start(settings, now=0.0)
    skip = Observation(H, "first", CustomMetrics(phase=1, skip=True))
    health = observe(settings, health, skip, now=0.0)
    assert health.metrics == CustomMetrics(phase=1, skip=True)
    health = observe(settings, health, Observation(X, "x" * 1000), now=5.0)
    assert health.metrics == NO_METRICS
    assert len(health.detail) == 256
