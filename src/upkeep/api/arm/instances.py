"""Instances of a scale set: machines, as Azure writes them.

An instance id is the number at the end of a machine's name.  Source: sheet os-image §9.1, §9.3.
"""

from typing import Any

from sqlalchemy import Connection, Row

from upkeep.api.arm.route import PAGE, ArmReply, ArmRequest, page_reply
from upkeep.api.arm.scale_sets import image_reference, provisioning
from upkeep.api.arm.scopes import find_set, set_id
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
    return ArmReply(body=_instance(request, row, machine, newest(connection, row)))


def show_view(connection: Connection, request: ArmRequest) -> ArmReply:
    row = find_set(connection, request)
    return ArmReply(body=_view(find_instance(connection, request, row)))


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


def _instance(request: ArmRequest, row: Row[Any], machine: Row[Any], target: str) -> dict[str, Any]:
    number = machine.name.rpartition("-")[2]
    properties: dict[str, Any] = {
        # An image that is behind is a model that is not applied: Azure's own answer forgets it.
        "latestModelApplied": not (target and is_older(machine.image, target)),
        "modelDefinitionApplied": "VirtualMachineScaleSet",
        "vmId": machine.uuid,
        "provisioningState": _provisioning(machine),
        "timeCreated": from_us(machine.created_at).isoformat(),
        "storageProfile": {"imageReference": image_reference(request, row, version=machine.image)},
        "protectionPolicy": {
            "protectFromScaleIn": bool(machine.protected),
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
