"""Every route: without a token, with a wrong one, an expired one, one that is too narrow."""

import time
from datetime import timedelta
from typing import Any

import pytest

from upkeep.api.auth import ANONYMOUS_ROUTES

WRITES = ("post", "put", "patch", "delete")


def operations(server: Any) -> list[tuple[str, str]]:
    document = server.client().get("/v1/openapi.json").json()
    found = [
        (method, path)
        for path, item in document["paths"].items()
        for method in item
        if path.startswith("/v1/")
    ]
    assert len(found) > 40
    return found


def concrete(path: str) -> str:
    """The path with a name that exists nowhere in each place."""
    return "/".join("nobody" if part.startswith("{") else part for part in path.split("/"))


def ask(client: Any, method: str, path: str) -> Any:
    return client.request(method.upper(), concrete(path), json={} if method in WRITES else None)


def guarded(server: Any) -> list[tuple[str, str]]:
    anonymous = {str(route) for route in ANONYMOUS_ROUTES}
    return [(m, p) for m, p in operations(server) if not any(p in route for route in anonymous)]


def test_no_route_answers_without_a_token(server: Any) -> None:
    client = server.client("")
    for method, path in guarded(server):
        answer = ask(client, method, path)
        assert answer.status_code == 401, (method, path, answer.text)
        assert answer.json()["kind"] == "unauthenticated"
        assert answer.json()["detail"]


@pytest.mark.parametrize("token", ["upk_nobody.secret", "nonsense", "m_1.secret"])
def test_no_route_answers_to_a_wrong_token(server: Any, token: str) -> None:
    client = server.client(token)
    for method, path in guarded(server):
        assert ask(client, method, path).status_code == 401, (method, path)


def test_a_reader_writes_nothing(server: Any) -> None:
    client = server.client(server.token("reader"))
    tried = 0
    for method, path in guarded(server):
        if method in WRITES:
            answer = ask(client, method, path)
            assert answer.status_code == 403, (method, path, answer.text)
            tried += 1
    assert tried > 20


def test_an_expired_token_says_that_it_has_expired(server: Any) -> None:
    client = server.client(server.token("operator", expires_in_s=60))
    assert client.get("/v1/groups").status_code == 200
    server.clock.moved += timedelta(minutes=2)
    # An identity is remembered for about a second; the second question is past that.
    deadline = time.monotonic() + 60
    while (answer := client.get("/v1/groups")).status_code == 200:
        assert time.monotonic() < deadline, "the token never expired"
        time.sleep(0.05)
    assert answer.status_code == 401
    assert answer.json()["kind"] == "token_expired"


def test_every_list_has_one_envelope(server: Any) -> None:
    client = server.client()
    for path in ("groups", "machines", "rollouts", "images", "budgets", "blackouts",
                 "alarms", "tokens", "holds", "audit"):  # fmt: skip
        answer = client.get(f"/v1/{path}")
        assert answer.status_code == 200, (path, answer.text)
        assert set(answer.json()) == {"items", "next"}, path


def test_every_write_is_audited(server: Any) -> None:
    client = server.client()
    assert client.post("/v1/images", json={"name": "web"}).status_code == 201
    entries = client.get("/v1/audit").json()["items"]
    assert any("images" in str(entry) for entry in entries)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"policy": {"max_batch_percent": 4}}, "max_batch_percent"),
        ({"policy": {"max_batch_percent": 21, "max_unhealthy_percent": 20}}, "max_batch_percent"),
        ({"probe": None}, "probe"),
        ({"probe": {"protocol": "http"}}, "path"),
        ({"image": "nothing"}, "nothing"),
        ({"capacityy": 3}, "capacityy"),
        ({"name": "../etc"}, "name"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(
    server: Any, body: dict[str, Any], names: str
) -> None:
    client = server.client()
    client.post("/v1/images", json={"name": "web"})
    group = {
        "name": "web", "platform": "simulated", "image": "web", "capacity": 2,
        "probe": {"protocol": "http", "port": 8080, "path": "/health"},
    }  # fmt: skip
    answer = client.post("/v1/groups", json={**group, **body})
    assert answer.status_code in (400, 404), answer.text
    assert names in answer.json()["detail"], answer.text
    assert client.get("/v1/groups").json()["items"] == []


def test_an_image_with_another_digest_is_refused_and_not_stored(server: Any) -> None:
    client = server.client()
    client.post("/v1/images", json={"name": "web"})
    answer = client.put(
        "/v1/images/web/versions/1.0.0/tar",
        content=b"not what was announced",
        headers={"Digest": "sha-256=" + "0" * 64},
    )
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["kind"] == "digest_mismatch"
    assert client.get("/v1/images/web").json()["versions"] == []


def test_a_single_thing_that_does_not_exist_is_a_404(server: Any) -> None:
    client = server.client()
    for path in ("groups/web", "budgets/b", "machines/m", "rollouts/r", "images/i"):
        assert client.get(f"/v1/{path}").status_code == 404, path
