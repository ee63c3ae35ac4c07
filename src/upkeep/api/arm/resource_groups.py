"""Resource groups: a scope of ours, which is there once something is in it or somebody made it."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from upkeep.api.arm.documents import Document, checked, merged, without_secrets
from upkeep.api.arm.route import ArmReply, ArmRequest, Changed
from upkeep.api.arm.scopes import check_subscription, may_see_group, scopes_in_use
from upkeep.api.problems import InputError, ProblemKind, conflict, invalid, not_found
from upkeep.api.shapes import is_label
from upkeep.store import arm_documents
from upkeep.store.subscriptions import Directory

# Keys of their documents; a scale set's is its group's id, which never begins so.
_PREFIX = "resource_group "


def show_list(connection: Connection, request: ArmRequest) -> ArmReply:
    found = check_subscription(connection, request)
    there = _there(connection, request)
    return ArmReply(body={"value": [_shown(found, name, there[name]) for name in sorted(there)]})


def show(connection: Connection, request: ArmRequest) -> ArmReply:
    found = check_subscription(connection, request)
    name, document = _find(connection, request)
    return ArmReply(body=_shown(found, name, document))


def exists(connection: Connection, request: ArmRequest) -> ArmReply:
    """204 or 404, without a body: what `az group exists` asks."""
    check_subscription(connection, request)
    _find(connection, request)
    return ArmReply(status=204)


def put(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """Location and tags; a group that is there already is changed."""
    body = checked(request.body)
    found = check_subscription(connection, request)
    if not may_see_group(request):
        raise InputError(
            ProblemKind.FORBIDDEN,
            f"the token is narrowed to the resource group {request.actor.scope!r}",
        )
    wanted = request.params["group"]
    there = _there(connection, request)
    name = next((each for each in there if each.casefold() == wanted.casefold()), None)
    if name is None and not is_label(wanted):
        raise invalid(f"a resource group cannot be called {wanted[:100]!r}")
    document = without_secrets(merged(there.get(name or "", {}), body))
    document["name"] = name or wanted
    arm_documents.write(connection, _PREFIX + wanted.casefold(), document)
    shown = _shown(found, name or wanted, document)
    return [], ArmReply(status=200 if name else 201, body=shown)


def delete(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """An empty one.  Machines are never deleted by the name of their folder alone."""
    check_subscription(connection, request)
    name, _ = _find(connection, request)
    if name in scopes_in_use(connection, request.actor):
        raise conflict(f"there are groups of machines in {name!r}: delete them first")
    arm_documents.remove(connection, _PREFIX + name.casefold())
    return [], ArmReply()


def scope_of(connection: Connection, request: ArmRequest) -> str:
    """The scope that the path's resource group is, in the spelling that it already has."""
    wanted = request.params["group"]
    known = [*_there(connection, request), request.actor.scope]
    return next((name for name in known if name.casefold() == wanted.casefold()), wanted)


def _find(connection: Connection, request: ArmRequest) -> tuple[str, Document]:
    wanted = request.params["group"]
    for name, document in _there(connection, request).items():
        if name.casefold() == wanted.casefold():
            return name, document
    raise not_found(f"there is no resource group {wanted[:80]!r}; PUT makes one")


def _there(connection: Connection, request: ArmRequest) -> dict[str, Document]:
    """Those that the token may see, by name, with what was written of them."""
    written = arm_documents.read_prefixed(connection, _PREFIX)
    scope = request.actor.scope
    found: dict[str, Document] = {}
    for name in scopes_in_use(connection, request.actor):
        found[name] = written.pop(_PREFIX + name.casefold(), {})
    for document in written.values():
        if not scope or scope == document["name"]:
            found.setdefault(document["name"], document)
    return found


def _shown(found: Directory, name: str, document: Document) -> Document:
    live: dict[str, Any] = {
        "id": f"/subscriptions/{found.subscription}/resourceGroups/{name}",
        "name": name,
        "type": "Microsoft.Resources/resourceGroups",
        "properties": {"provisioningState": "Succeeded"},
    }
    return merged(merged({"location": "local"}, document), live)
