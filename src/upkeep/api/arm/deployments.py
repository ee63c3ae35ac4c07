"""Deployments: templates of scale sets, as `az vmss create` sends them.

Of resources it knows scale sets; of the template language values, `[parameters('x')]` and
`[variables('x')]`, and in outputs a reference to a scale set.  Anything else is refused by name.
The sets of one template are written in one transaction, or none is.  What is kept of a deployment
is which sets it made; parameters may be secrets.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from upkeep.api.arm import set_changes
from upkeep.api.arm.documents import Document, checked, field
from upkeep.api.arm.resource_groups import scope_of
from upkeep.api.arm.route import RETRY_AFTER_S, ArmReply, ArmRequest, Changed, link
from upkeep.api.arm.scale_sets import is_settled, show_one
from upkeep.api.arm.scopes import check_subscription, may_see_group
from upkeep.api.plain_http import BODY_BYTES_MAX
from upkeep.api.problems import bad_request, invalid, not_found
from upkeep.api.shapes import is_label
from upkeep.core.model import GroupKind
from upkeep.store import arm_documents, groups

SET_TYPE = "microsoft.compute/virtualmachinescalesets"
RESOURCES_MAX = 100
# A large value that is named often would make of one request more than the server's memory.
VALUES_BYTES_MAX = BODY_BYTES_MAX
# What a resource has in a template and nowhere else.
_OF_TEMPLATES = frozenset({"type", "name", "apiversion", "dependson", "comments"})

_EXPRESSION = re.compile(r"\[(parameters|variables)\('([^']+)'\)\]", re.IGNORECASE)
_REFERENCE = re.compile(
    r"\[reference\(resourceId\('Microsoft\.Compute/virtualMachineScaleSets', *'([^']+)'\).*\)\]",
    re.IGNORECASE,
)


def put(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """The template's sets, created or changed; done when each has its machines."""
    body = checked(request.body)
    name = request.params["deployment"]
    if not is_label(name):
        raise invalid(f"a deployment cannot be called {name[:100]!r}")
    resources, outputs = _evaluated(field(body, "properties"))
    check_subscription(connection, request)
    made = [_apply(connection, request, resource, now) for resource in resources]
    document = {
        "name": name,
        "group": scope_of(connection, request),
        "sets": made,
        "outputs": outputs,
        "timestamp": now.isoformat(),
    }
    arm_documents.write(connection, _key(request, name), document)
    where = f"{request.path.rstrip('/')}/operationStatuses/current"
    headers = {"Azure-AsyncOperation": link(request, where), "Retry-After": str(RETRY_AFTER_S)}
    shown = _shown(connection, request, document)
    return made, ArmReply(status=201, body=shown, headers=headers)


def show(connection: Connection, request: ArmRequest) -> ArmReply:
    return ArmReply(body=_shown(connection, request, _find(connection, request)))


def show_status(connection: Connection, request: ArmRequest) -> ArmReply:
    """What clients poll."""
    document = _find(connection, request)
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return ArmReply(body={"status": _state(connection, document)}, headers=headers)


def show_list(connection: Connection, request: ArmRequest) -> ArmReply:
    check_subscription(connection, request)
    found = arm_documents.read_prefixed(connection, _key(request, ""))
    value = [_shown(connection, request, each) for each in found.values()]
    return ArmReply(body={"value": value if may_see_group(request) else []})


# --- The template ---------------------------------------------------------------------------------


def _evaluated(properties: Any) -> tuple[list[Document], dict[str, str]]:
    """The resources with their values put in, and the set that each output is.

    Raises:
        InputError: it holds something else than sets and the few expressions that are known.
    """
    template = field(properties, "template")
    mode = field(properties, "mode")
    if not isinstance(template, dict):
        raise bad_request("properties.template: the template itself; links are not followed")
    if isinstance(mode, str) and mode.casefold() != "incremental":
        raise bad_request("properties.mode: Incremental; nothing is deleted by leaving it out")
    given = field(template, "resources")
    if not isinstance(given, list) or not given or len(given) > RESOURCES_MAX:
        raise bad_request(f"template.resources: a list of 1 to {RESOURCES_MAX}")
    values = _values(template, field(properties, "parameters"))
    resources = [_with_values(resource, values) for resource in given]
    for resource in resources:
        kind = str(field(resource, "type"))
        if kind.casefold() != SET_TYPE:
            raise bad_request(
                f"this server deploys Microsoft.Compute/virtualMachineScaleSets; the template has"
                f' {kind[:80]!r} (az vmss create: --lb "" --public-ip-address "")'
            )
    return resources, _outputs(template)


def _values(template: Document, parameters: Any) -> Callable[[str, str], Any]:
    """Finds a parameter's or a variable's value; all that it has found is bounded."""
    left = VALUES_BYTES_MAX

    def find(kind: str, name: str) -> Any:
        nonlocal left
        if kind.casefold() == "variables":
            found = field(template, "variables", name)
        else:
            found = field(parameters, name, "value")
            if found is None:
                found = field(template, "parameters", name, "defaultValue")
        if found is None:
            raise bad_request(f"the template needs {kind}('{name[:60]}'), which has no value")
        left -= len(msgspec.json.encode(found))
        if left < 0:
            raise bad_request(
                f"the template's values, put in wherever it names them, are over"
                f" {VALUES_BYTES_MAX} bytes"
            )
        return found

    return find


def _with_values(value: Any, find: Callable[[str, str], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _with_values(each, find) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_values(each, find) for each in value]
    if not _is_expression(value):
        return value
    match = _EXPRESSION.fullmatch(value)
    if match is None:
        raise bad_request(
            f"the template has {value[:100]!r}; this server knows parameters('x') and"
            " variables('x'), each alone"
        )
    found = find(match[1], match[2])
    if _is_expression(found):
        raise bad_request(f"{match[1]}('{match[2][:60]}') is an expression itself: give its value")
    return found


def _outputs(template: Document) -> dict[str, str]:
    outputs = field(template, "outputs")
    found: dict[str, str] = {}
    for name, output in outputs.items() if isinstance(outputs, dict) else ():
        value = field(output, "value")
        match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise bad_request(f"the template's output {name[:60]!r}: a reference to a scale set")
        found[name] = match[1].lower()
    return found


def _is_expression(value: Any) -> bool:
    return (
        isinstance(value, str)
        and value.startswith("[")
        and value.endswith("]")
        and not value.startswith("[[")
    )


# --- What came of it ------------------------------------------------------------------------------


def _apply(connection: Connection, request: ArmRequest, resource: Document, now: datetime) -> str:
    name = field(resource, "name")
    if not isinstance(name, str) or not name:
        raise bad_request("template.resources: each has a name")
    params = {**request.params, "set": name}
    model = {key: value for key, value in resource.items() if key.casefold() not in _OF_TEMPLATES}
    row, _ = set_changes.apply(connection, replace(request, params=params), model, now)
    return str(row.id)


def _key(request: ArmRequest, name: str) -> str:
    return f"deployment {request.params['group'].casefold()}/{name.casefold()}"


def _find(connection: Connection, request: ArmRequest) -> Document:
    check_subscription(connection, request)
    name = request.params["deployment"]
    document = arm_documents.find(connection, _key(request, name))
    if not document or not may_see_group(request):
        raise not_found(f"there is no deployment {name[:80]!r}")
    return document


def _state(connection: Connection, document: Mapping[str, Any]) -> str:
    """A set that is gone again holds nothing up."""
    sets = _sets(connection, document["sets"])
    settled = [is_settled(row, groups.counts(connection, [row.id])) for row in sets]
    return "Succeeded" if all(settled) else "Running"


def _sets(connection: Connection, ids: Sequence[str]) -> list[Any]:
    found = (groups.find(connection, group) for group in ids)
    return [row for row in found if row is not None and row.kind == GroupKind.SCALE_SET]


def _shown(connection: Connection, request: ArmRequest, document: Document) -> Document:
    shown = {
        row.name: show_one(connection, request, row) for row in _sets(connection, document["sets"])
    }
    subscription = request.params["subscription"].lower()
    place = f"/subscriptions/{subscription}/resourceGroups/{document['group']}"
    return {
        "id": f"{place}/providers/Microsoft.Resources/deployments/{document['name']}",
        "name": document["name"],
        "type": "Microsoft.Resources/deployments",
        "properties": {
            "provisioningState": _state(connection, document),
            "timestamp": document["timestamp"],
            "mode": "Incremental",
            "outputs": {
                name: {"type": "Object", "value": shown[of]["properties"]}
                for name, of in document["outputs"].items()
                if of in shown
            },
            "outputResources": [{"id": each["id"]} for each in shown.values()],
        },
    }
