"""Scale sets: a group of machines that upkeep makes, as Azure writes it.

What is shown is the document that a client wrote (`store/arm_documents.py`) under what the columns
say; a set that the native API made has no document and reads as well.
Source: sheet os-image §2.3 (policy), §9.1 (routes), §9.3 (views).
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Row

from upkeep.api.arm import extensions
from upkeep.api.arm.documents import Document, field, merged
from upkeep.api.arm.route import PAGE, ArmReply, ArmRequest, page_reply, resource_reply
from upkeep.api.arm.scopes import (
    COMPUTE,
    GALLERY,
    check_subscription,
    find_set,
    group_place,
    set_id,
)
from upkeep.api.arm.set_model import NOTICE, hooks_of, is_size_of_ours
from upkeep.api.arm.values import duration
from upkeep.api.shapes import text_cursor
from upkeep.core.model import GroupKind, Lifecycle, RepairAction
from upkeep.core.policy import RollingPolicy
from upkeep.store import arm_documents, groups
from upkeep.store.database import from_us, from_us_or_none
from upkeep.store.policies import policy_from_json

# What a set says where its client has said nothing.
_DEFAULTS: Document = {
    "sku": {"tier": "Standard"},
    "properties": {
        "orchestrationMode": "Uniform",
        "singlePlacementGroup": False,
        "overprovision": False,
    },
}

# What a machine's lifecycle is called while its provisioning has not succeeded.
_PROVISIONING = {Lifecycle.CREATING: "Creating", Lifecycle.DELETING: "Deleting"}


def show(connection: Connection, request: ArmRequest) -> ArmReply:
    row = find_set(connection, request)
    return resource_reply(show_one(connection, request, row))


def show_list(connection: Connection, request: ArmRequest) -> ArmReply:
    """All of the subscription, of a resource group, or of a location; a page at a time."""
    check_subscription(connection, request)
    rows, more = groups.read_list(
        connection,
        scope=request.actor.scope,
        after=text_cursor(request.query.get("$skiptoken")),
        limit=PAGE,
    )
    wanted = [row for row in rows if _is_wanted(request, row)]
    counted: dict[str, list[Row[Any]]] = {row.id: [] for row in wanted}
    for count in groups.counts(connection, list(counted)):
        counted[count.group_id].append(count)
    kept = arm_documents.read(connection, list(counted))
    sets = [scale_set(request, row, counted[row.id], kept.get(row.id, {})) for row in wanted]
    return page_reply(request, sets, after=rows[-1].name if more else None)


def show_view(connection: Connection, request: ArmRequest) -> ArmReply:
    row = find_set(connection, request)
    return ArmReply(body=_view(row, groups.counts(connection, [row.id])))


def provisioning(lifecycle: str) -> str:
    """How far a machine is, as the last word of Azure's `ProvisioningState/…`, capitalised."""
    return _PROVISIONING.get(Lifecycle(lifecycle), "Succeeded")


def _is_wanted(request: ArmRequest, row: Row[Any]) -> bool:
    group, location = request.params.get("group"), request.params.get("location")
    return (
        row.kind == GroupKind.SCALE_SET
        and (group is None or row.scope.casefold() == group.casefold())
        and (location is None or is_same_location(row.region, location))
    )


def is_same_location(one: str, other: str) -> bool:
    """Azure writes `West Europe` and `westeurope` for one place."""
    return one.replace(" ", "").casefold() == other.replace(" ", "").casefold()


def show_one(connection: Connection, request: ArmRequest, row: Row[Any]) -> Document:
    kept = arm_documents.find(connection, row.id)
    return scale_set(request, row, groups.counts(connection, [row.id]), kept)


def scale_set(
    request: ArmRequest, row: Row[Any], counts: Sequence[Row[Any]], kept: Document
) -> Document:
    policy = policy_from_json(row.policy)
    profile: Document = {
        "extensionProfile": {
            "extensions": extensions.shown(
                field(
                    kept, "properties", "virtualMachineProfile", "extensionProfile", "extensions"
                ),
                msgspec.json.decode(row.probe),
                msgspec.json.decode(row.scripts),
            )
        },
    }
    if row.image_name:
        profile["storageProfile"] = {"imageReference": image_reference(request, row)}
    if policy.notice == NOTICE:
        notice = {"enable": True, "notBeforeTimeout": duration(NOTICE)}
        profile["scheduledEventsProfile"] = {"osImageNotificationProfile": notice}
    live: Document = {
        "id": set_id(request, row),
        "name": row.name,
        "type": "Microsoft.Compute/virtualMachineScaleSets",
        "location": row.region,
        "sku": {"capacity": row.capacity},
        "properties": {
            "provisioningState": _provisioning(row, counts),
            "uniqueId": row.id,
            "timeCreated": from_us(row.created_at).isoformat(),
            "platformFaultDomainCount": row.fault_domains,
            "upgradePolicy": {
                "mode": row.upgrade_mode.capitalize(),
                "rollingUpgradePolicy": rolling_policy(policy),
                "automaticOSUpgradePolicy": {
                    "enableAutomaticOSUpgrade": bool(row.auto_upgrade),
                    "disableAutomaticRollback": not policy.auto_rollback,
                    "useRollingUpgradePolicy": policy.governs_automatic,
                    "osRollingUpgradeDeferral": policy.needs_approval,
                },
            },
            "virtualMachineProfile": profile,
            "lifecycleHooksProfile": {"lifecycleHooks": hooks_of(policy)},
            "automaticRepairsPolicy": _repairs_policy(row, kept),
        },
    }
    if zones := msgspec.json.decode(row.zones):
        live["zones"] = zones
    size = field(kept, "sku", "name")
    if size is None or is_size_of_ours(size):
        live["sku"]["name"] = f"Upkeep_{row.cpus}cpu_{row.memory_mib}mib"
    return merged(merged(_DEFAULTS, kept), live)


def _repairs_policy(row: Row[Any], kept: Document) -> Document:
    """Switched off it keeps the action that its client wrote."""
    written = field(kept, "properties", "automaticRepairsPolicy", "repairAction")
    action = row.repair_action.capitalize() or written or RepairAction.REPLACE.capitalize()
    return {
        "enabled": bool(row.repair_action),
        "gracePeriod": duration(timedelta(seconds=row.repair_grace_s)),
        "repairAction": action,
    }


def rolling_policy(policy: RollingPolicy) -> dict[str, Any]:
    """The eight fields of sheet os-image §2.3."""
    return {
        "maxBatchInstancePercent": policy.max_batch_percent,
        "maxUnhealthyInstancePercent": policy.max_unhealthy_percent,
        "maxUnhealthyUpgradedInstancePercent": policy.max_unhealthy_upgraded_percent,
        "pauseTimeBetweenBatches": duration(policy.pause_between_batches),
        "enableCrossZoneUpgrade": policy.cross_zone,
        "prioritizeUnhealthyInstances": policy.prioritize_unhealthy,
        "rollbackFailedInstancesOnPolicyBreach": policy.rollback_on_breach,
        "maxSurge": policy.max_surge,
    }


def image_reference(request: ArmRequest, row: Row[Any], version: str = "") -> dict[str, str]:
    """The image definition that the group follows; with a version, what a machine runs of it."""
    place = f"{group_place(request, row)}/{COMPUTE}/galleries/{GALLERY}"
    reference = {"id": f"{place}/images/{row.image_name}"}
    if version:
        reference["exactVersion"] = version
    return reference


def is_settled(row: Row[Any], counts: Sequence[Row[Any]]) -> bool:
    """Whether a group has as many machines as it should have, and none is being made."""
    there = sum(count.machines for count in counts if count.lifecycle != Lifecycle.DELETING)
    is_making = any(count.lifecycle == Lifecycle.CREATING for count in counts)
    return there == row.capacity and not is_making


def _provisioning(row: Row[Any], counts: Sequence[Row[Any]]) -> str:
    if row.delete_requested_at is not None:
        return "Deleting"
    return "Succeeded" if is_settled(row, counts) else "Updating"


def _view(row: Row[Any], counts: Sequence[Row[Any]]) -> dict[str, Any]:
    states: dict[str, int] = {}
    for count in counts:
        state = provisioning(count.lifecycle).lower()
        for code in (f"ProvisioningState/{state}", f"HealthState/{count.health}"):
            states[code] = states.get(code, 0) + count.machines
    return {
        "virtualMachine": {
            "statusesSummary": [
                {"code": code, "count": number} for code, number in sorted(states.items())
            ]
        },
        "statuses": [
            {
                "code": "ProvisioningState/succeeded",
                "level": "Info",
                "displayStatus": "Provisioning succeeded",
            }
        ],
        "orchestrationServices": [_repairs_service(row)],
    }


def _repairs_service(row: Row[Any]) -> Document:
    """Source: sheet §7 (view)."""
    suspended = from_us_or_none(row.repairs_suspended_at)
    changed = suspended or from_us_or_none(row.repairs_resumed_at) or from_us(row.created_at)
    state = "Running" if suspended is None else "Suspended"
    return {
        "serviceName": "AutomaticRepairs",
        "serviceState": state if row.repair_action else "NotRunning",
        "lastStatusChangeTime": changed.isoformat(),
    }
