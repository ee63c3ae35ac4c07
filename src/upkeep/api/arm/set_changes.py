"""Scale sets: created, changed, deleted.

PUT and PATCH are one act: what was sent is laid over what we show, and whatever then differs is
asked of the group.  What is absent stays, also in a PUT: `az vmss update` leaves most of it out.
Source: sheet os-image §9.1, §2.2.
"""

import base64
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Row

from upkeep.api import group_changes
from upkeep.api.arm import set_model
from upkeep.api.arm.documents import Document, checked, field, merged, without_secrets
from upkeep.api.arm.operations import REMOVAL, SETTLING, accepted, settling
from upkeep.api.arm.resource_groups import scope_of
from upkeep.api.arm.route import ArmReply, ArmRequest, Changed, is_final, resource_reply
from upkeep.api.arm.scale_sets import is_same_location, scale_set, show_one
from upkeep.api.arm.scopes import check_subscription, find_set, seek_set
from upkeep.api.arm.values import flag, one_of, whole
from upkeep.api.errors import invalid_body
from upkeep.api.group_changes import GroupNew, GroupPatch
from upkeep.api.problems import InputError, bad_request, conflict, invalid
from upkeep.api.services import Services
from upkeep.api.shapes import is_name
from upkeep.core.model import GroupKind
from upkeep.ports import AGENT_ONLY
from upkeep.store import arm_documents, groups
from upkeep.store import tables as t

# On a server with several hypervisors this tag says which one makes the machines.
PLATFORM_TAG = "upkeep-platform"

T = TypeVar("T")


def put(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """201 with a new set, 200 with a changed one; clients then follow its provisioningState."""
    check_subscription(connection, request)
    row, is_new = apply(connection, request, checked(request.body), now)
    return [row.id], _reply(connection, request, row, status=201 if is_new else 200)


def patch(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    find_set(connection, request)
    row, _ = apply(connection, request, checked(request.body or {}), now)
    return [row.id], _reply(connection, request, row)


def delete(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """The set with its machines; a running roll is cancelled first.  204: it was not there."""
    check_subscription(connection, request)
    row = seek_set(connection, request)
    if row is None:
        return [], ArmReply(status=204)
    group_changes.remove(connection, request.services, request.actor, row, now=now)
    groups.remove_if_empty(connection, row.id, now=now)
    return [row.id], accepted(request, row.id, kind=REMOVAL)


def scale_out(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """So many instances more.  Source: sheet §9.1."""
    row = find_set(connection, request)
    body = checked(request.body)
    more = whole(field(body, "capacity"), "capacity")
    if more < 1:
        raise invalid("capacity: how many instances more, at least 1")
    if field(body, "properties", "zone") is not None:
        raise bad_request("properties.zone: they go where the set has fewest; leave it out")
    data = _converted({"capacity": row.capacity + more}, GroupPatch)
    group_changes.change(connection, request.actor, row, data, now=now)
    return [row.id], accepted(request, row.id, kind=SETTLING)


def reapply(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """The set is looked at anew.  It always is what its model says, as far as it may be now, so
    there is nothing to push; a changed model reaches instances as `upgradePolicy.mode` says."""
    row = find_set(connection, request)
    groups.mark_where(connection, t.groups.c.id == row.id, now=now)
    return [row.id], accepted(request, row.id, kind=SETTLING)


def set_service_state(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """Suspend or resume automatic repairs.  Source: sheet §7."""
    row = find_set(connection, request)
    body = checked(request.body)
    one_of({"AutomaticRepairs": True}, field(body, "serviceName"), "serviceName")
    suspend = one_of({"Suspend": True, "Resume": False}, field(body, "action"), "action")
    group_changes.suspend_repairs(connection, request.actor, row, suspend=suspend, now=now)
    return [row.id], ArmReply()


def apply(
    connection: Connection, request: ArmRequest, body: Document, now: datetime
) -> tuple[Row[Any], bool]:
    """The set of the request's path as the document wants it, and whether it is new.

    Raises:
        InputError: it cannot be, in Azure's words.
    """
    row = seek_set(connection, request)
    try:
        if row is None:
            return _create(connection, request, body, now), True
        return _change(connection, request, row, body, now), False
    except InputError as error:
        raise set_model.azure_words(error) from None


def _reply(
    connection: Connection, request: ArmRequest, row: Row[Any], *, status: int = 200
) -> ArmReply:
    reply = resource_reply(show_one(connection, request, row), status=status)
    if is_final(reply):
        return reply
    return replace(reply, headers={**reply.headers, **settling(request, row.id)})


def _create(connection: Connection, request: ArmRequest, body: Document, now: datetime) -> Row[Any]:
    name = request.params["set"].lower()
    if not is_name(name):
        raise invalid(f"the set's name {name[:70]!r}: 1 to 63 of a-z, 0-9, dot, underscore, hyphen")
    location = field(body, "location")
    if not isinstance(location, str):
        raise invalid("location: say where, as the images' regions are called here")
    set_model.check(body)
    asked = set_model.wanted(body, {}) | set_model.domains(body)
    if "image" not in asked:
        raise bad_request("storageProfile.imageReference: name the image that machines are made of")
    asked |= {
        "name": name,
        "platform": _platform(request.services, body),
        "kind": GroupKind.SCALE_SET,
        "scope": scope_of(connection, request),
        "region": location,
    }
    data = _converted(asked, GroupNew)
    row = group_changes.create(connection, request.services, request.actor, data, now=now)
    arm_documents.write(connection, row.id, without_secrets(body))
    return row


def _change(
    connection: Connection, request: ArmRequest, row: Row[Any], body: Document, now: datetime
) -> Row[Any]:
    kept = arm_documents.find(connection, row.id)
    shown = scale_set(request, row, groups.counts(connection, [row.id]), kept)
    whole = _laid_over(shown, body)
    _check_fixed(shown, whole, row)
    set_model.check(whole)
    scripts = {
        script["name"]: base64.b64decode(script["content"])
        for script in msgspec.json.decode(row.scripts)
    }
    before, after = set_model.wanted(shown, scripts), set_model.wanted(whole, scripts)
    differs = {name: value for name, value in after.items() if before.get(name) != value}
    _check_repair_action(shown, whole)
    data = _converted(differs, GroupPatch)
    changed, _ = group_changes.change(connection, request.actor, row, data, now=now)
    arm_documents.write(connection, row.id, without_secrets(_laid_over(kept, body)))
    return changed


def _laid_over(document: Document, body: Document) -> Document:
    """Tags are replaced as a whole, or nobody could take one away."""
    result = merged(document, body)
    tags = field(body, "tags")
    return merged(merged(result, {"tags": None}), {"tags": tags}) if tags is not None else result


def _check_fixed(shown: Document, whole: Document, row: Row[Any]) -> None:
    """What a set is created with and keeps."""
    location = field(whole, "location")
    if not isinstance(location, str) or not is_same_location(location, shown["location"]):
        raise conflict(f"location: the set is in {shown['location']!r} and stays there")
    for path in (("properties", "platformFaultDomainCount"), ("properties", "orchestrationMode")):
        if field(whole, *path) != field(shown, *path):
            raise conflict(f"{path[-1]}: it is {field(shown, *path)!r} since the set was created")
    platform = field(whole, "tags", PLATFORM_TAG)
    if platform is not None and platform != row.platform:
        raise conflict(f"tags.{PLATFORM_TAG}: {row.platform!r} makes the machines of this set")


def _check_repair_action(shown: Document, whole: Document) -> None:
    """Another action while repairs are on would be taken for what is under way.  Sheet §7."""
    before, after = (field(d, "properties", "automaticRepairsPolicy") for d in (shown, whole))
    is_on = field(before, "enabled") and flag(after, "enabled")
    actions = {str(field(policy, "repairAction")).casefold() for policy in (before, after)}
    if is_on and len(actions) > 1:
        raise conflict(
            "automaticRepairsPolicy.repairAction: set enabled to false first, then change it"
        )


def _platform(services: Services, body: Document) -> str:
    """Which hypervisor makes the machines: the only one, or the one that a tag names."""
    there = sorted(services.platforms - {AGENT_ONLY})
    named = field(body, "tags", PLATFORM_TAG)
    if isinstance(named, str):
        return named
    if len(there) == 1:
        return there[0]
    if not there:
        raise invalid("this server makes no machines: start it with a platform (upkeep serve)")
    raise invalid(f"tags: set {PLATFORM_TAG!r} to one of {', '.join(there)}")


def _converted(asked: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(asked, kind)
    except msgspec.ValidationError as error:
        raise invalid_body(error, kind) from None
