"""S1: replace the OS disk of every machine of a group by the newest image version.

Reads beside the sheet os-image §2.  This file *proposes*: it decides which version a group should
run, when a rollout begins, which machines are its candidates, and why none begins.  Batches and
gates are in rolling.py; whether a machine may be touched now is decided in refusals.py.

A rollout begins by itself when `latest` (version.py) is newer than what some machine runs.  A
machine with a floor version on its way gets that first, in a rollout of its own.  None begins when
- the group has opted out (`auto_upgrade` is off),
- the version was found guilty here, or a person cancelled its rollout, or an attempt at it stopped
  a while ago: see beginning.py.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta

from upkeep.core.beginning import (
    ONE_AT_A_TIME,
    begin_by_hand,
    begin_by_itself,
    may_begin_with,
    wanted_of,
    why_not_again,
    why_not_machine,
)
from upkeep.core.draft import Draft, subject_of
from upkeep.core.hold import Hold, HoldReason
from upkeep.core.lifecycle_hooks import LEFT_OUT, REJECTED
from upkeep.core.model import (
    Health,
    Lifecycle,
    Machine,
    MachineId,
    Priority,
    Rollout,
    RolloutCode,
    RolloutState,
    StartedBy,
    System,
    Task,
    Verb,
)
from upkeep.core.policy import platform_policy
from upkeep.core.recurrence import RecurrenceError, Schedule, parse_recurrence
from upkeep.core.refusals import UNREACHABLE, Refusal, otherwise
from upkeep.core.rolling import open_batch, still_on_target, stop_rollout
from upkeep.core.snapshot import OperatorCall
from upkeep.core.task import TERMINAL, TaskState
from upkeep.core.version import is_older, is_usable, latest, order_of

# Windows for OS image upgrades.  Source: sheet os-image §2.6 #1, §10; maintenance §1.1.
WINDOW_MIN = timedelta(hours=5)
WINDOW_GAP_MAX = timedelta(days=7)
# Near the ends of the calendar no window can be computed, and one from its beginning takes long.
START_YEARS = range(2000, 3000)


def propose(draft: Draft) -> None:
    """Begin, end or explain: after this each outdated machine is in a rollout or has a hold."""
    steps = next_steps(draft)
    running = draft.open_rollouts(System.OS_IMAGE)
    if running:
        _check_still_wanted(draft, running[0], steps)
        running = draft.open_rollouts(System.OS_IMAGE)
    if not running:
        _begin_or_explain(draft, steps)
    else:
        explain_outsiders(draft, running[0], steps, _why_not)


def version_for_new_machine(draft: Draft) -> str | None:
    """What a machine made now should run: the last version that baked here.

    Before the first rollout, or when that was found guilty since, it is `latest`; a version that is
    still being tried, or failed, is never used for new machines.  Source: DESIGN §5 (frozen and
    live).
    """
    blamed = {rollout.target for rollout in draft.ended_rollouts() if rollout.guilty}
    blamed |= {r.target for r in draft.open_rollouts(System.OS_IMAGE) if r.guilty}
    if draft.group.baked and draft.group.baked not in blamed:
        return draft.group.baked
    undecided = {rollout.target for rollout in draft.open_rollouts(System.OS_IMAGE)}
    return latest(v for v in draft.snapshot.versions if v.version not in undecided | blamed)


def schedule_errors(schedule: Schedule) -> list[str]:
    """Why a group's upgrades cannot happen in the windows of such a schedule, a sentence each.

    Source: sheet os-image §2.6 #1, §10.
    """
    errors = []
    if not WINDOW_MIN <= schedule.length <= WINDOW_GAP_MAX:
        hours = int(WINDOW_MIN.total_seconds()) // 3_600
        errors.append(f"the window is {schedule.length} long; set at least {hours} h, at most 7 d")
    if schedule.starts.year not in START_YEARS:
        errors.append(f"it starts in the year {schedule.starts.year}; set 2000 to 2999")
    if schedule.expires is not None and schedule.expires <= schedule.starts:
        errors.append("it expires before its first window; set a later end, or none")
    try:
        recurrence = parse_recurrence(schedule.recur_every) if schedule.recur_every else None
    except RecurrenceError as error:
        return [*errors, str(error)]
    if recurrence is not None and recurrence.longest_gap > WINDOW_GAP_MAX:
        errors.append(
            f"{schedule.recur_every!r} leaves more than 7 days between two windows; set Day to"
            " 7Days, or Week with its days"
        )
    return errors


def next_steps(draft: Draft) -> dict[str, list[Machine]]:
    """The version that each outdated machine should get next, the lowest first, with its machines
    in id order: the latest one, or the lowest floor on the way to it."""
    target = latest(draft.snapshot.versions)
    return {} if target is None else _steps_to(draft, target)


def _steps_to(draft: Draft, target: str) -> dict[str, list[Machine]]:
    step_from: dict[str, str] = {}
    steps: dict[str, list[Machine]] = {}
    for machine in sorted(draft.present(), key=lambda machine: machine.id):
        image = machine.image
        if not image or not is_older(image, target):
            continue
        if image not in step_from:
            step_from[image] = draft.floor_before(machine, target) or target
        steps.setdefault(step_from[image], []).append(machine)
    return dict(sorted(steps.items(), key=lambda step: order_of(step[0])))


def _check_still_wanted(draft: Draft, rollout: Rollout, steps: Mapping[str, list[Machine]]) -> None:
    """Between batches an excluded version stops, and what its machines should rather get next takes
    over: a newer version, a floor that was set meanwhile, another model."""
    if rollout.state is not RolloutState.RUNNING or open_batch(draft, rollout):
        return
    excluded = {v.version for v in draft.snapshot.versions if v.excluded}
    if rollout.target in excluded:
        text = f"version {rollout.target} was excluded"
        stop_rollout(draft, rollout, RolloutCode.IMAGE_EXCLUDED, text)
        return
    if rollout.is_of_model and rollout.target != draft.group.model:
        text = f"the group's model is {draft.group.model} now"
        stop_rollout(draft, rollout, RolloutCode.SUPERSEDED, text)
        return
    if rollout.started_by is not StartedBy.PLATFORM:
        return
    for version, machines in steps.items():
        waits = any(draft.is_held(rollout, m.id) and may_begin_with(m) for m in machines)
        if version != rollout.target and waits and _why_not(draft, version) is None:
            text = f"version {version} is newer than {rollout.target}"
            if rollout.is_of_model:
                text = f"version {version} goes first"
            elif is_older(version, rollout.target):
                text = f"its machines go through {version} first"
            stop_rollout(draft, rollout, RolloutCode.SUPERSEDED, text)
            return


def _begin_or_explain(draft: Draft, steps: Mapping[str, list[Machine]]) -> None:
    """Begin the lowest step that may begin, one at a time; explain the others."""
    for version, machines in steps.items():
        refusal = _why_not(draft, version)
        if refusal is not None:
            hold_all(draft, machines, refusal)
            continue
        if not draft.open_rollouts(System.OS_IMAGE):
            policy = draft.group.policy
            policy = policy if policy.governs_automatic else platform_policy(policy)
            begin_by_itself(draft, Verb.REPLACE_OS_DISK, version, machines, policy)
        explain(draft, machines)


def hold_all(draft: Draft, machines: list[Machine], refusal: Refusal) -> None:
    draft.wake_at(refusal[1])
    for machine in machines:
        draft.holds.append(_hold(machine, refusal))


def _why_not(draft: Draft, target: str) -> Refusal | None:
    """Why no rollout to the target begins by itself in this group."""
    if not draft.group.auto_upgrade:
        text = "automatic OS image upgrade is off: switch it on, or start a rollout by hand"
        return HoldReason.AUTO_UPGRADE_OFF, None, text
    if not any(v.version == target and is_usable(v) for v in draft.snapshot.versions):
        text = f"version {target}, through which it must go, is replicated to this region"
        return HoldReason.FLOOR, None, text
    return why_not_again(draft, target, HoldReason.VERSION_BAD)


def start_by_hand(draft: Draft, call: OperatorCall) -> str:
    """A person asks for a rollout now; answers an empty string, or why it was refused."""
    wanted: set[MachineId] = set(call.machines)
    target = call.target or _next_for(draft, wanted)
    if not target:
        return "there is no version to roll to: publish one, and see that it is replicated"
    entry = next((v for v in draft.snapshot.versions if v.version == target), None)
    if entry is None:
        return f"there is no version {target} of this image"
    if not is_usable(entry):
        why = "excluded" if entry.excluded else f"{entry.replication} in this region"
        return f"version {target} is {why}: choose another, or put that right first"
    if draft.open_rollouts(System.OS_IMAGE):
        return ONE_AT_A_TIME
    steps = _steps_to(draft, target)
    candidates = wanted_of(steps.get(target, []), wanted)
    if not candidates:
        first = next((v for v, those in steps.items() if wanted_of(those, wanted)), None)
        if first is not None:
            return f"these machines go through {first} first: start a rollout to that"
        return f"no unprotected machine is older than {target}"
    begin_by_hand(draft, Verb.REPLACE_OS_DISK, target, candidates, call)
    return ""


def needs_a_version(draft: Draft, call: OperatorCall) -> bool:
    """Whether a machine that a person means should get another version."""
    wanted = set(call.machines)
    return any(wanted_of(machines, wanted) for machines in next_steps(draft).values())


def _next_for(draft: Draft, wanted: set[MachineId]) -> str | None:
    """The lowest next step of machines that a person may mean, else the latest version."""
    for version, machines in next_steps(draft).items():
        if wanted_of(machines, wanted):
            return version
    return latest(draft.snapshot.versions)


def explain(draft: Draft, machines: list[Machine]) -> None:
    """A hold for each outdated machine that is in no open rollout."""
    inside = {
        task.machine
        for rollout in draft.open_rollouts(System.OS_IMAGE)
        for task in draft.tasks_of(rollout)
    }
    _explain_left_out(draft, [machine for machine in machines if machine.id not in inside])


def _explain_left_out(draft: Draft, machines: list[Machine]) -> None:
    for machine in machines:
        refusal = why_not_machine(machine)
        if refusal is not None:
            draft.holds.append(_hold(machine, refusal))
        elif machine.health is Health.UNKNOWN:
            draft.holds.append(_hold(machine, UNREACHABLE))
        else:
            text = "the running rollout ends; the next one takes this machine"
            draft.holds.append(_hold(machine, (HoldReason.NOT_IN_ROLLOUT, None, text)))


def explain_outsiders(
    draft: Draft,
    rollout: Rollout,
    steps: Mapping[str, list[Machine]],
    why_not: Callable[[Draft, str], Refusal | None],
) -> None:
    """Outdated machines that the open rollout does not hold open: left out, ended or new.

    Args:
        why_not: why no rollout of another step begins by itself.
    """
    left = []
    going_back: set[MachineId] = set()
    if rollout.state is RolloutState.ROLLING_BACK:
        going_back = {subject_of(task) for task in still_on_target(draft, rollout)}
    for version, machines in steps.items():
        elsewhere = None if version == rollout.target else why_not(draft, version)
        for machine in machines:
            if machine.id in going_back:
                continue  # The gate says why it has not gone yet.
            task = draft.tasks[rollout.id].get(machine.id)
            if task is not None and task.state not in TERMINAL:
                continue
            refusal = (task and _why_it_ended(rollout, task, machine)) or elsewhere
            if refusal is None:
                left.append(machine)
            else:
                hold_all(draft, [machine], refusal)
    _explain_left_out(draft, left)


def _why_it_ended(rollout: Rollout, task: Task, machine: Machine) -> Refusal | None:
    """Why an outdated machine's task is over; None: the next rollout takes the machine."""
    if rollout.on_disk_of(machine) == rollout.target:
        return None  # It is behind in the other, image or model.
    if task.state in (TaskState.FAILED, TaskState.ROLLED_BACK):
        text = f"its own failure is looked into, or the next rollout: {task.detail}"
        return HoldReason.FAILED_HERE, None, text
    if task.state is TaskState.CANCELLED and rollout.state is RolloutState.CANCELLING:
        return HoldReason.CANCELLING, None, f"restart the rollout, or {otherwise(rollout)}"
    if task.state is TaskState.CANCELLED and rollout.state is RolloutState.ROLLING_BACK:
        text = f"{otherwise(rollout)}, or restart the rollout"
        return HoldReason.HALTED, None, text
    if task.state is TaskState.SKIPPED and task.detail == REJECTED:
        return LEFT_OUT
    return None


def _hold(machine: Machine, refusal: Refusal) -> Hold:
    assert machine.lifecycle is Lifecycle.PRESENT
    reason, until, text = refusal
    return Hold(
        machine=machine.id,
        system=System.OS_IMAGE,
        reason=reason,
        until=until,
        lifted_by=text,
        priority=Priority.OTHER,
    )
