"""Maintenance configurations and their assignments: schedules, as Azure writes them.

Of Azure's scopes there is OSImage: in whose windows the OS images of a scale set are upgraded.
Source: sheet maintenance §1.1 to §1.4.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row
from tzlocal.windows_tz import win_tz

from upkeep.api import schedules as native
from upkeep.api.arm.documents import Document, checked, field, merged, without_secrets
from upkeep.api.arm.resource_groups import scope_of
from upkeep.api.arm.route import PAGE, ArmReply, ArmRequest, Changed, page_reply
from upkeep.api.arm.scopes import check_subscription, find_set, set_id
from upkeep.api.problems import bad_request, invalid, not_found
from upkeep.api.shapes import is_label, is_name, text_cursor
from upkeep.core.recurrence import Schedule
from upkeep.store import arm_documents, schedules

MAINTENANCE = "providers/Microsoft.Maintenance"
CONFIGURATIONS = f"{MAINTENANCE}/maintenanceConfigurations"
ASSIGNMENTS = f"{MAINTENANCE}/configurationAssignments"

SCOPE = "OSImage"
# Where a window's length is left out.  Source: sheet §1.2 [I].
_LENGTH = timedelta(hours=5)
# What Azure answers where nothing expires.
_NEVER = "9999-12-31 23:59:59"

_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2})(?::[0-9]{2})?")
_CLOCK = re.compile(r"([0-9]{2}):([0-9]{2})(?::[0-9]{2})?")
_CONFIGURATION_ID = re.compile(
    rf"/subscriptions/[^/]+/resourcegroups/([^/]+)/{CONFIGURATIONS}/([^/]+)", re.IGNORECASE
)
# Names of Windows' zones, without case, and their IANA zones.
_ZONES: Mapping[str, str] = {name.casefold(): zone for name, zone in win_tz.items()}


def show_list(connection: Connection, request: ArmRequest) -> ArmReply:
    """All of the subscription, or of a resource group; a page at a time."""
    check_subscription(connection, request)
    rows, more = schedules.read_list(
        connection,
        scope=request.actor.scope,
        after=text_cursor(request.query.get("$skiptoken")),
        limit=PAGE,
    )
    group = request.params.get("group")
    wanted = [row for row in rows if group is None or row.scope.casefold() == group.casefold()]
    kept = arm_documents.read(connection, [row.id for row in wanted])
    value = [_configuration(request, row, kept.get(row.id, {})) for row in wanted]
    return page_reply(request, value, after=rows[-1].name if more else None)


def show(connection: Connection, request: ArmRequest) -> ArmReply:
    row = _find(connection, request)
    return ArmReply(body=_configuration(request, row, arm_documents.find(connection, row.id)))


def put(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """201 with a new configuration, 200 with a changed one."""
    check_subscription(connection, request)
    body = checked(request.body)
    row = _seek(connection, request)
    if row is not None:
        return _changed(connection, request, row, body, now)
    name = request.params["configuration"].lower()
    if not is_name(name):
        raise invalid(f"the name {name[:70]!r}: 1 to 63 of a-z, 0-9, dot, underscore, hyphen")
    location = field(body, "location")
    if not isinstance(location, str) or not is_label(location):
        raise invalid("location: say where, as the groups' regions are called here")
    if not is_label(request.params["group"]):
        raise invalid(f"a resource group cannot be called {request.params['group'][:100]!r}")
    _check_scope(body)
    native.create(
        connection,
        request.services,
        request.actor,
        native.checked(_wanted(name, body)),
        scope=scope_of(connection, request),
        region=location,
        now=now,
    )
    row = _find(connection, request)
    arm_documents.write(connection, row.id, without_secrets(body))
    return [], ArmReply(body=_configuration(request, row, body), status=201)


def patch(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    row = _find(connection, request)
    return _changed(connection, request, row, checked(request.body or {}), now)


def delete(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """With its assignments.  204: it was not there."""
    check_subscription(connection, request)
    row = _seek(connection, request)
    if row is None:
        return [], ArmReply(status=204)
    shown = _configuration(request, row, arm_documents.find(connection, row.id))
    return schedules.remove(connection, row, now=now), ArmReply(body=shown)


def show_assignments(connection: Connection, request: ArmRequest) -> ArmReply:
    row = find_set(connection, request)
    found = schedules.of_group(connection, row.id)
    return ArmReply(body={"value": [_assignment(request, row, each) for each in found]})


def show_assignment(connection: Connection, request: ArmRequest) -> ArmReply:
    row = find_set(connection, request)
    return ArmReply(body=_assignment(request, row, _find_assignment(connection, request, row)))


def assign(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """From now on the set's upgrades happen in the configuration's windows alone.

    201 with a new assignment, 200 with one that was there.
    """
    row = find_set(connection, request)
    schedule = _named(connection, request, checked(request.body))
    if not row.auto_upgrade:
        raise bad_request(
            f"a configuration of scope {SCOPE} governs automatic upgrades, and they are off here:"
            " set upgradePolicy.automaticOSUpgradePolicy.enableAutomaticOSUpgrade first"
        )
    name = request.params["assignment"]
    if not is_label(name):
        raise invalid(f"a configuration assignment cannot be called {name[:100]!r}")
    other = _seek_assignment(connection, request, row)
    if other is not None and other.id != schedule.id:
        schedules.unassign(connection, other, row, now=now)
    is_new = schedules.assign(connection, schedule, row, name=name, now=now)
    body = _assignment(request, row, _find_assignment(connection, request, row))
    return [row.id], ArmReply(body=body, status=201 if is_new and other is None else 200)


def unassign(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """204: there was no such assignment."""
    row = find_set(connection, request)
    found = _seek_assignment(connection, request, row)
    if found is None:
        return [], ArmReply(status=204)
    schedules.unassign(connection, found, row, now=now)
    return [row.id], ArmReply(body=_assignment(request, row, found))


def _changed(
    connection: Connection, request: ArmRequest, row: Row[Any], body: Document, now: datetime
) -> Changed:
    """What was sent is laid over what we show, as for a set; what is absent stays."""
    kept = arm_documents.find(connection, row.id)
    whole = merged(_configuration(request, row, kept), body)
    _check_scope(whole)
    marked = schedules.change(connection, row, native.checked(_wanted(row.name, whole)), now=now)
    kept = without_secrets(merged(kept, body))
    arm_documents.write(connection, row.id, kept)
    return marked, ArmReply(body=_configuration(request, _find(connection, request), kept))


def _check_scope(body: Document) -> None:
    scope = field(body, "properties", "maintenanceScope")
    if not isinstance(scope, str) or scope.casefold() != SCOPE.casefold():
        raise bad_request(f"maintenanceScope: {SCOPE}; the other scopes are not built yet")
    visibility = field(body, "properties", "visibility")
    if visibility is not None and str(visibility).casefold() != "custom":
        raise bad_request("visibility: Custom; public configurations are the platform's own")


def _wanted(name: str, body: Document) -> Schedule:
    """The schedule of a whole document.

    Raises:
        InputError: a value cannot be read.
    """
    window = field(body, "properties", "maintenanceWindow")
    starts = _time(field(window, "startDateTime"), "startDateTime")
    if starts is None:
        raise invalid("maintenanceWindow.startDateTime: when the first window opens, as"
                      " 2026-12-24 22:00")  # fmt: skip
    expires = _time(field(window, "expirationDateTime"), "expirationDateTime")
    every = field(window, "recurEvery")
    return Schedule(
        name=name,
        starts=starts,
        expires=None if expires is not None and expires.year == 9999 else expires,
        zone=_zone(field(window, "timeZone")),
        length=_length(field(window, "duration")),
        recur_every=every if isinstance(every, str) else "",
    )


def _time(value: Any, name: str) -> datetime | None:
    """Seconds may stand there, and say nothing.  Source: sheet §1.2."""
    if value is None:
        return None
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise invalid(f"maintenanceWindow.{name}: YYYY-MM-DD hh:mm, as 2026-12-24 22:00")
    return native.local_time(found[1], f"maintenanceWindow.{name}")


def _length(value: Any) -> timedelta:
    if value is None:
        return _LENGTH
    found = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise invalid("maintenanceWindow.duration: HH:mm, as 05:00")
    return timedelta(hours=int(found[1]), minutes=int(found[2]))


def _zone(value: Any) -> str:
    """Azure's clients send the names of Windows; an IANA name is taken as well."""
    if value is None:
        return "UTC"
    return _ZONES.get(str(value).casefold(), str(value))


def _seek(connection: Connection, request: ArmRequest) -> Row[Any] | None:
    name, scope = request.params["configuration"].lower(), request.params["group"]
    row = None
    if is_name(name):
        row = schedules.find(connection, name, scope=request.actor.scope)
    return row if row is not None and row.scope.casefold() == scope.casefold() else None


def _find(connection: Connection, request: ArmRequest) -> Row[Any]:
    check_subscription(connection, request)
    row = _seek(connection, request)
    if row is None:
        name, scope = request.params["configuration"], request.params["group"]
        raise not_found(
            f"there is no maintenance configuration {name[:80]!r} in resource group {scope[:80]!r}"
        )
    return row


def _named(connection: Connection, request: ArmRequest, body: Document) -> Row[Any]:
    """The configuration that an assignment is of."""
    place = field(body, "properties", "maintenanceConfigurationId")
    found = _CONFIGURATION_ID.fullmatch(place) if isinstance(place, str) else None
    if found is None:
        raise invalid(f"maintenanceConfigurationId: …/resourceGroups/GROUP/{CONFIGURATIONS}/NAME")
    named = {**request.params, "group": found[1], "configuration": found[2]}
    return _find(connection, replace(request, params=named))


def _seek_assignment(connection: Connection, request: ArmRequest, row: Row[Any]) -> Row[Any] | None:
    name = request.params["assignment"].casefold()
    found = schedules.of_group(connection, row.id)
    return next((each for each in found if each.assignment.casefold() == name), None)


def _find_assignment(connection: Connection, request: ArmRequest, row: Row[Any]) -> Row[Any]:
    found = _seek_assignment(connection, request, row)
    if found is None:
        name = request.params["assignment"]
        raise not_found(f"the scale set {row.name} has no configuration assignment {name[:80]!r}")
    return found


def _configuration(request: ArmRequest, row: Row[Any], kept: Document) -> Document:
    hours, minutes = divmod(row.length_s // 60, 60)
    window: Document = {
        "startDateTime": row.starts,
        "expirationDateTime": row.expires or _NEVER,
        "duration": f"{hours:02}:{minutes:02}",
        "timeZone": _shown_zone(row, kept),
    }
    if row.recur_every:
        window["recurEvery"] = row.recur_every
    live: Document = {
        "id": _configuration_id(request, row),
        "name": row.name,
        "type": "Microsoft.Maintenance/maintenanceConfigurations",
        "location": row.region,
        "properties": {
            "maintenanceScope": SCOPE,
            "visibility": "Custom",
            "maintenanceWindow": window,
        },
    }
    return merged(merged({"properties": {"namespace": "Microsoft.Maintenance"}}, kept), live)


def _shown_zone(row: Row[Any], kept: Document) -> str:
    """As its client wrote it, as long as it still is that zone."""
    written = field(kept, "properties", "maintenanceWindow", "timeZone")
    return str(written) if written is not None and _zone(written) == row.zone else row.zone


def _configuration_id(request: ArmRequest, row: Row[Any]) -> str:
    subscription = request.params["subscription"].lower()
    return f"/subscriptions/{subscription}/resourceGroups/{row.scope}/{CONFIGURATIONS}/{row.name}"


def _assignment(request: ArmRequest, row: Row[Any], found: Row[Any]) -> Document:
    place = set_id(request, row)
    return {
        "id": f"{place}/{ASSIGNMENTS}/{found.assignment}",
        "name": found.assignment,
        "type": "Microsoft.Maintenance/configurationAssignments",
        "location": row.region,
        "properties": {
            "maintenanceConfigurationId": _configuration_id(request, found),
            "resourceId": place,
        },
    }
