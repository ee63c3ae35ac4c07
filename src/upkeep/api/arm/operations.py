"""Long-running operations, as Azure's clients poll them.

An operation is a rollout: its name is the rollout's id, and what it says is read from the rollout's
row each time.  So it survives every restart, and nothing has to be kept for it.
Source: sheet os-image §9.2.
"""

import re
from typing import Any

from sqlalchemy import Connection, Row

from upkeep.api.arm.errors import error_body
from upkeep.api.arm.route import ArmReply, ArmRequest, link
from upkeep.api.arm.scopes import COMPUTE, check_subscription
from upkeep.api.problems import not_found
from upkeep.core.model import RolloutCode, RolloutState
from upkeep.store import groups, rollouts
from upkeep.store.database import from_us, from_us_or_none

# Without it clients wait 30 s between two looks.
RETRY_AFTER_S = 1
CANCEL = "cancel-"
REMOVAL = "delete-"
_ID = re.compile(r"[a-z0-9_]{1,100}")


def accepted(request: ArmRequest, rollout: str, *, is_cancel: bool = False) -> ArmReply:
    """202 with the places to ask, both of them."""
    subscription = request.params["subscription"]
    name = f"{CANCEL}{rollout}" if is_cancel else rollout
    # The location is Azure's; here an operation is the same one wherever it is asked for.
    place = f"/subscriptions/{subscription}/{COMPUTE}/locations/local/operations/{name}"
    url = link(request, place)
    return ArmReply(
        status=202,
        headers={
            "Azure-AsyncOperation": url,
            "Location": f"{url}&monitor=true",
            "Retry-After": str(RETRY_AFTER_S),
        },
    )


def accepted_removal(request: ArmRequest, group: str) -> ArmReply:
    """202 for a set that is being deleted: the operation is the group itself."""
    return accepted(request, f"{REMOVAL}{group}")


def show(connection: Connection, request: ArmRequest) -> ArmReply:
    """How far it is; with `monitor` the answer that the first request would have had."""
    check_subscription(connection, request)
    name = request.params["operation"]
    if name.startswith(REMOVAL):
        return _show_removal(connection, request, name)
    rollout, is_cancel = name.removeprefix(CANCEL), name.startswith(CANCEL)
    row = None
    if _ID.fullmatch(rollout):
        row = rollouts.find(connection, rollout, scope=request.actor.scope)
    if row is None:
        raise not_found(f"there is no operation {rollout[:60]!r}")
    status, code, message = _status(row, is_cancel=is_cancel)
    if "monitor" in request.query:
        return _monitored(request, status, code, message)
    body: dict[str, Any] = {
        "name": name,
        "status": status,
        "startTime": from_us(row.started_at).isoformat(),
    }
    if (ended := from_us_or_none(row.ended_at)) is not None:
        body["endTime"] = ended.isoformat()
    if code:
        body |= error_body(code, message)
    return ArmReply(body=body, headers={"Retry-After": str(RETRY_AFTER_S)})


def _show_removal(connection: Connection, request: ArmRequest, name: str) -> ArmReply:
    group = name.removeprefix(REMOVAL)
    is_removed = None
    if _ID.fullmatch(group):
        is_removed = groups.is_removed(connection, group, scope=request.actor.scope)
    if is_removed is None:
        raise not_found(f"there is no operation {name[:60]!r}")
    status = "Succeeded" if is_removed else "InProgress"
    if "monitor" in request.query:
        return _monitored(request, status, "", "")
    body = {"name": name, "status": status}
    return ArmReply(body=body, headers={"Retry-After": str(RETRY_AFTER_S)})


def _monitored(request: ArmRequest, status: str, code: str, message: str) -> ArmReply:
    if status == "InProgress":
        here = link(request, request.path) + "&monitor=true"
        return ArmReply(status=202, headers={"Location": here, "Retry-After": str(RETRY_AFTER_S)})
    if code:
        return ArmReply(status=409, body=error_body(code, message))
    return ArmReply()


def _status(row: Row[Any], *, is_cancel: bool) -> tuple[str, str, str]:
    """Azure's status, and the code and message of a failure.

    A cancel has succeeded when its roll has ended, in whatever way.
    """
    if row.ended_at is None:
        return "InProgress", "", ""
    if is_cancel or row.state == RolloutState.COMPLETED:
        return "Succeeded", "", ""
    if row.state == RolloutState.CANCELLED:
        code = "OperationPreempted" if row.code == RolloutCode.SUPERSEDED else "Canceled"
        return "Canceled", code, row.evidence or "the rolling upgrade was cancelled"
    return "Failed", row.code, row.evidence
