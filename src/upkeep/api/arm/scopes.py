"""Subscriptions and resource groups: where a scope of ours is in Azure's paths.

A scope is a resource group; all of them are in the server's one subscription.  Names are compared
without case, as Azure does, and answered as they were given to us.
"""

import re
from typing import Any

from sqlalchemy import Connection, Row, select

from upkeep.api.arm.route import ArmReply, ArmRequest
from upkeep.api.auth import Actor
from upkeep.api.problems import not_found
from upkeep.api.shapes import is_name
from upkeep.core.model import GroupKind
from upkeep.store import groups, subscriptions
from upkeep.store import tables as t
from upkeep.store.subscriptions import Directory

COMPUTE = "providers/Microsoft.Compute"
# The catalogue, which is one for all of the server.
GALLERY = "upkeep"
_IMAGE_ID = re.compile(
    rf"/subscriptions/[^/]+/resourcegroups/[^/]+/{COMPUTE}/galleries/{GALLERY}/images/([^/]+)"
    r"(?:/versions/([^/]+))?",
    re.IGNORECASE,
)
SETS = f"{COMPUTE}/virtualMachineScaleSets"


def check_subscription(connection: Connection, request: ArmRequest) -> Directory:
    """The server's own ids, if the path names its subscription.

    Raises:
        InputError: NOT_FOUND.
    """
    found = subscriptions.find(connection)
    wanted = request.params["subscription"]
    if found.subscription != wanted.lower():
        raise not_found(
            f"there is no subscription {wanted[:60]!r} here; GET /subscriptions names the one"
        )
    return found


def seek_set(connection: Connection, request: ArmRequest) -> Row[Any] | None:
    """The group of a path that names a scale set; None also if it is out of the token's scope."""
    name, scope = request.params["set"], request.params["group"]
    row = None
    if is_name(name.lower()):
        row = groups.find(connection, name.lower(), scope=request.actor.scope)
    if row is None or row.kind != GroupKind.SCALE_SET or row.scope.casefold() != scope.casefold():
        return None
    return row


def find_set(connection: Connection, request: ArmRequest) -> Row[Any]:
    """The group of a path that names a scale set.

    Raises:
        InputError: NOT_FOUND, also where it is outside of the token's scope.
    """
    check_subscription(connection, request)
    row = seek_set(connection, request)
    if row is None:
        name, scope = request.params["set"], request.params["group"]
        raise not_found(f"there is no scale set {name[:80]!r} in resource group {scope[:80]!r}")
    return row


def scopes_in_use(connection: Connection, actor: Actor) -> list[str]:
    """Scopes that a group is in, of those that the token may see."""
    scope = t.groups.c.scope
    query = select(scope).where(groups.in_scope(actor.scope), t.groups.c.deleted_at.is_(None))
    return list(connection.execute(query.distinct().order_by(scope)).scalars())


def group_place(request: ArmRequest, row: Row[Any]) -> str:
    """The resource group of a set that `find_set` or a list of the subscription has answered."""
    return f"/subscriptions/{request.params['subscription'].lower()}/resourceGroups/{row.scope}"


def set_id(request: ArmRequest, row: Row[Any]) -> str:
    return f"{group_place(request, row)}/{SETS}/{row.name}"


def image_of_id(place: Any) -> tuple[str, str | None] | None:
    """An image and, where the id has one, its version; None: it is no id of the gallery's."""
    match = _IMAGE_ID.fullmatch(place) if isinstance(place, str) else None
    return (match[1].lower(), match[2]) if match is not None else None


def may_see_group(request: ArmRequest) -> bool:
    """Whether the token holds in the path's resource group."""
    scope = request.actor.scope
    return not scope or scope.casefold() == request.params["group"].casefold()


def list_subscriptions(connection: Connection, request: ArmRequest) -> ArmReply:
    return ArmReply(body={"value": [_subscription(subscriptions.find(connection))]})


def show_subscription(connection: Connection, request: ArmRequest) -> ArmReply:
    return ArmReply(body=_subscription(check_subscription(connection, request)))


def list_tenants(connection: Connection, request: ArmRequest) -> ArmReply:
    tenant = subscriptions.find(connection).tenant
    return ArmReply(
        body={"value": [{"id": f"/tenants/{tenant}", "tenantId": tenant, "displayName": "upkeep"}]}
    )


def _subscription(found: Directory) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{found.subscription}",
        "subscriptionId": found.subscription,
        "tenantId": found.tenant,
        "displayName": "upkeep",
        "state": "Enabled",
        "subscriptionPolicies": {},
        "authorizationSource": "RoleBased",
    }
