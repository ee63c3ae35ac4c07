"""Lifecycle hook events: what the rolls of a set ask, as Azure writes it.

An event's name is a GUID made of what it is here, so nothing has to be kept for it.  Azure's live
service answers a PATCH with 202 (az says so); its specification and its SDK know 200, and so do we.
Source: sheet os-image §2.6 #4.
"""

import uuid
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row

from upkeep.api import lifecycle_hooks as native
from upkeep.api.arm.documents import Document, checked, field
from upkeep.api.arm.route import ArmReply, ArmRequest, Changed
from upkeep.api.arm.scopes import find_set, set_id
from upkeep.api.arm.set_model import HOOKS
from upkeep.api.arm.values import one_of
from upkeep.api.problems import invalid, not_found
from upkeep.api.shapes import utc
from upkeep.core.hook_event import THE_GROUP, Answer, HookEvent
from upkeep.core.model import MachineId
from upkeep.store import hook_events, machines

EVENTS = "lifecycleHookEvents"

_NAMESPACE = uuid.UUID("3f0c0d6a-6c1e-4f0e-9a7b-5a2f5d6f1c1d")
_NAMES = {kind: name for name, kind in HOOKS.items()}
_STATES = {
    Answer.WAITING: "Waiting",
    Answer.APPROVED: "Approved",
    Answer.REJECTED: "Rejected",
}
_ANSWERS = {word: answer for answer, word in _STATES.items()}


def show_list(connection: Connection, request: ArmRequest) -> ArmReply:
    """Newest first, those that are over too."""
    row = find_set(connection, request)
    found = hook_events.of_group(connection, row.id)
    numbers = _numbers(connection, row, found)
    return ArmReply(body={"value": [_shown(request, row, each, numbers) for each in found]})


def show(connection: Connection, request: ArmRequest) -> ArmReply:
    row = find_set(connection, request)
    event = _find(connection, request, row)
    return ArmReply(body=_shown(request, row, event, _numbers(connection, row, [event])))


def patch(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """Answers for some of its targets or all, a later end, or both."""
    row = find_set(connection, request)
    event = _find(connection, request, row)
    body = checked(request.body)
    numbers = _numbers(connection, row, [event])
    answers = _answers(request, row, body, event, numbers)
    wait_until = field(body, "properties", "waitUntil")
    if not answers and wait_until is None:
        raise invalid("properties.targetResources with their actionState, or properties.waitUntil")
    if wait_until is not None:
        end = _moment(wait_until)
        native.move_end(connection, event, end, request.actor, group_id=row.id, now=now)
    if answers:
        native.answer(connection, event, answers, request.actor, group_id=row.id, now=now)
    again = _find(connection, request, row)
    return [row.id], ArmReply(body=_shown(request, row, again, numbers))


def _answers(
    request: ArmRequest,
    row: Row[Any],
    body: Document,
    event: HookEvent,
    numbers: dict[str, str],
) -> dict[MachineId, Answer]:
    """What the body says of each target; one that only repeats that it waits says nothing."""
    places = {_place(request, row, m, numbers).casefold(): m for m in event.answers}
    given = field(body, "properties", "targetResources")
    if given is None:
        return {}
    if not isinstance(given, list):
        raise invalid("targetResources: a list of objects with resource.id and actionState")
    answers: dict[MachineId, Answer] = {}
    for target in given:
        place, state = field(target, "resource", "id"), field(target, "actionState")
        machine = places.get(place.casefold()) if isinstance(place, str) else None
        if machine is None:
            raise invalid(f"targetResources: the event has no target {str(place)[-80:]!r}")
        answer = one_of(_ANSWERS, state, "targetResources.actionState")
        if answer is not Answer.WAITING:
            answers[machine] = answer
    return answers


def _moment(value: Any) -> datetime:
    try:
        return utc(msgspec.convert(value, datetime), "waitUntil")
    except msgspec.ValidationError:
        raise invalid("waitUntil: a moment in ISO 8601, as 2026-12-24T18:00:00Z") from None


def _name(event: HookEvent) -> str:
    return str(uuid.uuid5(_NAMESPACE, native.hook_id(event)))


def _find(connection: Connection, request: ArmRequest, row: Row[Any]) -> HookEvent:
    wanted = request.params["event"].casefold()
    for event in hook_events.of_group(connection, row.id):
        if _name(event) == wanted:
            return event
    raise not_found(f"the scale set {row.name} has no lifecycle hook event {wanted[:60]!r}")


def _numbers(connection: Connection, row: Row[Any], events: list[HookEvent]) -> dict[str, str]:
    """Instance ids by machine."""
    asked = sorted({machine for event in events for machine in event.answers})
    names = machines.names(connection, asked)
    return {machine: name.removeprefix(f"{row.name}-") for machine, name in names.items()}


def _place(request: ArmRequest, row: Row[Any], machine: MachineId, numbers: dict[str, str]) -> str:
    if machine == THE_GROUP:
        return set_id(request, row)
    return f"{set_id(request, row)}/virtualMachines/{numbers.get(machine, machine)}"


def _shown(
    request: ArmRequest, row: Row[Any], event: HookEvent, numbers: dict[str, str]
) -> Document:
    name = _name(event)
    return {
        "id": f"{set_id(request, row)}/{EVENTS}/{name}",
        "name": name,
        "type": f"Microsoft.Compute/virtualMachineScaleSets/{EVENTS}",
        "properties": {
            "type": _NAMES[event.kind],
            "state": "Completed" if event.closed else "Active",
            "timeCreated": event.created_at.isoformat(),
            "waitUntil": event.wait_until.isoformat(),
            "maxWaitUntil": native.longest_wait(event).isoformat(),
            "defaultAction": "Approve" if event.approves else "Reject",
            "targetResources": [
                {
                    "resource": {"id": _place(request, row, machine, numbers)},
                    "actionState": _STATES[answer],
                }
                for machine, answer in sorted(event.answers.items())
            ],
            "additionalContext": {},
        },
    }
