"""Requests that schemathesis makes of the dialect's OpenAPI document, right ones and wrong ones:
never a server error, and after a refusal nothing but the audit log has changed."""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from sqlalchemy import select
from tests.api.agent_by_hand import eventually
from tests.api.arm.all_rows import copy_of_all, put_back, rows, settled
from tests.api.arm.documents import a_configuration, a_set
from tests.api.arm.openapi import document, has_a_body_of_its_own
from tests.api.arm.sets import publish, with_machines

from upkeep.api.arm.route import Route, RouteTable
from upkeep.api.problems import InputError
from upkeep.store import tables as t

# After so many requests the fleet is as it was, so that a deleted set does not spoil all that come.
FLEET_FOR = 20
# How many requests a route gets whose body the document knows, for one that another gets.
WEIGHT = 2

Known = dict[str, Sequence[str]]


@pytest.fixture
def known(
    in_still_time: None, server: Any, client: httpx.Client, place: str, made: dict[str, Any]
) -> Known:
    """A fleet with something behind every path, and what the paths' braces may hold.

    The set `web` waits for the answer of a lifecycle hook, the set `till` for approvals.
    """
    till, shop = place.replace("Web", "till"), place.partition("/Microsoft.Compute")[0]
    base = shop.partition("/resourceGroups")[0]
    deferred = {"enableAutomaticOSUpgrade": True, "osRollingUpgradeDeferral": True}
    policy = {"automaticOSUpgradePolicy": deferred}
    resource = a_set(base, upgradePolicy=policy) | {"type": made["type"], "name": "till"}
    first = f"{shop}/Microsoft.Resources/deployments/first"
    done(client.put(first, json={"properties": {"template": {"resources": [resource]}}}))
    with_machines(server, made)
    with_machines(server, client.get(till).json(), "n")
    change = {
        "lifecycleHooksProfile": {
            "lifecycleHooks": [{"type": "UpgradeAutoOSRollingBatchStarting"}]
        },
        "automaticRepairsPolicy": {"enabled": True},
    }
    done(client.patch(place, json={"properties": change}))
    publish(client, "1.0.1")
    eventually(lambda: client.get(f"{place}/lifecycleHookEvents").json()["value"])
    eventually(lambda: client.get(f"{till}/rollingUpgrades/latest").status_code == 200)
    (event,) = client.get(f"{place}/lifecycleHookEvents").json()["value"]
    # Assigned after its roll has begun: it is no time for one.
    nights = f"{shop}/Microsoft.Maintenance/maintenanceConfigurations/nights"
    done(client.put(nights, json=a_configuration()))
    assignment = f"{place}/providers/Microsoft.Maintenance/configurationAssignments/first"
    done(client.put(assignment, json={"properties": {"maintenanceConfigurationId": nights}}))
    done(client.put(f"{base}/resourceGroups/lab", json={"location": "north"}))
    return names(server, base.rpartition("/")[2], event["name"])


def done(answer: httpx.Response) -> None:
    assert answer.is_success, answer.text


def names(server: Any, subscription: str, event: str) -> Known:
    def ids(table: Any) -> list[str]:
        found: list[str] = server.read(lambda c: c.execute(select(table.c.id)).scalars().all())
        return found

    of_groups = [f"{kind}{each}" for kind in ("settle-", "delete-") for each in ids(t.groups)]
    of_rolls = [f"{kind}{each}" for kind in ("", "cancel-", "approve-") for each in ids(t.rollouts)]
    client_id, _, secret = server.admin.partition(".")
    return {
        "subscription": (subscription, subscription.upper()),
        "group": ("Shop", "shop", "SHOP", "sHop", "lab"),
        "set": ("web", "WEB", "till", "Till"),
        "instance": ("0", "1", "2"),
        "event": (event, event.upper()),
        "location": ("north", "North", "local"),
        "operation": (*of_groups, *of_rolls),
        "provider": ("Microsoft.Compute", "microsoft.maintenance"),
        "gallery": ("upkeep", "Upkeep"),
        "image": ("web", "Web", "office"),
        "version": ("1.0.1", "1.0.2"),
        "deployment": ("first", "First"),
        "configuration": ("nights", "Nights", "days"),
        "assignment": ("first", "First", "second"),
        "network": ("upkeep",),
        "subnet": ("machines",),
        "publisher": ("upkeep",),
        "offer": ("web", "Web", "office"),
        "sku": ("default",),
        "client_id": (client_id,),
        "client_secret": (secret, "wrong"),
    }


# --- Requests -------------------------------------------------------------------------------------


def cases(described: dict[str, Any], known: Known, number: int, draw: random.Random) -> list[Any]:
    """Of each route and method: right ones and wrong ones of what is there, and either of anything;
    so many of each of the three, and in an order that mixes the routes."""
    wrong = {"generation_mode": GenerationMode.NEGATIVE}
    found: list[Any] = []
    for each in schemathesis.openapi.from_dict(described).get_all_operations():
        operation = each.ok()
        parts = re.findall(r"{(\w+)}", operation.path)
        there = {"path_parameters": {part: known[part][0] for part in parts}}
        weight = WEIGHT if has_a_body_of_its_own(operation.method, operation.path) else 1
        for how in (there, there | wrong, draw.choice(({}, wrong))):
            strategy = operation.as_strategy(**how)
            found += drawn(strategy, number * weight, seed_of=draw.randrange(10**9))
    draw.shuffle(found)
    return found


def drawn(strategy: Any, number: int, *, seed_of: int) -> list[Any]:
    """So many examples of a strategy, fewer if it has no more, the same ones each time."""
    found: list[Any] = []

    @seed(seed_of)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def keep(case: Any) -> None:
        found.append(case)

    keep()
    return found


@pytest.fixture
def send(server: Any, tmp_path: Path) -> Any:
    """Sends a case with a valid token."""
    trust = tmp_path / "trust.pem"
    trust.write_text(server.services.certificates.ca_pem)
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {server.admin}"
        yield lambda case: case.call(
            base_url=server.base_url, session=session, verify=str(trust), timeout=20
        )


def route_of(table: RouteTable, answer: Any) -> tuple[str, str] | None:
    """The route that a request has come to: a name with a slash in it makes the path another."""
    path = unquote(urlsplit(answer.request.url).path)
    try:
        route, _ = table.find(answer.request.method, path)
    except InputError:
        return None
    return key(route)


def key(route: Route) -> tuple[str, str]:
    return route.method, route.path


def parked(server: Any) -> list[Any]:
    """Groups at which the planner has stumbled."""
    query = select(t.groups.c.name).where(t.groups.c.parked_until.is_not(None))
    found: list[Any] = server.read(lambda c: c.execute(query).scalars().all())
    return found


# `never_right`: how many routes at most may refuse all that they are sent.  With three requests
# each some do; with sixty none does.
@pytest.mark.parametrize(
    ("first", "number", "never_right"), [(1, 1, 12), pytest.param(2, 20, 0, marks=pytest.mark.slow)]
)
def test_what_is_generated_gives_no_server_error_and_what_is_refused_changes_nothing(
    server: Any,
    known: Known,
    base: str,
    send: Callable[[Any], Any],
    first: int,
    number: int,
    never_right: int,
) -> None:
    routes = server.app.arm.routes
    table = RouteTable(routes)
    reached: set[tuple[str, str]] = set()
    accepted: set[tuple[str, str]] = set()
    counts: Counter[int] = Counter()
    before = settled(server)
    copy = copy_of_all(server)
    generated = cases(document(routes, base, known), known, number, random.Random(first))
    for index, case in enumerate(generated):
        if index % FLEET_FOR == 0:
            put_back(server, copy)
            before = settled(server)
        answer = send(case)
        what = (index, answer.request.method, answer.request.url, answer.request.body, answer.text)
        assert answer.status_code < 500, what
        assert not parked(server), what
        counts[answer.status_code // 100] += 1
        if (route := route_of(table, answer)) is not None:
            reached.add(route)
            if answer.status_code < 400:
                accepted.add(route)
        is_change = answer.request.method not in ("GET", "HEAD") and answer.status_code < 400
        if is_change:
            before = settled(server)
            continue
        assert rows(server) == before, what
        if answer.status_code >= 400 and answer.request.method != "HEAD":
            assert answer.json()["error"], what
    assert reached == {key(route) for route in routes}
    assert len(reached - accepted) <= never_right
    assert min(counts[2], counts[4]) > len(generated) // 4, counts
