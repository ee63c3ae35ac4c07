"""An alarm of a group: a query about its service that must stay quiet while a rollout goes over it.

It fires, it is quiet, or nobody knows, since who is asked does not answer.  What that means for a
rollout is in alarm_gate.py; who asks is `engine/alarms.py`.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum


class AlarmState(StrEnum):
    UNKNOWN = "unknown"
    QUIET = "quiet"
    FIRING = "firing"


class AlarmAction(StrEnum):
    """What an alarm does that begins to fire while a rollout goes over its group."""

    HOLD = "hold"  # No batch begins until it is quiet.
    HALT = "halt"  # The rollout has failed, and its version is to blame.


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """Attributes:
    since: when it entered its state.
    fired_at: when it last began to fire; not knowing in between is no new beginning.
    quiet_at: when it was last found quiet again.
    detail: what was answered, in words.
    """

    name: str
    action: AlarmAction
    since: datetime
    state: AlarmState = AlarmState.UNKNOWN
    fired_at: datetime | None = None
    quiet_at: datetime | None = None
    detail: str = ""


def told(alarm: Alarm, state: AlarmState, detail: str, *, now: datetime) -> Alarm:
    """The alarm after an answer, or after none (`UNKNOWN`)."""
    if state is alarm.state:
        return alarm
    alarm = replace(alarm, state=state, since=now, detail=detail)
    if state is AlarmState.QUIET:
        return replace(alarm, quiet_at=now)
    fired_at, quiet_at = alarm.fired_at, alarm.quiet_at
    goes_on = fired_at is not None and (quiet_at is None or quiet_at < fired_at)
    if state is AlarmState.FIRING and not goes_on:
        return replace(alarm, fired_at=now)
    return alarm
