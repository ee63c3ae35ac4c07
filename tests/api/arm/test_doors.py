"""Every route of Azure's dialect: without a token, with a wrong, an expired, a too narrow one."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from tests.api.arm.documents import a_configuration, error

from upkeep.api.arm.route import Route
from upkeep.api.auth import Role

Ask = Callable[[httpx.Client, Route], httpx.Response]

# What stands in the path's braces: of the set that is there.
NAMES = {
    "group": "Shop",
    "set": "web",
    "instance": "0",
    "location": "north",
    "operation": "settle-g_2",
    "provider": "Microsoft.Compute",
    "gallery": "upkeep",
    "image": "web",
    "version": "1.0.0",
    "deployment": "first",
    "network": "upkeep",
    "subnet": "machines",
    "publisher": "upkeep",
    "offer": "web",
    "sku": "default",
    "configuration": "nights",
    "assignment": "by-night",
    "event": "0a0a0a0a-0000-0000-0000-000000000000",
}
# Whatever else is read is the same for everybody who may read: the catalogue, the server itself.
OF_A_SCOPE = ("resourceGroups", "virtualMachineScaleSets", "{operation}")


@pytest.fixture
def ask(client: httpx.Client, base: str, place: str, made: dict[str, Any]) -> Ask:
    """The route of the set that is there, with its maintenance configuration."""
    provider = "providers/Microsoft.Maintenance"
    config = f"{base}/resourceGroups/Shop/{provider}/maintenanceConfigurations/nights"
    identity = client.put(config, json=a_configuration()).json()["id"]
    body = {"properties": {"maintenanceConfigurationId": identity}}
    assigned = client.put(f"{place}/{provider}/configurationAssignments/by-night", json=body)
    assert assigned.status_code == 201
    names = NAMES | {
        "subscription": base.rpartition("/")[2],
        "operation": f"settle-{made['properties']['uniqueId']}",
    }

    def send(client: httpx.Client, route: Route) -> httpx.Response:
        parts = route.path.split("/")
        path = "/".join(names[p.strip("{}")] if p.startswith("{") else p for p in parts)
        return client.request(route.method, path)

    return send


def guarded(server: Any) -> list[Route]:
    return [route for route in server.app.arm.routes if route.role is not None]


def is_of_a_scope(route: Route) -> bool:
    is_read = route.role is Role.READER
    return not is_read or (
        "{gallery}" not in route.path
        and "{network}" not in route.path
        and not route.path.endswith(("/galleries", "/virtualNetworks"))
        and any(word in route.path for word in OF_A_SCOPE)
    )


def test_what_is_open_to_everybody_is_what_a_login_needs(server: Any) -> None:
    anonymous = {(r.method, r.path) for r in server.app.arm.routes if r.role is None}
    assert anonymous == {
        ("GET", "/metadata/endpoints"),
        ("GET", "/adfs/.well-known/openid-configuration"),
        ("POST", "/adfs/oauth2/token"),
    }


@pytest.mark.parametrize("token", ["", "nonsense", "upk_nobody.secret-of-twenty-letters", "m_1.x"])
def test_no_other_route_answers_without_a_good_token(server: Any, ask: Ask, token: str) -> None:
    client = server.client(token)
    for route in guarded(server):
        answer = ask(client, route)
        assert answer.status_code == 401, (route.path, answer.text)
        if route.method != "HEAD":
            assert answer.json()["error"]["code"] in (
                "AuthenticationFailed",
                "InvalidAuthenticationToken",
            )
        assert "bearer" in answer.headers["www-authenticate"].lower()


def test_no_route_answers_an_expired_token(server: Any, ask: Ask) -> None:
    client = server.client(server.token("admin", expires_in_s=60))
    assert all(ask(client, r).status_code < 500 for r in guarded(server) if r.method == "GET")
    server.clock.moved += timedelta(seconds=61)
    for route in guarded(server):
        answer = ask(client, route)
        assert answer.status_code == 401, (route.path, answer.text)
        if route.method != "HEAD":
            assert error(answer) == (401, "ExpiredAuthenticationToken")


def test_a_reader_writes_nothing(server: Any, ask: Ask) -> None:
    client = server.client(server.token("reader"))
    writes = [r for r in guarded(server) if r.role is not Role.READER]
    assert writes
    assert {r.method for r in guarded(server) if r.role is Role.READER} <= {"GET", "HEAD", "POST"}
    for route in writes:
        assert error(ask(client, route)) == (403, "AuthorizationFailed"), route.path


def test_a_token_of_another_scope_reaches_nothing_of_the_set(server: Any, ask: Ask) -> None:
    client = server.client(server.token("operator", scope="other"))
    before = server.client().get("/v1/groups/web").json()
    for route in guarded(server):
        if not is_of_a_scope(route):
            continue
        answer = ask(client, route)
        if answer.status_code == 200:
            assert answer.json() == {"value": []}, (route.method, route.path, answer.text)
        elif answer.status_code != 204 or route.method != "DELETE":
            assert answer.status_code in (400, 403, 404), (route.method, route.path, answer.text)
    assert server.client().get("/v1/groups/web").json() == before
