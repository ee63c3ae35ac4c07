"""Whatever is sent, the answer is a problem document of one shape, and never a 5xx."""

import hashlib
import random
import re
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from upkeep.api.problems import PROBLEMS, Problem

PATHS = (
    "/v1/groups", "/v1/groups/{}", "/v1/groups/{}/pause", "/v1/groups/{}/rollouts",
    "/v1/groups/{}/story", "/v1/rollouts", "/v1/rollouts/{}", "/v1/rollouts/{}/cancel",
    "/v1/machines", "/v1/machines/{}", "/v1/machines/{}/restart", "/v1/machines/{}/explain",
    "/v1/machines/{}/enrol-token", "/v1/holds", "/v1/images", "/v1/images/{}",
    "/v1/images/{}/versions/{}", "/v1/images/{}/versions/{}/tar",
    "/v1/images/{}/versions/{}/replicate", "/v1/budgets", "/v1/budgets/{}", "/v1/blackouts",
    "/v1/blackouts/{}", "/v1/alarms", "/v1/alarms/{}", "/v1/tokens", "/v1/tokens/{}", "/v1/audit",
    "/v1/clock",
    "/agent/v1/check-in", "/agent/v1/poll", "/agent/v1/enrol", "/agent/v1/nothing", "/nothing",
)  # fmt: skip
FIELDS = (
    "name", "platform", "capacity", "probe", "policy", "scripts", "zones", "image", "selector",
    "max_down", "percent", "opens", "closes", "role", "scope", "expires_in_s", "version",
    "machines", "force", "excluded", "regions", "token", "uuid", "machine", "nonce", "health",
    "protected", "scale_in_protected",
)  # fmt: skip
TEXTS = (
    "web", "", "a\x00b", "../../etc/passwd", "%00", "'; DROP TABLE groups; --", "x" * 400, "é",
    "1.0.0", "99999999999999999999", "-1", "\u202e", "2026-13-45T99:99:99Z", "null", "a/b", "%",
    "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59",
)  # fmt: skip


def value(draw: random.Random, depth: int = 0) -> Any:
    match draw.randrange(9 if depth < 3 else 6):
        case 0:
            return draw.choice((None, True, False))
        case 1:
            return draw.choice((0, -1, 1, 10**9, 2**63, 10**30))
        case 2:
            return draw.choice((1.5, 1e308, -0.0))
        case 3 | 4 | 5:
            return draw.choice(TEXTS)
        case 6:
            return [value(draw, depth + 1) for _ in range(draw.randrange(4))]
        case _:
            return {draw.choice(FIELDS): value(draw, depth + 1) for _ in range(draw.randrange(5))}


def content(draw: random.Random) -> bytes:
    match draw.randrange(6):
        case 0:
            return bytes(draw.randrange(256) for _ in range(draw.randrange(60)))
        case 1:
            return b"[" * draw.choice((10, 100_000))
        case 2:
            return b'{"name":"\\ud800"}'
        case 3:
            return b'{"capacity":1e999,"name":"web","platform":"simulated"}'
        case _:
            return msgspec.json.encode(
                {draw.choice(FIELDS): value(draw) for _ in range(draw.randrange(6))}
            )


def quoted(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode()) or "%20"


def is_problem(answer: httpx.Response) -> None:
    problem = msgspec.json.decode(answer.content, type=Problem, strict=True)
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert problem.status == answer.status_code
    assert (problem.status, problem.title) == PROBLEMS[problem.kind]
    assert problem.detail


@pytest.mark.parametrize(
    ("seed", "requests"), [(1, 400), pytest.param(2, 10_000, marks=pytest.mark.slow)]
)
def test_garbage_never_gives_a_server_error(admin: httpx.Client, seed: int, requests: int) -> None:
    draw = random.Random(seed)
    admin.post("/v1/images", json={"name": "web"})
    body = {"name": "web", "platform": "simulated", "auto_upgrade": False}
    assert admin.post("/v1/groups", json=body).status_code == 201
    refused = 0
    for number in range(requests):
        path = draw.choice(PATHS)
        while "{}" in path:
            path = path.replace("{}", quoted(draw.choice(TEXTS)), 1)
        query = "&".join(
            f"{draw.choice(('limit', 'after', 'group', 'state', 'reason', 'wait'))}="
            f"{quoted(draw.choice(TEXTS))}"
            for _ in range(draw.randrange(3))
        )
        method = draw.choice(("GET", "POST", "PUT", "PATCH", "DELETE"))
        if method == "DELETE" and path.startswith("/v1/groups"):
            continue  # Its group is needed by the rest.
        headers = {"Content-Type": draw.choice(("application/json", "text/plain", "x/y;;"))}
        answer = admin.request(method, f"{path}?{query}", content=content(draw), headers=headers)
        assert answer.status_code < 500, (number, method, path, query, answer.text)
        if answer.status_code >= 400:
            refused += 1
            is_problem(answer)
    assert refused > requests // 2


WRONG: tuple[Any, ...] = (
    None, True, -1, 10**30, 1.5, "", "x" * 5_000, "a\x00b", "<script>alert(1)</script>",
    "'; DROP TABLE groups; --", [], [[]], {}, {"a": {"b": 1}},
)  # fmt: skip


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """Method, path and the fields of every route that takes JSON."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            content = operation.get("requestBody", {}).get("content", {})
            if path.startswith(("/v1/", "/agent/")) and "application/json" in content:
                reference = msgspec.json.encode(content).decode()
                name = reference.partition("#/components/schemas/")[2].partition('"')[0]
                schema = document["components"]["schemas"][name]
                yield method.upper(), path, sorted(schema["properties"])


def test_every_field_of_every_route_refuses_what_it_cannot_be(admin: httpx.Client) -> None:
    """Walks the routes as the OpenAPI document has them, so a new one is walked, too."""
    admin.post("/v1/images", json={"name": "web"})
    admin.post("/v1/groups", json={"name": "web", "platform": "simulated", "auto_upgrade": False})
    routes = list(bodies(admin.get("/v1/openapi.json").json()))
    assert len(routes) > 15
    refused = 0
    for method, path, fields in routes:
        where = re.sub(r"{(\w+)}", lambda m: "web" if m[1] in ("group", "image") else "n", path)
        for field in fields:
            for wrong in WRONG:
                answer = admin.request(method, where, json={"name": "n", field: wrong})
                assert answer.status_code < 500, (method, where, field, wrong, answer.text)
                if answer.status_code >= 400:
                    is_problem(answer)
                    refused += 1
    assert refused > 1_000


@pytest.mark.parametrize("path", ["/v1/groups", "/agent/v1/enrol", "/v1/budgets"])
def test_a_large_body_is_refused(admin: httpx.Client, path: str) -> None:
    answer = admin.post(path, content=b'{"name":"' + b"x" * 1_100_000 + b'"}')
    assert answer.status_code == 413
    is_problem(answer)
    assert "send less" in answer.json()["detail"]


@pytest.mark.parametrize(
    "content",
    [b"{", b'{"name":', b'{"name":"\xff\xfe"}', b"[" * 100_000, b'{"a":' * 100_000, b'"\\ud800"'],
)
@pytest.mark.parametrize("path", ["/v1/groups", "/agent/v1/enrol"])
def test_what_is_no_json_is_said_to_be_that(admin: httpx.Client, path: str, content: bytes) -> None:
    answer = admin.post(path, content=content)
    assert answer.status_code == 400
    is_problem(answer)
    assert "JSON" in answer.json()["detail"]


def test_without_a_body_it_says_to_send_one(admin: httpx.Client) -> None:
    answer = admin.post("/v1/groups")
    assert answer.status_code == 400
    assert answer.json()["detail"] == "send a JSON object as the body"


@pytest.mark.parametrize(
    ("path", "body", "allowed"),
    [
        ("/v1/tokens", {"name": "a", "role": "king"}, "role: .* one of reader, operator, admin"),
        ("/v1/groups", {"kind": "x"}, "kind: .* one of scale_set, availability_set, loose"),
        ("/v1/groups", {"health_source": "x"}, "health_source: .* one of inside, outside, both"),
        ("/v1/groups", {"probe": {"protocol": "gopher"}}, "probe.protocol: .* tcp, http or https"),
        ("/v1/groups", {"platform": "vax"}, "platform: .* agent_only, simulated"),
        ("/v1/groups", {"name": "A B"}, "name: .* a-z, 0-9, dot"),
        ("/v1/groups", {"name": "x" * 64}, "name: .* 1 to 63"),
        ("/v1/groups", {"scripts": [{"name": "/", "content": ""}]}, "name: .* a-z, 0-9, dot"),
        ("/v1/groups", {"capacity": -1}, "capacity: .* >= 0"),
        ("/v1/groups", {"capacity": 10**40}, "capacity: .* <= 1000"),
        ("/v1/groups", {"colour": 1}, "`colour`; it is an object with name, platform, .*capacity"),
        ("/v1/groups", {"policy": {"colour": 1}}, "policy: .* object with .*bake_time_s"),
        ("/v1/budgets", {"max_down": 1, "colour": 1}, "`colour`"),
        ("/v1/images", {"colour": 1}, "`colour`"),
        ("/v1/machines", {"group": "b", "colour": 1}, "`colour`"),
    ],
)
def test_a_refusal_says_what_is_allowed(
    admin: httpx.Client, path: str, body: dict[str, Any], allowed: str
) -> None:
    group = {"platform": "simulated"} if path == "/v1/groups" else {}
    answer = admin.post(path, json={"name": "web", **group, **body})
    assert answer.status_code == 400, answer.text
    assert re.search(allowed, answer.json()["detail"]), answer.text


@pytest.mark.parametrize("query", ["reason=TIRED", "limit=0", "limit=-1", "limit=1e9", "limit=x"])
def test_a_query_is_judged_like_a_body(admin: httpx.Client, query: str) -> None:
    answer = admin.get(f"/v1/holds?{query}")
    assert answer.status_code == 400
    is_problem(answer)
    assert query.partition("=")[0] in answer.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("PUT", "/v1/groups"), ("DELETE", "/v1/images"), ("POST", "/v1/clock"),
     ("TRACE", "/v1/groups"), ("GET", "/agent/v1/check-in"), ("GET", "/agent/v1/poll"),
     ("DELETE", "/agent/v1/enrol")],
)  # fmt: skip
def test_a_wrong_method_is_a_405(admin: httpx.Client, method: str, path: str) -> None:
    answer = admin.request(method, path)
    assert answer.status_code == 405
    is_problem(answer)


def test_html_in_a_text_comes_back_as_json_that_no_browser_takes_for_a_page(
    admin: httpx.Client,
) -> None:
    tag = "<img src=x onerror=alert(1)>"
    admin.post("/v1/images", json={"name": "web"})
    digest = hashlib.sha256(b"x").hexdigest()
    admin.put("/v1/images/web/versions/1.0.0/tar", content=b"x",
              headers={"Digest": f"sha-256={digest}"})  # fmt: skip
    answer = admin.patch("/v1/images/web/versions/1.0.0", json={"note": tag})
    assert answer.json()["versions"][0]["note"] == tag
    for each in (answer, admin.get("/v1/images/web"), admin.get(f"/v1/images/{quoted(tag)}")):
        assert each.headers["content-type"].startswith("application/")
        assert each.headers["x-content-type-options"] == "nosniff"


def test_bytes_that_are_no_http(server: Any, admin: httpx.Client) -> None:
    port = int(server.base_url.rpartition(":")[2])
    for junk in (b"\x00" * 500, b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00", b"A" * 70_000):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            raw.sendall(junk)
    assert admin.get("/v1/groups").status_code == 200
