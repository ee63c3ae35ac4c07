"""The body of a check-in, and which parts of it are worth sending at once.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from . import VERSION
from .first_boot import FirstBoot
from .health import NO_METRICS, CustomMetrics, Health
from .wire import Done, clip

NO_PROBE_STATE = "none"  # The machine has no health source.


@dataclass(frozen=True)
class HealthReport:
    """Health as it is sent.

    Attributes:
        since: RFC 3339, made once when the state was entered: the same state must be the same
            text in every report, or each of them would look like a change.
    """

    state: str
    since: str
    detail: str = ""
    metrics: CustomMetrics = NO_METRICS

    def to_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "since": self.since,
            "detail": clip(self.detail),
            "phase": self.metrics.phase,
            "skip": self.metrics.skip,
        }


@dataclass(frozen=True)
class Facts:
    """What was read of the machine just now."""

    uuid: str
    boot_id: str
    image: Mapping[str, str]
    os: str
    busy: str | None
    reboot_required: str


def health_report(health: Health | None, *, since: str) -> HealthReport:
    if health is None:
        return HealthReport(NO_PROBE_STATE, since)
    detail = health.detail
    if health.metrics.error:
        detail = f"{detail}; {health.metrics.error}"
    return HealthReport(health.state.value, since, detail, health.metrics)


def check_in_body(
    *, nonce: str, facts: Facts, health: HealthReport, first_boot: FirstBoot, done: Sequence[Done]
) -> dict[str, Any]:
    return {
        "nonce": nonce,
        "uuid": facts.uuid,
        "boot_id": facts.boot_id,
        "agent": VERSION,
        "image": dict(facts.image),
        "os": facts.os,
        "health": health.to_json(),
        "busy": facts.busy,
        "reboot_required": facts.reboot_required,
        "first_boot": first_boot.to_json(),
        "done": [each.to_json() for each in done],
    }


def urgent_part(body: Mapping[str, Any]) -> tuple[object, ...]:
    """What must not wait for the next heartbeat; a check-in is due when this differs.

    Not in it: texts for people, which may differ with every probe ("200 OK", "timed out").
    """
    health, first_boot = body["health"], body["first_boot"]
    return (
        health["state"],
        health["phase"],
        health["skip"],
        body["boot_id"],
        first_boot["state"],
        body["image"].get("version"),
        body["busy"],
        body["reboot_required"],
        tuple((each["key"], each["fence"]) for each in body["done"]),
    )


def utc_text(timestamp: float) -> str:
    """RFC 3339 to the second, as the protocol writes moments."""
    moment = datetime.fromtimestamp(timestamp, tz=timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
