"""Scale sets: a group of machines that upkeep makes, as Azure writes it.

Source: sheet os-image §2.3 (policy), §9.1 (routes), §9.3 (views).
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Row

from upkeep.api.arm.route import PAGE, ArmReply, ArmRequest, page_reply
from upkeep.api.arm.scopes import COMPUTE, check_subscription, find_set, group_place, set_id
from upkeep.api.shapes import text_cursor
from upkeep.core.model import GroupKind, Lifecycle, RollingPolicy
from upkeep.store import groups
from upkeep.store.database import from_us
from upkeep.store.policies import policy_from_json

# What a machine's lifecycle is called while its provisioning has not succeeded.
_PROVISIONING = {Lifecycle.CREATING: "Creating", Lifecycle.DELETING: "Deleting"}


def show(connection: Connection, request: ArmRequest) -> ArmReply:
    row = find_set(connection, request)
    return ArmReply(body=scale_set(request, row, groups.counts(connection, [row.id])))


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
    sets = [scale_set(request, row, counted[row.id]) for row in wanted]
    return page_reply(request, sets, after=rows[-1].name if more else None)


def show_view(connection: Connection, request: ArmRequest) -> ArmReply:
    row = find_set(connection, request)
    return ArmReply(body=_view(groups.counts(connection, [row.id])))


def provisioning(lifecycle: str) -> str:
    """How far a machine is, as the last word of Azure's `ProvisioningState/…`, capitalised."""
    return _PROVISIONING.get(Lifecycle(lifecycle), "Succeeded")


def _is_wanted(request: ArmRequest, row: Row[Any]) -> bool:
    group, location = request.params.get("group"), request.params.get("location")
    return (
        row.kind == GroupKind.SCALE_SET
        and (group is None or row.scope.casefold() == group.casefold())
        and (location is None or row.region.casefold() == location.casefold())
    )


def scale_set(request: ArmRequest, row: Row[Any], counts: Sequence[Row[Any]]) -> dict[str, Any]:
    policy = policy_from_json(row.policy)
    zones = msgspec.json.decode(row.zones)
    document: dict[str, Any] = {
        "id": set_id(request, row),
        "name": row.name,
        "type": "Microsoft.Compute/virtualMachineScaleSets",
        "location": row.region,
        "sku": {"name": _size(row), "tier": "Standard", "capacity": row.capacity},
        "properties": {
            "provisioningState": _provisioning(row, counts),
            "uniqueId": row.id,
            "timeCreated": from_us(row.created_at).isoformat(),
            "orchestrationMode": "Uniform",
            "singlePlacementGroup": False,
            "overprovision": False,
            "platformFaultDomainCount": row.fault_domains,
            "upgradePolicy": {
                # A changed model reaches a machine when its OS disk is replaced next.
                "mode": "Manual",
                "rollingUpgradePolicy": rolling_policy(policy),
                "automaticOSUpgradePolicy": {
                    "enableAutomaticOSUpgrade": bool(row.auto_upgrade),
                    "disableAutomaticRollback": not policy.auto_rollback,
                    "useRollingUpgradePolicy": True,
                },
            },
            "virtualMachineProfile": {
                "storageProfile": {"imageReference": image_reference(request, row)},
                "extensionProfile": {"extensions": _health_extension(row)},
            },
        },
    }
    if zones:
        document["zones"] = zones
    return document


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


def duration(length: timedelta) -> str:
    """ISO 8601 as Azure writes it: PT0S, PT1H30M.  Whole seconds; hours may exceed a day."""
    hours, rest = divmod(int(length.total_seconds()), 3_600)
    minutes, seconds = divmod(rest, 60)
    text = f"{hours}H" * bool(hours) + f"{minutes}M" * bool(minutes) + f"{seconds}S" * bool(seconds)
    return "PT" + (text or "0S")


def image_reference(request: ArmRequest, row: Row[Any], version: str = "") -> dict[str, str]:
    """The image definition that the group follows; with a version, what a machine runs of it."""
    place = f"{group_place(request, row)}/{COMPUTE}/galleries/upkeep"
    reference = {"id": f"{place}/images/{row.image_name}"}
    if version:
        reference["exactVersion"] = version
    return reference


def _size(row: Row[Any]) -> str:
    """Azure has a name for each size; ours says what it is."""
    return f"Upkeep_{row.cpus}cpu_{row.memory_mib}mib"


def _provisioning(row: Row[Any], counts: Sequence[Row[Any]]) -> str:
    if row.delete_requested_at is not None:
        return "Deleting"
    there = sum(count.machines for count in counts if count.lifecycle != Lifecycle.DELETING)
    is_making = any(count.lifecycle == Lifecycle.CREATING for count in counts)
    return "Updating" if is_making or there != row.capacity else "Succeeded"


def _health_extension(row: Row[Any]) -> list[dict[str, Any]]:
    """The health source as the extension that Azure would have for it.  Source: sheet §6.1."""
    probe = msgspec.json.decode(row.probe)
    if not probe:
        return []
    settings: dict[str, Any] = {"protocol": probe["protocol"], "port": probe.get("port")}
    if "path" in probe:
        settings["requestPath"] = probe["path"]
    for theirs, ours in (("intervalInSeconds", "interval_s"), ("gracePeriod", "grace_period_s"),
                         ("numberOfProbes", "number_of_probes")):  # fmt: skip
        if ours in probe:
            settings[theirs] = probe[ours]
    return [
        {
            "name": "HealthExtension",
            "properties": {
                "publisher": "Microsoft.ManagedServices",
                "type": "ApplicationHealthLinux",
                "typeHandlerVersion": "2.0" if probe.get("rich") else "1.0",
                "autoUpgradeMinorVersion": True,
                "settings": settings,
            },
        }
    ]


def _view(counts: Sequence[Row[Any]]) -> dict[str, Any]:
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
        "orchestrationServices": [],
    }
