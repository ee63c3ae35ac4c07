"""The page's words for what the core keeps as closed enums, and how moments are written."""

from datetime import datetime

from upkeep.core.hold import HoldReason
from upkeep.core.model import Health, RolloutCode, RolloutState, Verb
from upkeep.core.task import TaskState
from upkeep.store.overview import MachineRow, RolloutRow

REASONS = {
    HoldReason.AUTO_UPGRADE_OFF: "automatic upgrade is off",
    HoldReason.VERSION_BAD: "the version is to blame",
    HoldReason.MODEL_BY_HAND: "the model has changed; a person rolls it",
    HoldReason.MODEL_BAD: "the model is to blame",
    HoldReason.ROLLOUT_CANCELLED: "its rollout was cancelled",
    HoldReason.RETRY_LATER: "tried again later",
    HoldReason.RETRIES_SPENT: "all attempts are spent",
    HoldReason.PAUSED: "paused",
    HoldReason.CLOCK_STEPPED: "the clock stepped",
    HoldReason.DOMAIN_LOST: "a domain is lost",
    HoldReason.BLACKOUT: "blackout",
    HoldReason.OUTSIDE_WINDOW: "outside its window",
    HoldReason.WINDOW_TOO_SHORT: "the window is too short",
    HoldReason.PAUSE_BETWEEN_BATCHES: "pause between batches",
    HoldReason.BATCH_OPEN: "the batch before it is open",
    HoldReason.HALTED: "the rollout is halted",
    HoldReason.CANCELLING: "the rollout is being cancelled",
    HoldReason.PROTECTED: "protected",
    HoldReason.OPTED_OUT: "opted out",
    HoldReason.SKIP_REQUESTED: "its application asks to be skipped",
    HoldReason.UNREACHABLE: "nobody reaches it",
    HoldReason.INITIALIZING: "it is still starting",
    HoldReason.NEEDS_APPROVAL: "an approval is missing",
    HoldReason.HOOK: "a lifecycle hook waits for an answer",
    HoldReason.CANARY: "the canary is not promoted",
    HoldReason.CHECKPOINT: "the rollout rests at a checkpoint",
    HoldReason.FLOOR: "it goes through another version first",
    HoldReason.ALARM: "an alarm fires, or cannot be asked",
    HoldReason.RAMP: "the ramp is not so far yet",
    HoldReason.OTHER_WORK: "other work has it in hand",
    HoldReason.BUDGET_SPENT: "the budget is spent",
    HoldReason.BUDGET_RESERVED: "the budget's place is reserved",
    HoldReason.RATE_SPENT: "the budget's rate is spent",
    HoldReason.FAILED_HERE: "it failed on this machine",
    HoldReason.MACHINE_STOPPED: "the machine is stopped",
    HoldReason.NOT_IN_ROLLOUT: "not in the running rollout",
    HoldReason.NOTICE: "its notice is running",
    HoldReason.REPAIR_GRACE: "unhealthy, not repaired yet",
    HoldReason.REPAIRS_BUSY: "others are repaired first",
    HoldReason.REPAIRS_SUSPENDED: "repairs are suspended",
}

CODES = {
    RolloutCode.NONE: "",
    RolloutCode.UNHEALTHY_BEFORE: "too many machines were unhealthy before it began",
    RolloutCode.UNHEALTHY_DURING: "too many machines fell ill between its batches",
    RolloutCode.UNHEALTHY_UPGRADED: "too many upgraded machines failed",
    RolloutCode.FAILED_MACHINES: "some machines failed by themselves",
    RolloutCode.PLATFORM_FAILED: "the platform failed",
    RolloutCode.IMAGE_UNUSABLE: "the image cannot be used",
    RolloutCode.IMAGE_EXCLUDED: "the version was excluded",
    RolloutCode.OPERATOR_CANCELLED: "a person cancelled it",
    RolloutCode.SUPERSEDED: "a newer version or model took over",
    RolloutCode.ALARM: "an alarm fired",
    RolloutCode.REJECTED: "machines were left out at its lifecycle hook",
}

DOING = {
    Verb.CREATE: "being made",
    Verb.START: "being started",
    Verb.STOP: "being stopped",
    Verb.RESTART: "being restarted",
    Verb.REPLACE_OS_DISK: "being upgraded",
    Verb.REIMAGE: "being given a fresh OS disk",
    Verb.SWITCH_BACK: "being put back",
    Verb.DELETE: "being deleted",
    Verb.DRAIN: "being drained",
}

WORK = {
    Verb.CREATE: "making machines",
    Verb.START: "starting machines",
    Verb.STOP: "stopping machines",
    Verb.RESTART: "restarting machines",
    Verb.REPLACE_OS_DISK: "upgrade",
    Verb.REIMAGE: "giving machines fresh OS disks",
    Verb.SWITCH_BACK: "putting machines back",
    Verb.DELETE: "deleting machines",
    Verb.DRAIN: "draining machines",
}

TASKS = {
    TaskState.HELD: "waiting",
    TaskState.ANNOUNCED: "announced",
    TaskState.DRAINING: "draining",
    TaskState.RUNNING: "running",
    TaskState.VERIFYING: "being checked",
    TaskState.BAKING: "watched",
    TaskState.DONE: "done",
    TaskState.FAILED: "failed",
    TaskState.ROLLING_BACK: "going back",
    TaskState.ROLLED_BACK: "went back",
    TaskState.SKIPPED: "left out",
    TaskState.CANCELLED: "never begun",
}

HEALTH = {
    Health.INITIALIZING: "starting",
    Health.HEALTHY: "healthy",
    Health.UNHEALTHY: "unhealthy",
    Health.UNKNOWN: "not reached",
}


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 machine`, `5,000 machines`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def moment(at: datetime, *, today: datetime) -> str:
    """`12:03:10` today, `23 Nov 12:03` on another day; UTC."""
    if at.date() == today.date():
        return f"{at:%H:%M:%S}"
    if at.year == today.year:
        return f"{at.day} {at:%b %H:%M}"
    return f"{at:%Y-%m-%d %H:%M}"


def cause(machine: MachineRow, *, today: datetime) -> str:
    """Why a machine is down, as it stands after its name: `being upgraded (batch 2)`."""
    since = moment(machine.health_since, today=today)
    rolls = machine.verb in (Verb.REPLACE_OS_DISK, Verb.REIMAGE) and machine.target
    batch = f" (batch {machine.batch})" if rolls else ""
    if machine.task is TaskState.ROLLING_BACK:
        model = "model " if machine.verb is Verb.REIMAGE else ""
        return f"going back to {model}{machine.previous}{batch}"
    if machine.task is TaskState.DRAINING:
        return f"being drained{batch}"
    if machine.task is not None and machine.task is not TaskState.BAKING:
        assert machine.verb is not None
        return DOING[machine.verb] + batch
    seen = f"{HEALTH[machine.health]} since {since}"
    if machine.task is TaskState.BAKING:
        seen += f", after its upgrade{batch}"
    return seen + (f" ({machine.health_detail})" if machine.health_detail else "")


def target(rollout: RolloutRow) -> str:
    """What a rollout brings, as it stands after `to` or `of`: `1.0.2`, `model 3f2a09c1d4e5`."""
    is_of_model = rollout.verb is Verb.REIMAGE and rollout.target
    return f"model {rollout.target}" if is_of_model else rollout.target


def work(verb: Verb, brought: str) -> str:
    """What a rollout does: `upgrade to 1.0.2`, `bringing model 3f2a09c1d4e5`."""
    if not brought:
        return WORK[verb]
    return f"bringing model {brought}" if verb is Verb.REIMAGE else f"{WORK[verb]} to {brought}"


def verdict(rollout: RolloutRow) -> str:
    """What is to blame for a halt, or how else a rollout ended."""
    brought = target(rollout) if rollout.verb is Verb.REIMAGE else f"version {rollout.target}"
    if rollout.guilty:
        return f"{brought} is to blame"
    if rollout.state is RolloutState.FAULTED:
        return f"{CODES[rollout.code] or 'it stopped'}; {brought} is not blamed"
    return CODES[rollout.code]
