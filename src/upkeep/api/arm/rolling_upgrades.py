"""Rolling upgrades: the OS image rollouts of a set, as Azure writes them.

`latest` is the running one, or else the last.  A started roll is an operation that stays open for
the whole roll and fails with the roll's own code.  Source: sheet os-image §2.8, §9.2, §9.3.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row

from upkeep.api.arm.instances import find_instance, instance_ids, named_instances, newest
from upkeep.api.arm.operations import APPROVAL, CANCEL, accepted
from upkeep.api.arm.route import ArmReply, ArmRequest, Changed, look
from upkeep.api.arm.scale_sets import image_reference, rolling_policy
from upkeep.api.arm.scopes import find_set, set_id
from upkeep.api.calls import ask
from upkeep.api.problems import InputError, ProblemKind, conflict, invalid, not_found
from upkeep.api.rollouts import approve as approve_machines
from upkeep.core.model import OPEN_STATES, RolloutCode, RolloutState, StartedBy, System, Verb
from upkeep.core.task import TaskState
from upkeep.core.verdict import some_of
from upkeep.core.version import is_older
from upkeep.store import rollouts, story
from upkeep.store.database import from_us
from upkeep.store.policies import policy_from_json

CODES: Mapping[RolloutState, str] = {
    RolloutState.RUNNING: "RollingForward",
    RolloutState.CANCELLING: "RollingForward",
    RolloutState.ROLLING_BACK: "RollingBack",
    RolloutState.COMPLETED: "Completed",
    RolloutState.CANCELLED: "Cancelled",
    RolloutState.FAULTED: "Faulted",
}

# Each candidate is counted once.  One that was never taken stays pending, also at the end.
_COUNTED_AS: Mapping[TaskState, str] = {
    TaskState.HELD: "pendingInstanceCount",
    TaskState.SKIPPED: "pendingInstanceCount",
    TaskState.CANCELLED: "pendingInstanceCount",
    TaskState.ANNOUNCED: "inProgressInstanceCount",
    TaskState.DRAINING: "inProgressInstanceCount",
    TaskState.RUNNING: "inProgressInstanceCount",
    TaskState.VERIFYING: "inProgressInstanceCount",
    TaskState.BAKING: "inProgressInstanceCount",
    TaskState.ROLLING_BACK: "inProgressInstanceCount",
    TaskState.DONE: "successfulInstanceCount",
    TaskState.FAILED: "failedInstanceCount",
    TaskState.ROLLED_BACK: "failedInstanceCount",
}

# Clients compare these words.  Source: sheet os-image §9.4.
NOTHING_TO_CANCEL = "There is no ongoing Rolling Upgrade to cancel."
NOTHING_TO_APPROVE = "There is no ongoing Rolling Upgrade to approve."


def show_latest(connection: Connection, request: ArmRequest) -> ArmReply:
    row = find_set(connection, request)
    last = _last(connection, request, row)
    if last is None:
        raise not_found(f"the scale set {row.name} has had no rolling upgrade")
    counts = rollouts.task_counts(connection, [last.id])[last.id]
    return ArmReply(body=_latest(request, row, last, counts))


def show_history(connection: Connection, request: ArmRequest) -> ArmReply:
    """The last five to a version within two months; those of a model are only in `latest`."""
    row = find_set(connection, request)
    ended = [
        r
        for r in _of_system(connection, request, row)
        if r.ended_at is not None and r.verb == Verb.REPLACE_OS_DISK
    ]
    counts = rollouts.task_counts(connection, [r.id for r in ended])
    return ArmReply(body={"value": [_past(request, row, r, counts[r.id]) for r in ended]})


async def start(request: ArmRequest) -> ArmReply:
    """A roll to the latest version by a person's call; machines that run it are left alone."""
    group = (await look(request, find_set)).id
    rollout = await ask(request.services, request.actor, group, Verb.REPLACE_OS_DISK)
    return accepted(request, rollout)


async def upgrade_instances(request: ArmRequest) -> ArmReply:
    """The named instances, `*` for all, to the latest version, or where all have that, to the set's
    model; who has both is left alone."""
    wanted = instance_ids(request.body)
    if not wanted:
        raise invalid('instanceIds: name the instances, as in {"instanceIds": ["0", "2"]}, or "*"')

    def find(connection: Connection, request: ArmRequest) -> tuple[str, list[str]]:
        row = find_set(connection, request)
        target = newest(connection, row)
        chosen = named_instances(connection, row, wanted)
        behind = [m for m in chosen if target and m.image and is_older(m.image, target)]
        of_model = [m for m in chosen if m.model not in ("", row.model) and m not in behind]
        if behind and of_model:
            versions, models = (some_of([m.name for m in ms]) for ms in (behind, of_model))
            raise conflict(
                f"{versions} need version {target}, {models} only the set's new model: name them in"
                " two calls, one roll goes at a time"
            )
        return row.id, [machine.id for machine in behind or of_model]

    group, chosen = await look(request, find)
    if not chosen:
        return ArmReply()
    verb = Verb.REPLACE_OS_DISK
    rollout = await ask(request.services, request.actor, group, verb, machines=chosen)
    return accepted(request, rollout)


def cancel(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """The open batch is finished, no other starts."""
    row = find_set(connection, request)
    last = _last(connection, request, row)
    if last is None or last.state not in OPEN_STATES:
        raise InputError(ProblemKind.CONFLICT, NOTHING_TO_CANCEL)
    rollouts.change(connection, last, cancel=True, now=now)
    story.tell(connection, row.id, f"{request.actor.name} cancelled {last.id}", now=now)
    return [row.id], accepted(request, last.id, kind=CANCEL)


def approve(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """The instances of the body or of the path may be taken by the roll that is deferred; without
    any, all that wait in it.  Source: sheet §2.6 #3, §9.1 (202, nothing else)."""
    row = find_set(connection, request)
    last = _last(connection, request, row)
    if last is None or last.state not in OPEN_STATES:
        raise InputError(ProblemKind.CONFLICT, NOTHING_TO_APPROVE)
    if "instance" in request.params:
        chosen = [find_instance(connection, request, row)]
    else:
        chosen = named_instances(connection, row, instance_ids(request.body))
    machines = [machine.id for machine in chosen]
    approve_machines(connection, last, machines, request.actor, now=now)
    return [row.id], accepted(request, last.id, kind=APPROVAL)


def _last(connection: Connection, request: ArmRequest, row: Row[Any]) -> Row[Any] | None:
    return next(iter(_of_system(connection, request, row)), None)


def _of_system(connection: Connection, request: ArmRequest, row: Row[Any]) -> list[Row[Any]]:
    """Newest first; an open one before all."""
    now = request.services.clock.peek()
    found = rollouts.history(connection, row.id, now=now)
    return [rollout for rollout in found if rollout.system == System.OS_IMAGE]


def _latest(
    request: ArmRequest, row: Row[Any], rollout: Row[Any], counts: Mapping[str, int]
) -> dict[str, Any]:
    status: dict[str, Any] = {
        "code": CODES[RolloutState(rollout.state)],
        "startTime": from_us(rollout.started_at).isoformat(),
        "lastAction": "Cancel" if rollout.cancel_requested else "Start",
        "lastActionTime": from_us(rollout.ended_at or rollout.started_at).isoformat(),
    }
    properties: dict[str, Any] = {
        "policy": rolling_policy(policy_from_json(rollout.policy)),
        "runningStatus": status,
        "progress": progress(counts),
    }
    if error := _error(rollout):
        properties["error"] = error
    return {
        # Azure leaves the id out, and its own .NET client stumbles.  Source: sheet §11 #11.
        "id": f"{set_id(request, row)}/rollingUpgrades/latest",
        "name": "latest",
        "type": "Microsoft.Compute/virtualMachineScaleSets/rollingUpgrades",
        "location": row.region,
        "properties": properties,
    }


def _past(
    request: ArmRequest, row: Row[Any], rollout: Row[Any], counts: Mapping[str, int]
) -> dict[str, Any]:
    ended = from_us(rollout.ended_at).isoformat()
    properties: dict[str, Any] = {
        "runningStatus": {
            "code": CODES[RolloutState(rollout.state)],
            "startTime": from_us(rollout.started_at).isoformat(),
            "endTime": ended,
            "completedTime": ended,
        },
        "progress": progress(counts),
        "startedBy": "User" if rollout.started_by == StartedBy.USER else "Platform",
        "targetImageReference": image_reference(request, row, version=rollout.target),
        "rollbackInfo": {
            "successfullyRolledbackInstanceCount": counts.get(TaskState.ROLLED_BACK, 0),
            "failedRolledbackInstanceCount": counts.get(TaskState.FAILED, 0),
        },
    }
    if error := _error(rollout):
        properties["error"] = error
    return {
        "type": "Microsoft.Compute/virtualMachineScaleSets/rollingUpgrades",
        "location": row.region,
        "properties": properties,
    }


def progress(counts: Mapping[str, int]) -> dict[str, int]:
    """The four counters; their sum is the number of candidates, which was frozen at the start."""
    found = dict.fromkeys(
        (
            "successfulInstanceCount",
            "failedInstanceCount",
            "inProgressInstanceCount",
            "pendingInstanceCount",
        ),
        0,
    )
    for state, number in counts.items():
        found[_COUNTED_AS[TaskState(state)]] += number
    return found


def _error(rollout: Row[Any]) -> dict[str, str] | None:
    if rollout.code in ("", RolloutCode.OPERATOR_CANCELLED):
        return None
    return {"code": rollout.code, "message": rollout.evidence}
