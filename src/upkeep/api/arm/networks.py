"""Networks: the one that hypervisors give their machines, to be looked at.

`az vmss create` looks for a subnet before it makes a set, and would make one if there were none.
"""

from typing import Any

from sqlalchemy import Connection

from upkeep.api.arm.route import ArmReply, ArmRequest
from upkeep.api.arm.scopes import check_subscription
from upkeep.api.problems import not_found

NETWORK, SUBNET = "upkeep", "machines"


def show_list(connection: Connection, request: ArmRequest) -> ArmReply:
    check_subscription(connection, request)
    found = [_network(request)] if request.services.network else []
    return ArmReply(body={"value": found})


def show(connection: Connection, request: ArmRequest) -> ArmReply:
    _check(connection, request)
    return ArmReply(body=_network(request))


def show_subnet(connection: Connection, request: ArmRequest) -> ArmReply:
    _check(connection, request)
    name = request.params["subnet"]
    if name.casefold() != SUBNET:
        raise not_found(f"there is no subnet {name[:60]!r}; there is {SUBNET!r}")
    return ArmReply(body=_subnet(request))


def _check(connection: Connection, request: ArmRequest) -> None:
    check_subscription(connection, request)
    name = request.params["network"]
    if not request.services.network or name.casefold() != NETWORK:
        raise not_found(f"there is no network {name[:60]!r}")


def _id(request: ArmRequest) -> str:
    subscription, group = request.params["subscription"].lower(), request.params["group"]
    place = f"/subscriptions/{subscription}/resourceGroups/{group}"
    return f"{place}/providers/Microsoft.Network/virtualNetworks/{NETWORK}"


def _network(request: ArmRequest) -> dict[str, Any]:
    return {
        "id": _id(request),
        "name": NETWORK,
        "type": "Microsoft.Network/virtualNetworks",
        "location": "local",
        "properties": {
            "addressSpace": {"addressPrefixes": [request.services.network]},
            "subnets": [_subnet(request)],
            "provisioningState": "Succeeded",
        },
    }


def _subnet(request: ArmRequest) -> dict[str, Any]:
    return {
        "id": f"{_id(request)}/subnets/{SUBNET}",
        "name": SUBNET,
        "type": "Microsoft.Network/virtualNetworks/subnets",
        "properties": {
            "addressPrefix": request.services.network,
            "provisioningState": "Succeeded",
        },
    }
