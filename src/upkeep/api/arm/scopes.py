"""Subscriptions and resource groups: where a scope of ours is in Azure's paths.

A scope is a resource group; all of them are in the server's one subscription.  Names are compared
without case, as Azure does, and answered as they were given to us.
"""

import asyncio
from typing import Any

from sqlalchemy import Connection, Row, select

from upkeep.api.arm.route import ArmReply, ArmRequest
from upkeep.api.auth import Actor
from upkeep.api.problems import InputError, not_found
from upkeep.api.shapes import is_name
from upkeep.core.model import GroupKind
from upkeep.store import groups, subscriptions
from upkeep.store import tables as t
from upkeep.store.subscriptions import Directory

COMPUTE = "providers/Microsoft.Compute"
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


def find_set(connection: Connection, request: ArmRequest) -> Row[Any]:
    """The group of a path that names a scale set.

    Raises:
        InputError: NOT_FOUND, also where it is outside of the token's scope.
    """
    check_subscription(connection, request)
    name, scope = request.params["set"], request.params["group"]
    row = None
    if is_name(name.lower()):
        row = groups.find(connection, name.lower(), scope=request.actor.scope)
    if row is None or row.kind != GroupKind.SCALE_SET or row.scope.casefold() != scope.casefold():
        raise not_set(name, scope)
    return row


def not_set(name: str, scope: str) -> InputError:
    return not_found(f"there is no scale set {name[:80]!r} in resource group {scope[:80]!r}")


def set_id(subscription: str, row: Row[Any]) -> str:
    return f"/subscriptions/{subscription}/resourceGroups/{row.scope}/{SETS}/{row.name}"


async def list_subscriptions(request: ArmRequest) -> ArmReply:
    found = await asyncio.to_thread(_directory, request)
    return ArmReply(body={"value": [_subscription(found)]})


async def show_subscription(request: ArmRequest) -> ArmReply:
    def read() -> Directory:
        with request.services.database.read() as connection:
            return check_subscription(connection, request)

    return ArmReply(body=_subscription(await asyncio.to_thread(read)))


async def list_tenants(request: ArmRequest) -> ArmReply:
    tenant = (await asyncio.to_thread(_directory, request)).tenant
    return ArmReply(
        body={"value": [{"id": f"/tenants/{tenant}", "tenantId": tenant, "displayName": "upkeep"}]}
    )


async def list_resource_groups(request: ArmRequest) -> ArmReply:
    def read() -> list[dict[str, Any]]:
        with request.services.database.read() as connection:
            found = check_subscription(connection, request)
            return [_group(found, scope) for scope in _scopes(connection, request.actor)]

    return ArmReply(body={"value": await asyncio.to_thread(read)})


async def show_resource_group(request: ArmRequest) -> ArmReply:
    def read() -> dict[str, Any]:
        wanted = request.params["group"]
        with request.services.database.read() as connection:
            found = check_subscription(connection, request)
            for scope in _scopes(connection, request.actor):
                if scope.casefold() == wanted.casefold():
                    return _group(found, scope)
        raise not_found(f"there is no resource group {wanted[:80]!r}: no group has such a scope")

    return ArmReply(body=await asyncio.to_thread(read))


def _directory(request: ArmRequest) -> Directory:
    with request.services.database.read() as connection:
        return subscriptions.find(connection)


def _scopes(connection: Connection, actor: Actor) -> list[str]:
    scope = t.groups.c.scope
    query = select(scope).where(groups.in_scope(actor.scope), t.groups.c.deleted_at.is_(None))
    return list(connection.execute(query.distinct().order_by(scope)).scalars())


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


def _group(found: Directory, scope: str) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{found.subscription}/resourceGroups/{scope}",
        "name": scope,
        "type": "Microsoft.Resources/resourceGroups",
        "location": "local",
        "properties": {"provisioningState": "Succeeded"},
    }
