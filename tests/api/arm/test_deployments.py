"""Templates of scale sets, and the network that `az` looks for before it sends one."""

from typing import Any

import httpx
import pytest
from sqlalchemy import update
from tests.api.arm.documents import a_set, error, message, rows

from upkeep.api.arm.deployments import VALUES_BYTES_MAX
from upkeep.store import tables as t

SETS = "Microsoft.Compute/virtualMachineScaleSets"


@pytest.fixture
def where(base: str) -> str:
    return f"{base}/resourceGroups/Shop/providers/Microsoft.Resources/deployments/First"


def a_resource(base: str, name: str = "web", **changes: Any) -> dict[str, Any]:
    head = {"type": SETS, "name": name, "apiVersion": "2026-04-01", "dependsOn": []}
    return head | a_set(base) | changes


def a_template(*resources: Any, **more: Any) -> dict[str, Any]:
    template = {"resources": list(resources), "parameters": {}, "variables": {}} | more
    return {"properties": {"mode": "incremental", "template": template}}


def test_a_templates_sets_are_made(client: httpx.Client, base: str, where: str) -> None:
    reference = f"[reference(resourceId('{SETS}', 'web'),providers('x', 'y').apiVersions[0])]"
    outputs = {"VMSS": {"type": "object", "value": reference}}
    sets = (a_resource(base), a_resource(base, "Till"))
    begun = client.put(where, json=a_template(*sets, outputs=outputs))
    assert begun.status_code == 201, begun.text
    assert begun.headers["retry-after"] == "1"
    names = [group["name"] for group in client.get("/v1/groups").json()["items"]]
    assert names == ["till", "web"]
    status = client.get(begun.headers["azure-asyncoperation"]).json()
    assert status == {"status": "Running"}, "its machines are not there yet"
    shown = client.get(where).json()
    assert shown["id"] == where
    assert shown["properties"]["outputs"]["VMSS"]["value"]["provisioningState"] == "Updating"
    assert len(shown["properties"]["outputResources"]) == 2
    listed = client.get(where.rpartition("/")[0]).json()["value"]
    assert [each["name"] for each in listed] == ["First"]


def test_a_deployment_is_done_when_its_sets_are(
    server: Any, client: httpx.Client, base: str, where: str
) -> None:
    begun = client.put(where, json=a_template(a_resource(base, sku={"capacity": 0})))
    status = client.get(begun.headers["azure-asyncoperation"]).json()
    assert status == {"status": "Succeeded"}
    server.write(lambda c: c.execute(update(t.groups).values(capacity=1)))
    assert client.get(where).json()["properties"]["provisioningState"] == "Running"


def test_parameters_and_variables_are_put_in_and_not_kept(
    server: Any, client: httpx.Client, base: str, where: str
) -> None:
    resource = a_resource(base, tags={"team": "[variables('team')]", "odd": "[[literal]"})
    secret = {"osProfile": {"adminPassword": "[parameters('password')]"}}
    resource["properties"]["virtualMachineProfile"] |= secret
    body = a_template(
        resource,
        parameters={"password": {"type": "securestring"}},
        variables={"team": "shop"},
    )
    body["properties"]["parameters"] = {"password": {"value": "S3cret-of-nobody"}}
    assert client.put(where, json=body).status_code == 201
    group = client.get(where.replace("Microsoft.Resources/deployments/First", f"{SETS}/web")).json()
    assert group["tags"] == {"team": "shop", "odd": "[[literal]"}
    assert "S3cret" not in str(rows(server))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"type": "Microsoft.Network/loadBalancers"}, "--lb"),
        ({"location": "[concat('a', 'b')]"}, "concat"),
        ({"location": "[parameters('none')]"}, "no value"),
        ({"name": ""}, "each has a name"),
        ({"sku": {"capacity": 10**6}}, "capacity"),
    ],
)
def test_what_a_template_may_not_hold_is_named_and_nothing_is_made(
    server: Any, client: httpx.Client, base: str, where: str, changes: Any, word: str
) -> None:
    before = rows(server)
    answer = client.put(
        where, json=a_template(a_resource(base, "first"), a_resource(base, **changes))
    )
    assert answer.status_code == 400
    assert word in message(answer)
    assert rows(server) == before


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "properties.template"),
        ({"properties": {"templateLink": {"uri": "https://example.com"}}}, "links"),
        ({"properties": {"template": {"resources": []}}}, "1 to 100"),
        ({"properties": {"template": {}, "mode": "Complete"}}, "Incremental"),
    ],
)
def test_what_is_no_template_is_refused(
    client: httpx.Client, where: str, body: Any, word: str
) -> None:
    answer = client.put(where, json=body)
    assert error(answer) == (400, "BadRequest")
    assert word in message(answer)


def test_a_template_that_names_a_large_value_often_is_refused(
    server: Any, client: httpx.Client, base: str, where: str
) -> None:
    """Each mention is twenty bytes of the request, and would be a megabyte of the set."""
    tags = {str(number): "[variables('large')]" for number in range(20_000)}
    variables = {"large": "x" * (VALUES_BYTES_MAX // 4)}
    before = rows(server)
    refused = client.put(where, json=a_template(a_resource(base, tags=tags), variables=variables))
    assert error(refused) == (400, "BadRequest")
    assert str(VALUES_BYTES_MAX) in message(refused)
    assert rows(server) == before


def test_a_deployment_that_is_not_there(
    server: Any, client: httpx.Client, base: str, where: str
) -> None:
    assert error(client.get(where)) == (404, "ResourceNotFound")
    client.put(where, json=a_template(a_resource(base)))
    narrowed = server.client(server.token("operator", scope="Office"))
    assert error(narrowed.get(where)) == (404, "ResourceNotFound")
    assert narrowed.get(where.rpartition("/")[0]).json() == {"value": []}
    assert error(narrowed.put(where, json=a_template(a_resource(base, "x")))) == (
        403,
        "AuthorizationFailed",
    )


def test_there_is_one_network_with_one_subnet(client: httpx.Client, base: str) -> None:
    networks = f"{base}/resourceGroups/Shop/providers/Microsoft.Network/virtualNetworks"
    (network,) = client.get(networks).json()["value"]
    assert network["id"] == f"{networks}/upkeep"
    (subnet,) = network["properties"]["subnets"]
    assert subnet["properties"]["addressPrefix"] == "10.92.0.0/24"
    assert client.get(subnet["id"]).json() == subnet
    assert error(client.get(f"{networks}/other")) == (404, "ResourceNotFound")
    assert error(client.get(f"{networks}/upkeep/subnets/other")) == (404, "ResourceNotFound")
