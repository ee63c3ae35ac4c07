"""Garbage at every route of Azure's dialect: never a server error, and after a refusal nothing but
the audit log has changed."""

import copy
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.api.arm.all_rows import at_rest, rows
from tests.api.arm.documents import a_set
from tests.api.test_garbage import TEXTS, content, quoted, value

from upkeep.api.arm.route import Route

# What a path's braces may hold beside nonsense; the subscription is put in by the test.
RIGHT = {
    "group": ("Shop", "shop", "lab"),
    "set": ("web", "WEB", "till"),
    "instance": ("0", "1", "9"),
    "location": ("north", "local"),
    "operation": ("settle-g_2", "delete-g_2", "cancel-ro_g_2_1", "ro_g_2_1"),
    "provider": ("Microsoft.Compute",),
    "gallery": ("upkeep",),
    "image": ("web", "office"),
    "version": ("1.0.0", "2.0.0"),
    "deployment": ("first", "First"),
    "network": ("upkeep",),
    "subnet": ("machines",),
    "publisher": ("upkeep",),
    "offer": ("web",),
    "sku": ("default",),
}
QUERIES = ("api-version=2026-04-01", "$expand=instanceView", "$skiptoken=web-1", "monitor=true")


def bodies(base: str) -> list[dict[str, Any]]:
    """What would be right somewhere."""
    gallery = f"{base}/resourceGroups/a/providers/Microsoft.Compute/galleries/upkeep"
    kind = {"type": "Microsoft.Compute/virtualMachineScaleSets", "name": "till"}
    resource = kind | a_set(base) | {"tags": {"a": "[parameters('a')]"}}
    source = {"id": f"{gallery}/images/web/versions/1.0.0"}
    return [
        a_set(base),
        {"tags": {"a": "1"}, "sku": {"capacity": 2}},
        {"properties": {"protectionPolicy": {"protectFromScaleIn": True}}},
        {"instanceIds": ["0", "1"]},
        {"properties": {"publishingProfile": {"targetRegions": [{"name": "north"}]}}},
        {"location": "north", "properties": {"storageProfile": {"source": source}}},
        {"properties": {"template": {"resources": [resource]}, "parameters": {}}},
    ]


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every object or list in a document, with each of its keys."""
    keys = document.keys() if isinstance(document, dict) else range(len(document))
    for key in list(keys):
        yield document, key
        if isinstance(document[key], dict | list):
            yield from places(document[key])


def spoilt(draw: random.Random, document: dict[str, Any]) -> dict[str, Any]:
    """The document with up to three things in it wrong."""
    document = copy.deepcopy(document)
    for _ in range(draw.randrange(4)):
        found = list(places(document))
        if not found:
            break
        parent, key = draw.choice(found)
        what = draw.randrange(4)
        if what == 0:
            del parent[key]
        elif what == 1 and isinstance(key, str):
            parent[key.upper()] = parent.pop(key)
        elif what == 2 and isinstance(key, str):
            parent[draw.choice(TEXTS)] = parent[key]
        else:
            parent[key] = value(draw)
    return document


def path_of(draw: random.Random, route: Route, base: str) -> str:
    parts = []
    for part in route.path.split("/"):
        if not part.startswith("{"):
            parts.append(part)
        elif part == "{subscription}" and draw.random() < 0.97:
            parts.append(base.rpartition("/")[2])
        elif draw.random() < 0.15:
            parts.append(quoted(draw.choice(TEXTS)))
        else:
            parts.append(draw.choice(RIGHT.get(part.strip("{}"), ("x",))))
    return "/".join(parts)


@pytest.mark.parametrize(
    ("seed", "requests"), [(1, 300), pytest.param(2, 10_000, marks=pytest.mark.slow)]
)
@pytest.mark.usefixtures("in_still_time", "made")
def test_garbage_never_gives_a_server_error_and_what_is_refused_changes_nothing(
    server: Any, client: httpx.Client, base: str, seed: int, requests: int
) -> None:
    draw = random.Random(seed)
    routes = server.app.arm.routes
    right = bodies(base)
    refused, changed = 0, 0
    before = at_rest(server)
    for number in range(requests):
        route = draw.choice(routes)
        path = path_of(draw, route, base)
        query = "&".join(draw.sample(QUERIES, draw.randrange(3)))
        sends: dict[str, Any] = {}
        if route.method not in ("GET", "HEAD"):
            if draw.random() < 0.3:
                sends = {"content": content(draw)}
            else:
                sends = {"json": spoilt(draw, draw.choice(right))}
        answer = client.request(route.method, f"{path}?{query}", **sends)
        what = (number, route.method, path, query, sends, answer.text)
        assert answer.status_code < 500, what
        if answer.status_code < 400:
            if route.method not in ("GET", "HEAD"):
                changed += 1
                before = at_rest(server)
            continue
        refused += 1
        assert route.method == "HEAD" or answer.json()["error"], what
        assert rows(server) == before, what
    assert refused > requests // 3
    assert changed > requests // 50
