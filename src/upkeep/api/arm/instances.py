"""Instances of a scale set: machines, as Azure writes them.

An instance id is the number at the end of a machine's name.  Source: sheet os-image §9.1, §9.3.
"""

import asyncio
from typing import Any

from sqlalchemy import Connection, Row

from upkeep.api.arm.route import ArmReply, ArmRequest
from upkeep.api.arm.scale_sets import HEALTH, PAGE, image_reference, next_link
from upkeep.api.arm.scopes import check_subscription, find_set, set_id
from upkeep.api.problems import not_found
from upkeep.api.shapes import text_cursor
from upkeep.core.model import Health, Lifecycle
from upkeep.core.version import ImageVersion, ReplicationState, is_older, latest
from upkeep.store import images, machines
from upkeep.store.database import from_us

# Azure's levels and words for what a probe found.  Source: sheet §6.3.
_LEVEL = {
    Health.HEALTHY: ("Info", "Healthy"),
    Health.UNHEALTHY: ("Error", "Unhealthy"),
    Health.UNKNOWN: ("Warning", "Unknown"),
    Health.INITIALIZING: ("Info", "Initializing"),
}


async def show_list(request: ArmRequest) -> ArmReply:
    """All machines of a set, a page at a time; `$expand=instanceView` brings what is seen."""

    def read() -> dict[str, Any]:
        with request.services.database.read() as connection:
            found = check_subscription(connection, request)
            row = find_set(connection, request)
            rows, more = machines.read_list(
                connection,
                scope=request.actor.scope,
                group_id=row.id,
                after=text_cursor(request.query.get("$skiptoken")),
                limit=PAGE,
            )
            target = newest(connection, row)
            expand = request.query.get("$expand", "").casefold() == "instanceview"
            body: dict[str, Any] = {
                "value": [
                    _instance(found.subscription, row, machine, target, expand=expand)
                    for machine in rows
                ]
            }
        if more:
            body["nextLink"] = next_link(request, rows[-1].name)
        return body

    return ArmReply(body=await asyncio.to_thread(read))


async def show(request: ArmRequest) -> ArmReply:
    def read() -> dict[str, Any]:
        with request.services.database.read() as connection:
            found = check_subscription(connection, request)
            row = find_set(connection, request)
            machine = find_instance(connection, request, row)
            expand = request.query.get("$expand", "").casefold() == "instanceview"
            target = newest(connection, row)
            return _instance(found.subscription, row, machine, target, expand=expand)

    return ArmReply(body=await asyncio.to_thread(read))


async def show_view(request: ArmRequest) -> ArmReply:
    def read() -> dict[str, Any]:
        with request.services.database.read() as connection:
            row = find_set(connection, request)
            return _view(find_instance(connection, request, row))

    return ArmReply(body=await asyncio.to_thread(read))


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


def newest(connection: Connection, row: Row[Any]) -> str:
    """The version that `latest` means for this set; empty while there is none."""
    names = [row.image_name]
    states = {
        (replica.version, replica.region): ReplicationState(replica.state)
        for replica in images.replicas(connection, names)
    }
    entries = [
        ImageVersion(
            version=entry.version,
            excluded=bool(entry.excluded),
            replication=states.get((entry.version, row.region), ReplicationState.UNKNOWN),
        )
        for entry in images.versions(connection, names)
    ]
    return latest(entries) or ""


def _instance(
    subscription: str, row: Row[Any], machine: Row[Any], target: str, *, expand: bool
) -> dict[str, Any]:
    number = machine.name.rpartition("-")[2]
    properties: dict[str, Any] = {
        # An image that is behind is a model that is not applied: Azure's own answer forgets it.
        "latestModelApplied": not (target and is_older(machine.image, target)),
        "modelDefinitionApplied": "VirtualMachineScaleSet",
        "vmId": machine.uuid,
        "provisioningState": _provisioning(machine),
        "timeCreated": from_us(machine.created_at).isoformat(),
        "storageProfile": {
            "imageReference": image_reference(subscription, row, version=machine.image)
        },
        "protectionPolicy": {
            "protectFromScaleIn": bool(machine.protected),
            "protectFromScaleSetActions": bool(machine.protected),
        },
    }
    if expand:
        properties["instanceView"] = _view(machine)
    document: dict[str, Any] = {
        "id": f"{set_id(subscription, row)}/virtualMachines/{number}",
        "name": machine.name,
        "instanceId": number,
        "type": "Microsoft.Compute/virtualMachineScaleSets/virtualMachines",
        "location": row.region,
        "properties": properties,
    }
    if machine.zone:
        document["zones"] = [machine.zone]
    return document


def _provisioning(machine: Row[Any]) -> str:
    if machine.in_work:
        return "Updating"
    match Lifecycle(machine.lifecycle):
        case Lifecycle.CREATING:
            return "Creating"
        case Lifecycle.DELETING:
            return "Deleting"
        case _:
            return "Succeeded"


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
                "code": f"HealthState/{HEALTH[health]}",
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
