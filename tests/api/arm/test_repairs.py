"""Automatic repairs through Azure's dialect.  Source: sheet os-image §7."""

from typing import Any

import httpx
import pytest
from tests.api.arm.documents import error, message


def repairs(client: httpx.Client, place: str, **policy: Any) -> httpx.Response:
    return client.patch(place, json={"properties": {"automaticRepairsPolicy": policy}})


def shown(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["properties"]["automaticRepairsPolicy"]


def service(client: httpx.Client, place: str) -> str:
    (found,) = client.get(f"{place}/instanceView").json()["orchestrationServices"]
    assert found["serviceName"] == "AutomaticRepairs"
    state: str = found["serviceState"]
    return state


@pytest.mark.number("os-image", "repairs")
def test_repairs_are_off_with_azures_defaults_and_can_be_switched_on(
    client: httpx.Client, place: str, made: dict[str, Any]
) -> None:
    default = {"enabled": False, "gracePeriod": "PT10M", "repairAction": "Replace"}
    assert shown(client.get(place)) == default
    assert service(client, place) == "NotRunning"
    assert shown(repairs(client, place, enabled=True)) == default | {"enabled": True}
    assert client.get("/v1/groups/web").json()["repair_action"] == "replace"
    assert service(client, place) == "Running"


def test_another_action_needs_them_off_first(
    client: httpx.Client, place: str, made: dict[str, Any]
) -> None:
    repairs(client, place, enabled="true", gracePeriod="PT30M", repairAction="reimage")
    refused = repairs(client, place, repairAction="Restart")
    assert error(refused) == (409, "OperationNotAllowed")
    assert "enabled to false first" in message(refused)
    assert shown(client.get(place))["repairAction"] == "Reimage"
    assert shown(repairs(client, place, enabled=False))["gracePeriod"] == "PT30M"
    repairs(client, place, repairAction="Restart")
    changed = shown(repairs(client, place, enabled=True))
    assert (changed["repairAction"], changed["gracePeriod"]) == ("Restart", "PT30M")


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ({"enabled": True, "gracePeriod": "PT9M"}, "10 to 90 minutes"),
        ({"enabled": True, "gracePeriod": "PT91M"}, "10 to 90 minutes"),
        ({"enabled": True, "repairAction": "Pray"}, "Replace, Reimage, Restart"),
        ({"enabled": "perhaps"}, "true or false"),
    ],
)
@pytest.mark.number("os-image", "repairs")
def test_repairs_that_are_none_are_refused(
    client: httpx.Client, place: str, made: dict[str, Any], policy: dict[str, Any], why: str
) -> None:
    refused = repairs(client, place, **policy)
    assert error(refused) == (400, "InvalidParameter")
    assert why in message(refused)
    assert shown(client.get(place))["enabled"] is False


def test_their_service_is_suspended_and_resumed(
    client: httpx.Client, place: str, made: dict[str, Any]
) -> None:
    path = f"{place}/setOrchestrationServiceState"
    body = {"serviceName": "AutomaticRepairs", "action": "Suspend"}
    assert error(client.post(path, json=body)) == (409, "OperationNotAllowed")
    repairs(client, place, enabled=True)
    assert client.post(path, json=body).status_code == 200
    assert service(client, place) == "Suspended"
    assert client.post(path, json=body | {"action": "resume"}).status_code == 200
    assert service(client, place) == "Running"
    for wrong in ({"action": "Suspend"}, body | {"action": "Stop"}, body | {"serviceName": "X"}):
        assert error(client.post(path, json=wrong)) == (400, "InvalidParameter")
