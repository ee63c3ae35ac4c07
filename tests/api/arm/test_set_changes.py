"""A scale set changed and deleted through Azure's dialect: what stays, what is refused."""

import base64
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from tests.api.agent_by_hand import eventually
from tests.api.arm.documents import (
    HEALTH,
    SCRIPT,
    a_set,
    error,
    image,
    message,
    profile_of,
    rows,
)
from tests.api.arm.sets import with_machines

from upkeep.store import tables as t

# --- Changed --------------------------------------------------------------------------------------


def change(client: httpx.Client, place: str, **body: Any) -> dict[str, Any]:
    answer = client.patch(place, json=body)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@pytest.mark.number("os-image", "PATCH reply")
def test_what_a_change_does_not_name_stays(
    client: httpx.Client, place: str, made: dict[str, Any]
) -> None:
    before = client.get("/v1/groups/web").json()
    shown = change(client, place, sku={"capacity": 5})
    after = client.get("/v1/groups/web").json()
    assert {key for key in after if after[key] != before[key]} <= {"capacity", "machines"}
    assert after["capacity"] == 5
    assert shown["tags"] == made["tags"]


@pytest.mark.usefixtures("made")
def test_what_is_read_may_be_sent_back_whole(server: Any, client: httpx.Client, place: str) -> None:
    """`az vmss update` reads, changes one thing and sends all of it back."""
    group, story = client.get("/v1/groups/web").json(), client.get("/v1/groups/web/story").json()
    again = client.put(place, json=client.get(place).json())
    assert again.status_code == 200, again.text
    assert client.get("/v1/groups/web").json() == group
    assert client.get("/v1/groups/web/story").json() == story, "nothing was changed"


def test_a_set_of_the_native_api_can_be_changed_and_keeps_what_azure_cannot_say(
    client: httpx.Client, place: str
) -> None:
    group = {
        "name": "web", "platform": "simulated", "scope": "Shop", "region": "north",
        "capacity": 3, "image": "web",
        "probe": {"protocol": "http", "port": 80, "path": "/", "interval_ms": 200},
        "policy": {"notice_s": 3600, "bake_time_s": 60},
        "scripts": [{"name": "own", "content": base64.b64encode(b"#!/own\n").decode()}],
        "user_data": base64.b64encode(b"#!/bin/sh\n").decode(),
    }  # fmt: skip
    assert client.post("/v1/groups", json=group).status_code == 201
    before = client.get("/v1/groups/web").json()
    shown = change(client, place, tags={"a": "1"})
    assert shown["tags"] == {"a": "1"}
    names = [e["name"] for e in profile_of(shown)["extensionProfile"]["extensions"]]
    assert names == ["HealthExtension", "own"]
    assert client.put(place, json=shown).status_code == 200
    assert client.get("/v1/groups/web").json() == before


@pytest.mark.usefixtures("made")
def test_tags_are_replaced_as_a_whole_and_nothing_else_is(client: httpx.Client, place: str) -> None:
    assert change(client, place, tags={"b": "2"})["tags"] == {"b": "2"}
    assert change(client, place)["tags"] == {"b": "2"}
    assert change(client, place, tags={})["tags"] == {}


@pytest.mark.usefixtures("made")
def test_keys_are_compared_without_case(client: httpx.Client, place: str) -> None:
    off = {"AutomaticOSUpgradePolicy": {"EnableAutomaticOSUpgrade": "False"}}
    shown = change(client, place, Properties={"UPGRADEPOLICY": off})
    automatic = shown["properties"]["upgradePolicy"]["automaticOSUpgradePolicy"]
    assert automatic["enableAutomaticOSUpgrade"] is False
    assert client.get("/v1/groups/web").json()["auto_upgrade"] is False


@pytest.mark.usefixtures("made")
def test_opting_out_of_automatic_upgrades_needs_no_health_source(
    client: httpx.Client, place: str
) -> None:
    properties = {
        "upgradePolicy": {"automaticOSUpgradePolicy": {"enableAutomaticOSUpgrade": False}},
        "virtualMachineProfile": {"extensionProfile": {"extensions": []}},
    }
    shown = change(client, place, properties=properties)
    assert profile_of(shown)["extensionProfile"]["extensions"] == []
    group = client.get("/v1/groups/web").json()
    assert (group["probe"], group["scripts"], group["auto_upgrade"]) == (None, [], False)


@pytest.mark.usefixtures("made")
def test_a_health_source_cannot_be_taken_from_a_set_that_upgrades_itself(
    client: httpx.Client, place: str
) -> None:
    profile = {"extensionProfile": {"extensions": [SCRIPT]}}
    answer = client.patch(place, json={"properties": {"virtualMachineProfile": profile}})
    assert error(answer) == (400, "BadRequest")


def test_a_secret_script_that_is_not_sent_again_is_kept(
    server: Any, client: httpx.Client, base: str, place: str
) -> None:
    document = a_set(base)
    hidden = {
        "name": "Setup",
        "properties": {"type": "CustomScript", "protectedSettings": {"commandToExecute": "hush"}},
    }
    profile_of(document)["extensionProfile"]["extensions"] = [HEALTH, hidden]
    shown = client.put(place, json=document).json()
    assert "hush" not in str(shown)
    scripts = server.read(lambda c: c.execute(t.groups.select()).one()).scripts
    assert client.put(place, json=shown).status_code == 200
    assert server.read(lambda c: c.execute(t.groups.select()).one()).scripts == scripts


@pytest.mark.usefixtures("made")
def test_a_script_that_the_native_api_has_changed_is_not_shown_as_it_was(
    client: httpx.Client, place: str
) -> None:
    other = [{"name": "setup", "content": base64.b64encode(b"#!/other\n").decode()}]
    assert client.patch("/v1/groups/web", json={"scripts": other}).status_code == 200
    shown = client.get(place).json()
    (_, script) = profile_of(shown)["extensionProfile"]["extensions"]
    assert script["properties"]["settings"] == {}
    assert client.put(place, json=shown).status_code == 200
    words = [line["line"] for line in client.get("/v1/groups/web/story").json()["items"]]
    assert sum("changed scripts" in line for line in words) == 1, "only natively"


@pytest.mark.usefixtures("made")
def test_the_image_follows_the_reference(client: httpx.Client, base: str, place: str) -> None:
    profile = {"storageProfile": {"imageReference": image(base, "office")}}
    change(client, place, properties={"virtualMachineProfile": profile})
    assert client.get("/v1/groups/web").json()["image"] == "office"
    profile = {"storageProfile": {"imageReference": image(base, "nothing")}}
    answer = client.patch(place, json={"properties": {"virtualMachineProfile": profile}})
    assert "there is no image 'nothing'" in message(answer)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"location": "south"}, "stays there"),
        ({"properties": {"platformFaultDomainCount": 2}}, "since the set was created"),
        ({"tags": {"upkeep-platform": "libvirt"}}, "'simulated' makes the machines"),
    ],
)
@pytest.mark.usefixtures("made")
def test_what_a_set_keeps_cannot_be_changed(
    client: httpx.Client, place: str, body: dict[str, Any], word: str
) -> None:
    answer = client.patch(place, json=body)
    assert error(answer) == (409, "OperationNotAllowed")
    assert word in message(answer)


@pytest.mark.usefixtures("made")
def test_a_location_is_one_however_it_is_spelt(client: httpx.Client, place: str) -> None:
    assert client.patch(place, json={"location": "No rth"}).status_code == 200


@pytest.mark.parametrize(
    "body",
    ["text", [1], 7, {"a": 1, "A": 2}, {"sku": {"capacity": -1}}, {"sku": {"capacity": 10**6}}],
)
@pytest.mark.usefixtures("made")
def test_a_body_that_is_no_document_changes_nothing(
    server: Any, client: httpx.Client, place: str, body: Any
) -> None:
    before = rows(server)
    assert client.patch(place, json=body).status_code == 400
    assert rows(server) == before


def test_a_body_may_not_be_nested_without_end(client: httpx.Client, place: str) -> None:
    body: dict[str, Any] = {}
    for _ in range(50):
        body = {"a": body}
    assert "deep" in message(client.put(place, json=body))


def test_a_set_that_is_not_there_cannot_be_changed(client: httpx.Client, place: str) -> None:
    assert error(client.patch(place, json={})) == (404, "ResourceNotFound")


def test_a_set_needs_a_location_and_a_name_that_machines_can_have(
    client: httpx.Client, base: str, place: str
) -> None:
    document = a_set(base)
    del document["location"]
    assert "location" in message(client.put(place, json=document))
    answer = client.put(place.replace("/Web", "/We%20b"), json=a_set(base))
    assert error(answer) == (400, "InvalidParameter")


@pytest.mark.number("os-image", "poll gap")
def test_clients_are_told_to_come_again_in_a_second(
    client: httpx.Client, place: str, made: dict[str, Any]
) -> None:
    """A set whose machines nobody makes: it stays Updating, and says where to ask."""
    assert made["properties"]["provisioningState"] == "Updating"
    for answer in (client.get(place), client.patch(place, json={})):
        assert answer.headers["retry-after"] == "1"
    operation = answer.headers["azure-asyncoperation"]
    for asked in (client.get(operation), client.get(f"{operation}&monitor=true")):
        assert asked.headers["retry-after"] == "1"
    assert client.get(operation).json()["status"] == "InProgress"
    settled = client.patch(place, json={"sku": {"capacity": 0}})
    assert settled.json()["properties"]["provisioningState"] == "Succeeded"
    assert "retry-after" not in settled.headers
    assert client.get(operation).json()["status"] == "Succeeded"


# --- Deleted --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("made")
def test_a_set_is_deleted_as_an_operation(server: Any, client: httpx.Client, place: str) -> None:
    begun = client.delete(f"{place}?forceDeletion=true")
    assert begun.status_code == 202
    operation = begun.headers["azure-asyncoperation"]
    eventually(lambda: client.get(operation).json()["status"] == "Succeeded")
    assert client.get(begun.headers["location"]).status_code == 200
    assert client.get(place).status_code == 404
    assert client.delete(place).status_code == 204
    assert server.read(lambda c: c.execute(t.arm_documents.select()).all()) == []


def test_a_set_grows_by_so_many_instances(
    server: Any, client: httpx.Client, made: dict[str, Any], place: str
) -> None:
    grown = client.post(f"{place}/scaleOut", json={"capacity": 2})
    assert grown.status_code == 202, grown.text
    assert client.get(place).json()["sku"]["capacity"] == 5
    status = client.get(grown.headers["azure-asyncoperation"]).json()
    assert status["status"] == "InProgress", "its machines are not there yet"
    for body, word in (
        (None, "JSON object"),
        ({}, "capacity"),
        ({"capacity": 0}, "at least 1"),
        ({"capacity": "two"}, "capacity"),
        ({"capacity": 10**6}, "capacity"),
        ({"capacity": 1, "properties": {"zone": "1"}}, "zone"),
    ):
        refused = client.post(f"{place}/scaleOut", json=body)
        assert refused.status_code == 400, body
        assert word in message(refused)
    assert client.get(place).json()["sku"]["capacity"] == 5


def test_reapply_is_done_when_the_set_is_what_its_model_says(
    server: Any, client: httpx.Client, made: dict[str, Any], place: str
) -> None:
    begun = client.post(f"{place}/reapply")
    assert begun.status_code == 202
    status = client.get(begun.headers["azure-asyncoperation"]).json()["status"]
    assert status == "InProgress"
    with_machines(server, made)
    status = client.get(begun.headers["azure-asyncoperation"]).json()["status"]
    assert status == "Succeeded"


def test_a_redeployed_instance_is_restarted_through_the_gate(
    server: Any, client: httpx.Client, made: dict[str, Any], place: str
) -> None:
    with_machines(server, made)
    assert client.post(f"{place}/virtualMachines/1/redeploy").status_code == 202
    begun = client.post(f"{place}/redeploy", json={"instanceIds": ["0", "2"]})
    assert begun.status_code == 202
    tasks = server.read(
        lambda c: c.execute(
            select(t.tasks.c.machine_id, t.rollouts.c.verb).join(
                t.rollouts, t.rollouts.c.id == t.tasks.c.rollout_id
            )
        ).all()
    )
    asked = sorted(task.machine_id for task in tasks if task.verb == "restart")
    assert asked == ["m_0", "m_1", "m_2"]
