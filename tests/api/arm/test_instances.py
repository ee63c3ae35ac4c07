"""Instances of a set through Azure's dialect: protection, upgrades by hand."""

from typing import Any

import httpx
import pytest
from sqlalchemy import update
from tests.api.agent_by_hand import eventually
from tests.api.arm.documents import error, message
from tests.api.arm.sets import publish, with_machines

from upkeep.store import tables as t


@pytest.fixture(autouse=True)
def machines(server: Any, made: dict[str, Any]) -> None:
    """The set's three machines, as if somebody had made them."""
    with_machines(server, made)


def protect(client: httpx.Client, place: str, **policy: Any) -> httpx.Response:
    body = {"location": "north", "properties": {"protectionPolicy": policy}}
    return client.put(f"{place}/virtualMachines/1", json=body)


def protection(answer: httpx.Response) -> tuple[bool, bool]:
    assert answer.status_code == 200, answer.text
    found = answer.json()["properties"]["protectionPolicy"]
    return found["protectFromScaleIn"], found["protectFromScaleSetActions"]


def test_protection_from_scale_in_leaves_upgrades_be(client: httpx.Client, place: str) -> None:
    """Sheet os-image §4."""
    assert protection(protect(client, place, protectFromScaleIn=True)) == (True, False)
    machine = client.get("/v1/machines/web-1").json()
    assert (machine["protected"], machine["scale_in_protected"]) == (False, True)
    other = client.get(f"{place}/virtualMachines/0").json()["properties"]["protectionPolicy"]
    assert other == {"protectFromScaleIn": False, "protectFromScaleSetActions": False}


def test_protection_from_actions_implies_the_other(client: httpx.Client, place: str) -> None:
    assert protection(protect(client, place, protectFromScaleSetActions="true")) == (True, True)
    assert client.get("/v1/machines/web-1").json()["protected"] is True
    assert protection(protect(client, place, protectFromScaleSetActions=False)) == (False, False)


def test_what_is_not_said_stays(client: httpx.Client, place: str) -> None:
    protect(client, place, protectFromScaleIn=True)
    assert protection(protect(client, place)) == (True, False)


def test_the_one_without_the_other_is_invalid(client: httpx.Client, place: str) -> None:
    answer = protect(client, place, protectFromScaleSetActions=True, protectFromScaleIn=False)
    assert error(answer) == (400, "InvalidParameter")
    assert "implies" in message(answer)


def test_an_instance_that_is_not_there_cannot_be_protected(
    client: httpx.Client, place: str
) -> None:
    answer = client.put(f"{place}/virtualMachines/9", json={})
    assert error(answer) == (404, "ResourceNotFound")


@pytest.mark.parametrize("body", [None, {}, {"instanceIds": []}, {"instanceIds": "0"}, []])
def test_an_upgrade_by_hand_names_its_instances(
    client: httpx.Client, place: str, body: Any
) -> None:
    answer = client.post(f"{place}/manualupgrade", json=body)
    assert answer.status_code == 400
    assert message(answer)


def test_instances_that_are_behind_are_upgraded_and_no_others(
    server: Any, client: httpx.Client, place: str
) -> None:
    server.write(lambda c: c.execute(update(t.groups).values(auto_upgrade=0)))
    current = update(t.machines).where(t.machines.c.id == "m_0").values(image="1.0.1")
    server.write(lambda c: c.execute(current))
    publish(client, "1.0.1")
    answer = client.post(f"{place}/manualupgrade", json={"instanceIds": ["0"]})
    assert (answer.status_code, answer.content) == (200, b"")
    begun = client.post(f"{place}/manualupgrade", json={"instanceIds": ["0", "2"]})
    assert begun.status_code == 202
    assert client.get(begun.headers["azure-asyncoperation"]).json()["status"] == "InProgress"
    tasks = server.read(lambda c: c.execute(t.tasks.select()).all())
    assert [task.machine_id for task in tasks] == ["m_2"]


def deferred_roll(server: Any, client: httpx.Client, place: str) -> None:
    automatic = {
        "enableAutomaticOSUpgrade": True,
        "useRollingUpgradePolicy": True,
        "osRollingUpgradeDeferral": True,
    }
    body = {"properties": {"upgradePolicy": {"automaticOSUpgradePolicy": automatic}}}
    changed = client.patch(place, json=body)
    assert changed.status_code == 200, changed.text
    shown = changed.json()["properties"]["upgradePolicy"]["automaticOSUpgradePolicy"]
    assert shown["osRollingUpgradeDeferral"] is True
    publish(client, "1.0.1")
    eventually(lambda: len(server.read(lambda c: c.execute(t.tasks.select()).all())) == 3)


def approved(server: Any) -> list[str]:
    tasks = server.read(lambda c: c.execute(t.tasks.select().where(t.tasks.c.approved == 1)).all())
    return sorted(task.machine_id for task in tasks)


@pytest.mark.number("os-image", "approval reply")
@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/approveRollingUpgrade", {"instanceIds": ["0", "2"]}, ["m_0", "m_2"]),
        ("/approverollingupgrade", None, ["m_0", "m_1", "m_2"]),
        ("/virtualMachines/1/approveRollingUpgrade", None, ["m_1"]),
    ],
)
def test_a_deferred_roll_is_approved_for_a_set_some_or_one(
    server: Any, client: httpx.Client, place: str, path: str, body: Any, expected: list[str]
) -> None:
    """Sheet os-image §2.6 #3, §9.1: the answer is 202 and nothing else."""
    deferred_roll(server, client, place)
    answer = client.post(f"{place}{path}", json=body)
    assert (answer.status_code, answer.content) == (202, b"")
    assert client.get(answer.headers["azure-asyncoperation"]).json()["status"] == "Succeeded"
    assert client.get(answer.headers["location"]).status_code == 200
    assert approved(server) == expected


def test_what_cannot_be_approved_is_refused_and_nothing_changes(
    server: Any, client: httpx.Client, place: str
) -> None:
    nothing = client.post(f"{place}/approveRollingUpgrade")
    assert error(nothing) == (409, "OperationNotAllowed")
    assert message(nothing) == "There is no ongoing Rolling Upgrade to approve."
    deferred_roll(server, client, place)
    missing = client.post(f"{place}/approveRollingUpgrade", json={"instanceIds": ["0", "9"]})
    assert error(missing) == (404, "ResourceNotFound")
    assert approved(server) == []


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/reimage", {"instanceIds": ["0", "2"], "tempDisk": True}, ["m_0", "m_2"]),
        ("/reimageall", None, ["m_0", "m_1", "m_2"]),
        ("/virtualMachines/1/reimage", {}, ["m_1"]),
    ],
)
def test_a_reimage_is_an_operation_over_the_instances_that_are_meant(
    server: Any, client: httpx.Client, place: str, path: str, body: Any, expected: list[str]
) -> None:
    answer = client.post(f"{place}{path}", json=body)
    assert answer.status_code == 202
    assert client.get(answer.headers["azure-asyncoperation"]).json()["status"] == "InProgress"
    tasks = server.read(lambda c: c.execute(t.tasks.select()).all())
    assert sorted(task.machine_id for task in tasks) == expected


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"exactVersion": "1.0.1"}, "keeps the version"),
        ({"osProfile": {"customData": "eA=="}}, "on the scale set"),
        ([], "JSON object"),
    ],
)
def test_a_reimage_that_changes_something_is_refused(
    client: httpx.Client, place: str, body: Any, why: str
) -> None:
    for path in ("/reimage", "/virtualMachines/1/reimage"):
        refused = client.post(f"{place}{path}", json=body)
        assert refused.status_code == 400
        assert why in message(refused)


def test_instances_of_a_set_without_versions_are_left_alone(
    client: httpx.Client, place: str
) -> None:
    answer = client.post(f"{place}/manualupgrade", json={"instanceIds": ["*"]})
    assert (answer.status_code, answer.content) == (200, b"")
    answer = client.post(f"{place}/manualupgrade", json={"instanceIds": ["0", "7"]})
    assert "no instance '7'" in message(answer)
