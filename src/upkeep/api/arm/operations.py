"""Long-running operations, as Azure's clients poll them.

An operation's name says what is followed: a rollout, the cancelling or approving of one, a set that
settles, a set that goes.  What it answers is read from the rows each time, so it survives every
restart, and nothing has to be kept for it.  Source: sheet os-image §9.2.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row

from upkeep.api.arm.errors import error_body
from upkeep.api.arm.route import RETRY_AFTER_S, ArmReply, ArmRequest, link
from upkeep.api.arm.scale_sets import is_settled
from upkeep.api.arm.scopes import COMPUTE, check_subscription
from upkeep.api.problems import not_found
from upkeep.core.model import RolloutCode, RolloutState
from upkeep.store import groups, rollouts
from upkeep.store.database import from_us, from_us_or_none

CANCEL, APPROVAL, REMOVAL, SETTLING = "cancel-", "approve-", "delete-", "settle-"
_ID = re.compile(r"[a-z0-9_]{1,100}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an operation is: Azure's status, and why it failed where it did."""

    status: str
    started_at: datetime | None = None
    ended_at: datetime | None = None
    code: str = ""
    message: str = ""


def accepted(request: ArmRequest, subject: str, *, kind: str = "") -> ArmReply:
    """202 with the places to ask, both of them.

    Args:
        subject: a rollout's id, or a group's where `kind` is REMOVAL or SETTLING.
    """
    url = _url(request, kind + subject)
    return ArmReply(
        status=202,
        headers={
            "Azure-AsyncOperation": url,
            "Location": f"{url}&monitor=true",
            "Retry-After": str(RETRY_AFTER_S),
        },
    )


def settling(request: ArmRequest, group: str) -> Mapping[str, str]:
    """Beside a set that has been changed: clients from before 2021 need a place to ask."""
    return {"Azure-AsyncOperation": _url(request, SETTLING + group)}


def _url(request: ArmRequest, name: str) -> str:
    # The location is Azure's; here an operation is the same one wherever it is asked for.
    subscription = request.params["subscription"]
    place = f"/subscriptions/{subscription}/{COMPUTE}/locations/local/operations/{name}"
    return link(request, place)


def show(connection: Connection, request: ArmRequest) -> ArmReply:
    """How far it is; with `monitor` the answer that the first request would have had."""
    check_subscription(connection, request)
    name = request.params["operation"]
    progress = _progress(connection, name, scope=request.actor.scope)
    if progress is None:
        raise not_found(f"there is no operation {name[:60]!r}")
    if "monitor" in request.query:
        return _monitored(request, progress)
    body: dict[str, Any] = {"name": name, "status": progress.status}
    if progress.started_at is not None:
        body["startTime"] = progress.started_at.isoformat()
    if progress.ended_at is not None:
        body["endTime"] = progress.ended_at.isoformat()
    if progress.code:
        body |= error_body(progress.code, progress.message)
    return ArmReply(body=body, headers={"Retry-After": str(RETRY_AFTER_S)})


def _monitored(request: ArmRequest, progress: Progress) -> ArmReply:
    if progress.status == "InProgress":
        here = link(request, request.path) + "&monitor=true"
        return ArmReply(status=202, headers={"Location": here, "Retry-After": str(RETRY_AFTER_S)})
    if progress.code:
        return ArmReply(status=409, body=error_body(progress.code, progress.message))
    return ArmReply()


def _progress(connection: Connection, name: str, *, scope: str) -> Progress | None:
    """None: there is nothing of that name that the token may see."""
    for kind in (CANCEL, APPROVAL, REMOVAL, SETTLING, ""):
        if name.startswith(kind):
            subject = name.removeprefix(kind)
            break
    if not _ID.fullmatch(subject):
        return None
    if kind == REMOVAL:
        is_removed = groups.is_removed(connection, subject, scope=scope)
        return None if is_removed is None else _ended(is_removed)
    if kind == SETTLING:
        row = groups.find(connection, subject, scope=scope)
        if row is None:
            return None
        return _ended(is_settled(row, groups.counts(connection, [row.id])))
    row = rollouts.find(connection, subject, scope=scope)
    if row is None:
        return None
    return _ended(True) if kind == APPROVAL else _of_rollout(row, is_cancel=kind == CANCEL)


def _ended(is_ended: bool) -> Progress:
    return Progress(status="Succeeded" if is_ended else "InProgress")


def _of_rollout(row: Row[Any], *, is_cancel: bool) -> Progress:
    """A cancel has succeeded when its roll has ended, in whatever way."""
    started_at, ended_at = from_us(row.started_at), from_us_or_none(row.ended_at)
    status, code, message = "Failed", row.code, row.evidence
    if ended_at is None:
        status, code, message = "InProgress", "", ""
    elif is_cancel or row.state == RolloutState.COMPLETED:
        status, code, message = "Succeeded", "", ""
    elif row.state == RolloutState.CANCELLED:
        status = "Canceled"
        code = "OperationPreempted" if row.code == RolloutCode.SUPERSEDED else "Canceled"
        message = row.evidence or "the rolling upgrade was cancelled"
    return Progress(
        status=status, started_at=started_at, ended_at=ended_at, code=code, message=message
    )
