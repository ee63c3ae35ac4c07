"""Resource groups and providers of Azure's dialect."""

from typing import Any

import httpx
from tests.api.arm.documents import a_set, error

# --- Resource groups, providers -------------------------------------------------------------------


def test_a_resource_group_is_made_changed_and_deleted(client: httpx.Client, base: str) -> None:
    where = f"{base}/resourceGroups/Lab"
    assert client.head(where).status_code == 404
    made = client.put(where, json={"location": "north", "tags": {"a": "1"}})
    assert (made.status_code, made.json()["tags"]) == (201, {"a": "1"})
    assert client.head(f"{base}/RESOURCEGROUPS/lab").status_code == 204
    again = client.put(where.lower(), json={"location": "north"})
    assert (again.status_code, again.json()["name"]) == (200, "Lab")
    names = [each["name"] for each in client.get(f"{base}/resourceGroups").json()["value"]]
    assert names == ["Lab"]
    assert client.delete(where).status_code == 200
    assert client.delete(where).status_code == 404


def test_a_set_goes_into_the_resource_group_that_is_there(
    client: httpx.Client, base: str, place: str
) -> None:
    client.put(f"{base}/resourceGroups/SHOP", json={"location": "north"})
    client.put(place, json=a_set(base))
    names = [each["name"] for each in client.get(f"{base}/resourceGroups").json()["value"]]
    assert names == ["SHOP"]
    assert error(client.delete(f"{base}/resourceGroups/shop")) == (409, "OperationNotAllowed")


def test_a_narrowed_token_makes_sets_in_its_own_resource_group_alone(
    server: Any, client: httpx.Client, base: str, place: str
) -> None:
    narrowed = server.client(server.token("operator", scope="Office"))
    assert error(narrowed.put(place, json=a_set(base))) == (403, "AuthorizationFailed")
    answer = narrowed.put(f"{base}/resourceGroups/Shop", json={"location": "north"})
    assert error(answer) == (403, "AuthorizationFailed")
    inside = place.replace("/Shop/", "/office/")
    assert narrowed.put(inside, json=a_set(base)).status_code == 201
    assert client.get("/v1/groups/web").json()["scope"] == "Office"


def test_providers_are_registered(client: httpx.Client, base: str) -> None:
    listed = client.get(f"{base}/providers").json()["value"]
    assert [each["registrationState"] for each in listed] == ["Registered"] * len(listed)
    answer = client.post(f"{base}/providers/microsoft.compute/register")
    assert answer.json()["namespace"] == "Microsoft.Compute"
    assert error(client.get(f"{base}/providers/Microsoft.None")) == (404, "ResourceNotFound")
