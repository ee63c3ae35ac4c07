"""Lifecycle hooks and their events through Azure's dialect.

Source: sheet os-image §2.6 #4.
"""

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from tests.api.agent_by_hand import eventually
from tests.api.arm.documents import error, message
from tests.api.arm.sets import publish, with_machines

SCHEDULING, BATCH = "UpgradeAutoOSScheduling", "UpgradeAutoOSRollingBatchStarting"


def hooks(client: httpx.Client, place: str, *given: Any) -> httpx.Response:
    profile = {"lifecycleHooksProfile": {"lifecycleHooks": list(given)}}
    return client.patch(place, json={"properties": profile})


def shown(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["properties"]["lifecycleHooksProfile"]["lifecycleHooks"]


def test_hooks_are_the_policys_and_have_defaults(
    client: httpx.Client, place: str, made: dict[str, Any]
) -> None:
    assert shown(client.get(place)) == []
    batch = {"type": BATCH.upper(), "waitDuration": "PT8H", "defaultAction": "reject"}
    assert shown(hooks(client, place, {"type": SCHEDULING}, batch)) == [
        {"type": SCHEDULING, "waitDuration": "PT30M", "defaultAction": "Approve"},
        {"type": BATCH, "waitDuration": "PT8H", "defaultAction": "Reject"},
    ]
    policy = client.get("/v1/groups/web").json()["policy"]
    assert (policy["start_hook_wait_s"], policy["start_hook_approves"]) == (1_800, True)
    assert (policy["batch_hook_wait_s"], policy["batch_hook_approves"]) == (28_800, False)
    assert len(shown(client.patch(place, json={"tags": {"a": "b"}}))) == 2
    assert shown(hooks(client, place)) == []


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"type": "UpgradeSomehow"}, SCHEDULING),
        ({}, SCHEDULING),
        ({"type": BATCH, "waitDuration": "PT0S"}, "longer than nothing"),
        ({"type": BATCH, "waitDuration": "PT25H"}, "at most"),
        ({"type": BATCH, "waitDuration": "an hour"}, "ISO 8601"),
        ({"type": BATCH, "defaultAction": "Perhaps"}, "Approve, Reject"),
        (7, SCHEDULING),
    ],
)
def test_hooks_that_are_none_are_refused(
    client: httpx.Client, place: str, made: dict[str, Any], given: Any, why: str
) -> None:
    refused = hooks(client, place, given)
    assert error(refused) == (400, "InvalidParameter")
    assert why in message(refused)
    assert shown(client.get(place)) == []


def test_a_hook_stands_there_once(client: httpx.Client, place: str, made: dict[str, Any]) -> None:
    refused = hooks(client, place, {"type": BATCH}, {"type": BATCH})
    assert "twice" in message(refused)


def asked(client: httpx.Client, place: str) -> dict[str, Any]:
    events: list[dict[str, Any]] = []

    def is_there() -> bool:
        events[:] = client.get(f"{place}/lifecycleHookEvents").json()["value"]
        return bool(events)

    eventually(is_there)
    (event,) = events
    assert client.get(f"{place}/lifecyclehookevents/{event['name'].upper()}").json() == event
    return event


def said(event: dict[str, Any]) -> list[str]:
    return [target["actionState"] for target in event["properties"]["targetResources"]]


def test_a_batchs_event_is_answered_in_part_and_ends(
    server: Any, client: httpx.Client, place: str, made: dict[str, Any]
) -> None:
    with_machines(server, made)
    policy = {"maxBatchInstancePercent": 67, "maxUnhealthyInstancePercent": 67, "maxSurge": False}
    upgrade = {"upgradePolicy": {"rollingUpgradePolicy": policy}}
    assert client.patch(place, json={"properties": upgrade}).status_code == 200
    hooks(client, place, {"type": BATCH})
    publish(client, "1.0.1")
    event = asked(client, place)
    properties = event["properties"]
    assert (properties["type"], properties["state"]) == (BATCH, "Active")
    first, second = (target["resource"]["id"] for target in properties["targetResources"])
    assert first == f"{made['id']}/virtualMachines/0"
    begun = datetime.fromisoformat(properties["timeCreated"])
    assert datetime.fromisoformat(properties["waitUntil"]) == begun + timedelta(minutes=30)
    assert datetime.fromisoformat(properties["maxWaitUntil"]) == begun + timedelta(days=2)
    path = f"{place}/lifecycleHookEvents/{event['name']}"

    def answer(place: str, state: str) -> httpx.Response:
        target = {"resource": {"id": place}, "actionState": state}
        return client.patch(path, json={"properties": {"targetResources": [target]}})

    partial = answer(second.upper(), "rejected")
    assert partial.status_code == 200, partial.text
    assert said(partial.json()) == ["Waiting", "Rejected"]
    later = (begun + timedelta(hours=3)).isoformat()
    moved = client.patch(path, json={"properties": {"waitUntil": later}})
    assert moved.json()["properties"]["waitUntil"] == later
    assert answer(first, "Approved").status_code == 200
    eventually(lambda: client.get(path).json()["properties"]["state"] == "Completed")
    assert said(client.get(path).json()) == ["Approved", "Rejected"]
    assert error(answer(first, "Rejected")) == (409, "OperationNotAllowed")
    progress = client.get(f"{place}/rollingUpgrades/latest").json()["properties"]["progress"]
    assert (progress["inProgressInstanceCount"], progress["pendingInstanceCount"]) == (1, 2)


def test_the_schedulings_event_is_about_the_set(
    server: Any, client: httpx.Client, place: str, made: dict[str, Any]
) -> None:
    with_machines(server, made)
    hooks(client, place, {"type": SCHEDULING, "defaultAction": "Reject"})
    publish(client, "1.0.1")
    event = asked(client, place)
    (target,) = event["properties"]["targetResources"]
    assert target == {"resource": {"id": made["id"]}, "actionState": "Waiting"}
    path = f"{place}/lifecycleHookEvents/{event['name']}"
    target["actionState"] = "Rejected"
    client.patch(path, json={"properties": {"targetResources": [target]}})
    latest = f"{place}/rollingUpgrades/latest"
    eventually(
        lambda: client.get(latest).json()["properties"]["runningStatus"]["code"] == "Cancelled"
    )


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        ({}, "targetResources"),
        ({"targetResources": "all"}, "a list"),
        ({"targetResources": [{"resource": {"id": "/x"}, "actionState": "Approved"}]}, "no target"),
        ({"waitUntil": "soon"}, "ISO 8601"),
        ({"waitUntil": "2099-01-01T00:00:00Z"}, "two days"),
        ({"waitUntil": "2026-12-24T18:00:00"}, "offset"),
    ],
)
def test_what_is_no_answer_is_refused(
    server: Any,
    client: httpx.Client,
    place: str,
    made: dict[str, Any],
    properties: dict[str, Any],
    why: str,
) -> None:
    with_machines(server, made)
    hooks(client, place, {"type": SCHEDULING})
    publish(client, "1.0.1")
    event = asked(client, place)
    path = f"{place}/lifecycleHookEvents/{event['name']}"
    refused = client.patch(path, json={"properties": properties})
    assert error(refused) == (400, "InvalidParameter")
    assert why in message(refused)
    assert client.get(path).json() == event
