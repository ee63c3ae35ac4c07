"""The gate after a batch: has the rollout failed, and is its version to blame?

blame.py says what a single failure is worth; this file weighs those of a rollout against the
machines that are well on the target and against those that nobody touched: the control group, of
the same zones and on the same hosts.  Source: sheet os-image §2.4; docs/adr/0005, 0008, 0011.
"""

from dataclasses import dataclass
from datetime import datetime

from upkeep.core.blame import (
    ILL_AFTER,
    control_group_suffers,
    is_left_open,
    speaks_against_version,
)
from upkeep.core.draft import Draft, subject_of
from upkeep.core.model import Failure, Health, Machine, Rollout, RolloutCode, Task
from upkeep.core.task import TERMINAL, TaskState


def exceeds(count: int, percent: int, *, of: int) -> bool:
    """More than `percent` of `of`, strictly: 2 of 10 do not exceed 20 %, 3 do."""
    return 100 * count > percent * of


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Halt, why, and whether the version is to blame."""

    code: RolloutCode
    guilty: bool
    evidence: str


def judge_batch(draft: Draft, rollout: Rollout) -> Verdict | None:
    """The gate after a batch; None means go on.

    Work without a target is no version's fault and is not judged.
    """
    if not rollout.target:
        return None
    touched = [t for t in draft.tasks_of(rollout) if t.batch > 0 and t.state in TERMINAL]
    touched = [t for t in touched if t.state not in (TaskState.CANCELLED, TaskState.SKIPPED)]
    # A repair that did not heal proves nothing, for the version or against it.
    touched = [t for t in touched if not (t.repair and t.failure is not Failure.NONE)]
    failed = [t for t in touched if t.failure is not Failure.NONE]
    limit = rollout.policy.max_unhealthy_upgraded_percent
    unusable = [t for t in failed if t.failure is Failure.IMAGE_UNUSABLE]
    if unusable:
        # A model is not to blame for the version that its machines run.
        guilty = not rollout.is_of_model
        return _verdict(draft, rollout, RolloutCode.IMAGE_UNUSABLE, unusable, guilty=guilty)
    if not failed or not exceeds(len(failed), limit, of=len(touched)):
        return None
    accused = [t for t in failed if speaks_against_version(t)]
    if len(failed) > 1 and not accused:
        # One machine that is still ill on its previous version is ill by itself; several at
        # once are no coincidence: the new version may have harmed their data.
        accused = [t for t in failed if t.failure is not Failure.PLATFORM]
    well = _well_on_target(draft, rollout)
    if not accused:
        return _halt_without_blame(draft, rollout, failed, len(touched), well)
    if not exceeds(len(accused), limit, of=len(accused) + well):
        return None
    guilty = not _control_suffers(draft, rollout, accused, len(accused) + well)
    guilty = guilty and not all(_host_suffers(draft, rollout, task) for task in accused)
    return _verdict(draft, rollout, RolloutCode.UNHEALTHY_UPGRADED, accused, guilty=guilty)


def _halt_without_blame(
    draft: Draft, rollout: Rollout, failed: list[Task], touched: int, well: int
) -> Verdict | None:
    """Nothing speaks against the version, yet it may be no time to go on.

    None: the machines themselves are ill, which the gate before a batch counts.
    """
    limit = rollout.policy.max_unhealthy_upgraded_percent
    platform_failed = [t for t in failed if t.failure is Failure.PLATFORM]
    if exceeds(len(platform_failed), limit, of=touched):
        code = RolloutCode.PLATFORM_FAILED
        return _verdict(draft, rollout, code, platform_failed, guilty=False)
    left_open = [t for t in failed if is_left_open(t)]
    if exceeds(len(left_open), limit, of=len(left_open) + well):
        code = RolloutCode.UNHEALTHY_UPGRADED
        return _verdict(draft, rollout, code, left_open, guilty=False)
    return None


def _verdict(
    draft: Draft, rollout: Rollout, code: RolloutCode, failed: list[Task], *, guilty: bool
) -> Verdict:
    names = [draft.machines[t.machine].name for t in failed if t.machine in draft.machines]
    control = _control_group(draft, rollout, failed)
    ill = len(_fallen_ill(draft, control, rollout))
    evidence = _with_another_model(rollout, failed) + (
        f"{len(failed)} failed in batch {rollout.batch} or before ({some_of(names)}): "
        f"{failed[0].detail}. Rolled back and well again: {sum(t.healed for t in failed)}. "
        f"Machines of the same zones without it: {ill} of {len(control)} fell ill."
    )
    return Verdict(code=code, guilty=guilty, evidence=evidence)


def _with_another_model(rollout: Rollout, failed: list[Task]) -> str:
    """Where a version brought a new model along (mode manual), either may be the cause."""
    came_up = [t for t in failed if t.failure not in (Failure.IMAGE_UNUSABLE, Failure.PLATFORM)]
    both = [t for t in came_up if t.model and t.model_before and t.model != t.model_before]
    if rollout.is_of_model or not both:
        return ""
    return f"It may be the model as well, {both[0].model}, which came with it. "


def witness_for(failed: list[Task]) -> Task | None:
    """The machine whose rollback, after the verdict, speaks for the version; None: nothing does.

    A lone machine that was left as it failed, until the suspected version was left by all, and is
    ill on its previous version too: it is the machine.  Several are no coincidence.  A rollback
    that failed half-way shows nothing, and a repair that did not heal never did.
    """
    failed = [task for task in failed if not task.repair]
    if len(failed) != 1 or failed[0].failure is Failure.IMAGE_UNUSABLE:
        return None
    return failed[0] if failed[0].state is TaskState.ROLLED_BACK and not failed[0].healed else None


def some_of(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _well_on_target(draft: Draft, rollout: Rollout) -> int:
    """Machines that run the target and are well, of this rollout or an earlier one."""
    return sum(
        1
        for machine in draft.present()
        if rollout.on_disk_of(machine) == rollout.target and machine.health is Health.HEALTHY
    )


def _control_group(draft: Draft, rollout: Rollout, accused: list[Task]) -> list[Machine]:
    """Machines of the accused ones' zones that this rollout has not touched."""
    zones = {draft.machines[t.machine].zone for t in accused if t.machine in draft.machines}
    return [machine for machine in _untouched(draft, rollout) if machine.zone in zones]


def _untouched(draft: Draft, rollout: Rollout) -> list[Machine]:
    touched = {t.machine for t in draft.tasks_of(rollout) if t.batch > 0}
    return [
        machine
        for machine in draft.present()
        if machine.id not in touched
        and rollout.on_disk_of(machine) != rollout.target
        and not draft.is_in_hand(machine)
    ]


def _control_suffers(draft: Draft, rollout: Rollout, accused: list[Task], touched: int) -> bool:
    control = _control_group(draft, rollout, accused)
    return control_group_suffers(
        failed=len(accused),
        touched=touched,
        control_failed=len(_fallen_ill(draft, control, rollout)),
        control=len(control),
    )


def _host_suffers(draft: Draft, rollout: Rollout, task: Task) -> bool:
    """The failed machine's neighbours on its host, which nobody touched, fell ill with it."""
    machine = draft.machines.get(subject_of(task))
    if machine is None or not machine.host:
        return False
    control = [m for m in _untouched(draft, rollout) if m.host == machine.host]
    ill = len(_fallen_ill(draft, control, rollout))
    return control_group_suffers(failed=1, touched=1, control_failed=ill, control=len(control))


def _fallen_ill(draft: Draft, control: list[Machine], rollout: Rollout) -> list[Machine]:
    """Those that became ill in the time of the rollout; who was ill before tells nothing.

    Also those that are well again: what struck them and the upgraded ones alike may have passed
    when the last of the batch was judged.
    """
    policy = rollout.policy
    judged_for = 2 * policy.health_wait + policy.bake_time + ILL_AFTER
    recently = max(rollout.started_at, draft.now - judged_for)
    return [
        machine
        for machine in control
        if (
            _well_again_since(machine, recently)
            if machine.health is Health.HEALTHY
            else machine.health_since >= rollout.started_at
        )
    ]


def _well_again_since(machine: Machine, moment: datetime) -> bool:
    """It was ill by itself until after the moment; being made or worked on is no illness."""
    since = machine.health_since
    return since >= moment and (machine.worked_at is None or since > machine.worked_at)
