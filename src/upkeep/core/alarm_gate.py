"""What the alarms of a group mean for its OS image rollouts.

- A rollout that begins by itself begins no batch while an alarm fires, or nobody knows whether it
  does: nobody would see what the version does.
  What was announced and has not begun is withdrawn; a machine that has been drained goes on.
- An alarm that began to fire after work on the first machine had begun speaks against the version.
  With `HOLD` no further batch begins until it is quiet; with `HALT` the rollout has failed: its
  version is guilty, and every machine on it goes back, as the policy says.
- Whoever starts a rollout by hand knows what fires already, and may be bringing the cure: only what
  begins to fire afterwards counts.

Source: sheet os-image §12 (AWS instance refresh: alarms that fail the run, with rollback);
docs/adr/0020.
"""

from upkeep.core.alarm import Alarm, AlarmAction, AlarmState
from upkeep.core.draft import Draft
from upkeep.core.hold import HoldReason
from upkeep.core.model import Rollout, StartedBy, System
from upkeep.core.refusals import Refusal


def refusal_by_alarm(draft: Draft, rollout: Rollout) -> Refusal | None:
    """Why no batch begins now."""
    if rollout.system is not System.OS_IMAGE:
        return None
    for alarm in draft.snapshot.alarms:
        if alarm.state is AlarmState.QUIET:
            continue
        if rollout.started_by is StartedBy.USER and not _fires_since_it_began(alarm, rollout):
            continue
        if alarm.state is AlarmState.FIRING:
            text = f"alarm {alarm.name} is quiet; it fires since {_written(alarm)}"
        else:
            text = f"alarm {alarm.name} can be asked; unanswered since {_written(alarm)}"
        return HoldReason.ALARM, None, text
    return None


def alarm_against(draft: Draft, rollout: Rollout) -> Alarm | None:
    """The alarm that has failed the rollout, also if it is quiet again."""
    if rollout.system is not System.OS_IMAGE:
        return None
    for alarm in draft.snapshot.alarms:
        if alarm.action is AlarmAction.HALT and _began_since(alarm, rollout):
            return alarm
    return None


def _fires_since_it_began(alarm: Alarm, rollout: Rollout) -> bool:
    return alarm.state is AlarmState.FIRING and _began_since(alarm, rollout)


def _began_since(alarm: Alarm, rollout: Rollout) -> bool:
    if alarm.fired_at is None or rollout.begun_at is None:
        return False
    return alarm.fired_at >= rollout.begun_at


def _written(alarm: Alarm) -> str:
    moment = f"{alarm.since:%Y-%m-%d %H:%M:%SZ}"
    return f"{moment} ({alarm.detail})" if alarm.detail else moment
