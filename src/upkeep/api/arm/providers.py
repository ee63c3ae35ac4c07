"""Resource providers: the kinds of things that are here, for clients that ask before they act."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from upkeep.api.arm.route import ArmReply, ArmRequest
from upkeep.api.arm.scopes import check_subscription
from upkeep.api.problems import not_found
from upkeep.store import groups

_TYPES: Mapping[str, Sequence[str]] = {
    "Microsoft.Compute": (
        "virtualMachineScaleSets",
        "virtualMachineScaleSets/virtualMachines",
        "galleries",
        "galleries/images",
        "galleries/images/versions",
        "locations/operations",
    ),
    "Microsoft.Maintenance": ("maintenanceConfigurations", "configurationAssignments"),
    "Microsoft.Resources": ("subscriptions", "resourceGroups", "tenants"),
}
# Any other is taken as well; clients choose the newest of these.
_VERSIONS = ("2026-04-01", "2024-07-01", "2021-07-01", "2018-10-01")


def show_list(connection: Connection, request: ArmRequest) -> ArmReply:
    check_subscription(connection, request)
    return ArmReply(body={"value": [_provider(connection, request, name) for name in _TYPES]})


def show(connection: Connection, request: ArmRequest) -> ArmReply:
    """Also the answer to who registers one: all of them always are."""
    check_subscription(connection, request)
    wanted = request.params["provider"]
    for name in _TYPES:
        if name.casefold() == wanted.casefold():
            return ArmReply(body=_provider(connection, request, name))
    raise not_found(f"there is no provider {wanted[:80]!r} here; it has {', '.join(_TYPES)}")


def _provider(connection: Connection, request: ArmRequest, name: str) -> dict[str, Any]:
    regions = sorted(groups.regions(connection) | {"local"})
    return {
        "id": f"/subscriptions/{request.params['subscription'].lower()}/providers/{name}",
        "namespace": name,
        "registrationState": "Registered",
        "registrationPolicy": "RegistrationFree",
        "resourceTypes": [
            {"resourceType": kind, "locations": regions, "apiVersions": list(_VERSIONS)}
            for kind in _TYPES[name]
        ],
    }
