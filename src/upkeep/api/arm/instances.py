"""Instances of a scale set: machines, as Azure writes them.

An instance id is the number at the end of a machine's name.  Source: sheet os-image §9.1, §9.3.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row

from upkeep.api.arm.documents import Document, checked, field
from upkeep.api.arm.route import PAGE, ArmReply, ArmRequest, look, page_reply, resource_reply
from upkeep.api.arm.scale_sets import image_reference, provisioning
from upkeep.api.arm.scopes import find_set, set_id
from upkeep.api.arm.values import flag
from upkeep.api.machines import change_flags
from upkeep.api.problems import invalid, not_found
from upkeep.api.shapes import text_cursor
from upkeep.core.model import Health, Lifecycle
from upkeep.core.version import is_older, latest
from upkeep.store import machines
from upkeep.store.database import from_us
from upkeep.store.snapshot import read_versions

ALL = "*"

# Azure's levels and words for what a probe found.  Source: sheet §6.3.
_LEVEL = {
    Health.HEALTHY: ("Info", "Healthy"),
    Health.UNHEALTHY: ("Error", "Unhealthy"),
    Health.UNKNOWN: ("Warning", "Unknown"),
    Health.INITIALIZING: ("Info", "Initializing"),
}


def show_list(connection: Connection, request: ArmRequest) -> ArmReply:
    """All machines of a set, a page at a time; `$expand=instanceView` brings what is seen."""
    row = find_set(connection, request)
    rows, more = machines.read_list(
        connection,
        scope=request.actor.scope,
        group_id=row.id,
        after=text_cursor(request.query.get("$skiptoken")),
        limit=PAGE,
    )
    target = newest(connection, row)
    found = [_instance(request, row, machine, target) for machine in rows]
    return page_reply(request, found, after=rows[-1].name if more else None)


def show(connection: Connection, request: ArmRequest) -> ArmReply:
    row = find_set(connection, request)
    machine = find_instance(connection, request, row)
    return resource_reply(_instance(request, row, machine, newest(connection, row)))


def show_view(connection: Connection, request: ArmRequest) -> ArmReply:
    row = find_set(connection, request)
    return ArmReply(body=_view(find_instance(connection, request, row)))


async def change(request: ArmRequest) -> ArmReply:
    """Protection; all else of an instance is its set's."""
    flags = _protection(checked(request.body))

    def write() -> ArmReply:
        now = request.services.clock.now()
        with request.services.database.write() as connection:
            row = find_set(connection, request)
            machine = find_instance(connection, request, row)
            change_flags(connection, machine, flags, now=now)
        request.services.store.announce(row.id)
        return ArmReply()

    await asyncio.to_thread(write)
    return await look(request, show)


def find_instance(connection: Connection, request: ArmRequest, row: Row[Any]) -> Row[Any]:
    """The machine of an instance id.

    Raises:
        InputError: NOT_FOUND.
    """
    number = request.params["instance"]
    machine = None
    if number.isascii() and number.isdigit():
        machine = machines.find(connection, f"{row.name}-{number}", scope=request.actor.scope)
    if machine is None or machine.group_id != row.id:
        raise not_found(f"the scale set {row.name} has no instance {number[:40]!r}")
    return machine


def named_instances(connection: Connection, row: Row[Any], wanted: Sequence[str]) -> list[Row[Any]]:
    """The machines of these instance ids; of all with `*` or without any.

    Raises:
        InputError: NOT_FOUND, naming every instance that is not there.
    """
    there = {
        machine.name.removeprefix(f"{row.name}-"): machine
        for machine in machines.of_group(connection, row.id)
    }
    numbers = list(there) if not wanted or ALL in wanted else wanted
    missing = [number for number in numbers if number not in there]
    if missing:
        shown = ", ".join(repr(number[:20]) for number in missing[:5])
        raise not_found(f"the scale set {row.name} has no instance {shown}; nothing was done")
    return [there[number] for number in dict.fromkeys(numbers)]


def instance_ids(body: Any) -> list[str]:
    """A body's `instanceIds`; empty where they are left out."""
    if body is None:
        return []
    given = field(checked(body), "instanceIds")
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise invalid('instanceIds: a list of texts, as ["0", "2"]')
    return given


def newest(connection: Connection, row: Row[Any]) -> str:
    """The version that `latest` means for this set; empty while there is none."""
    return latest(read_versions(connection, row.image_name, row.region)) or ""


def _instance(request: ArmRequest, row: Row[Any], machine: Row[Any], target: str) -> dict[str, Any]:
    number = machine.name.rpartition("-")[2]
    properties: dict[str, Any] = {
        # An image that is behind is a model that is not applied: Azure's own answer forgets it.
        "latestModelApplied": not (target and is_older(machine.image, target))
        and machine.model in ("", row.model),
        "modelDefinitionApplied": "VirtualMachineScaleSet",
        "vmId": machine.uuid,
        "provisioningState": _provisioning(machine),
        "timeCreated": from_us(machine.created_at).isoformat(),
        "storageProfile": {"imageReference": image_reference(request, row, version=machine.image)},
        "protectionPolicy": {
            # The second implies the first.
            "protectFromScaleIn": bool(machine.protected or machine.scale_in_protected),
            "protectFromScaleSetActions": bool(machine.protected),
        },
    }
    if request.query.get("$expand", "").casefold() == "instanceview":
        properties["instanceView"] = _view(machine)
    document: dict[str, Any] = {
        "id": f"{set_id(request, row)}/virtualMachines/{number}",
        "name": machine.name,
        "instanceId": number,
        "type": "Microsoft.Compute/virtualMachineScaleSets/virtualMachines",
        "location": row.region,
        "properties": properties,
    }
    if machine.zone:
        document["zones"] = [machine.zone]
    return document


def _protection(body: Document) -> dict[str, bool | None]:
    """Ours of Azure's two; None: not said.  Source: sheet §4."""
    policy = field(body, "properties", "protectionPolicy")
    actions = _said(policy, "protectFromScaleSetActions")
    scale_in = _said(policy, "protectFromScaleIn")
    if actions and scale_in is False:
        raise invalid(
            "protectFromScaleSetActions implies protectFromScaleIn: set both, or leave the second"
            " out"
        )
    return {"protected": actions, "scale_in_protected": scale_in}


def _said(policy: Any, name: str) -> bool | None:
    return None if field(policy, name) is None else flag(policy, name)


def _provisioning(machine: Row[Any]) -> str:
    return "Updating" if machine.in_work else provisioning(machine.lifecycle)


def _view(machine: Row[Any]) -> dict[str, Any]:
    health = Health(machine.health)
    level, word = _LEVEL[health]
    is_on = machine.lifecycle == Lifecycle.PRESENT and not machine.powered_off
    power = "running" if is_on else "stopped"
    state = _provisioning(machine).lower()
    return {
        "platformUpdateDomain": machine.update_domain,
        "platformFaultDomain": machine.fault_domain,
        "computerName": machine.name,
        "statuses": [
            {
                "code": f"ProvisioningState/{state}",
                "level": "Info",
                "displayStatus": f"Provisioning {state}",
            },
            {"code": f"PowerState/{power}", "level": "Info", "displayStatus": f"VM {power}"},
        ],
        "vmHealth": {
            "status": {
                "code": f"HealthState/{health}",
                "level": level,
                "displayStatus": word,
                "message": machine.health_detail,
                "time": from_us(machine.health_since).isoformat(),
            }
        },
        "vmAgent": {
            "vmAgentVersion": machine.agent_agent_version or "Unknown",
            "statuses": [],
            "extensionHandlers": [],
        },
    }
