"""What reaches instances when the model changes, and how the modes and `manualupgrade` say it.

Source: sheet os-image §1, §2.3; docs/adr/0022.
"""

import base64
import copy
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select, update
from tests.api.agent_by_hand import eventually
from tests.api.arm.documents import a_set, error, message, profile_of, rests
from tests.api.arm.sets import publish, with_machines

from upkeep.store import tables as t
from upkeep.store.database import to_us


@pytest.fixture
def behind(server: Any, client: httpx.Client, made: dict[str, Any], place: str) -> str:
    """Three machines with the set's model; then its custom data is changed.  The new model."""
    with_machines(server, made)
    server.write(
        lambda c: c.execute(
            update(t.machines).values(model=select(t.groups.c.model).scalar_subquery())
        )
    )
    assert applied(client, place) == [True] * 3
    before = model_of(server)
    change_data(client, place, b"#!/bin/sh\nfalse\n")
    after = model_of(server)
    assert before != after
    return after


def model_of(server: Any) -> str:
    return str(server.read(lambda c: c.execute(select(t.groups.c.model)).scalar()))


def change_data(client: httpx.Client, place: str, script: bytes) -> None:
    data = base64.b64encode(script).decode()
    profile = {"virtualMachineProfile": {"osProfile": {"customData": data}}}
    answer = client.patch(place, json={"properties": profile})
    assert answer.status_code == 200, answer.text


def set_mode(client: httpx.Client, place: str, mode: str) -> httpx.Response:
    return client.patch(place, json={"properties": {"upgradePolicy": {"mode": mode}}})


def applied(client: httpx.Client, place: str) -> list[bool]:
    found = client.get(f"{place}/virtualMachines").json()["value"]
    return [each["properties"]["latestModelApplied"] for each in found]


def open_rolls(server: Any) -> list[tuple[str, str]]:
    rows = server.read(lambda c: c.execute(t.rollouts.select()).all())
    return [(row.verb, row.target) for row in rows if row.ended_at is None]


def test_in_mode_manual_instances_are_behind_until_they_are_upgraded_by_hand(
    server: Any, client: httpx.Client, place: str, behind: str
) -> None:
    assert applied(client, place) == [False] * 3
    rests(server)
    assert open_rolls(server) == []
    begun = client.post(f"{place}/manualupgrade", json={"instanceIds": ["1"]})
    assert begun.status_code == 202, begun.text
    assert open_rolls(server) == [("reimage", behind)]
    tasks = server.read(lambda c: c.execute(t.tasks.select()).all())
    assert [task.machine_id for task in tasks] == ["m_1"]


@pytest.mark.parametrize("mode", ["Rolling", "automatic"])
def test_in_the_other_modes_a_roll_begins_by_itself_and_is_the_latest_one(
    server: Any, client: httpx.Client, place: str, behind: str, mode: str
) -> None:
    shown = set_mode(client, place, mode)
    assert shown.json()["properties"]["upgradePolicy"]["mode"] == mode.capitalize()
    eventually(lambda: open_rolls(server) == [("reimage", behind)])
    latest = client.get(f"{place}/rollingUpgrades/latest").json()["properties"]
    assert latest["runningStatus"]["code"] == "RollingForward"
    assert sum(latest["progress"].values()) == 3
    server.write(lambda c: c.execute(update(t.rollouts).values(ended_at=1, state="completed")))
    history = client.get(f"{place}/osUpgradeHistory").json()["value"]
    assert history == [], "it was no upgrade to a version"


def test_who_goes_back_to_the_model_before_is_up_to_date_at_once(
    server: Any, client: httpx.Client, place: str, behind: str
) -> None:
    change_data(client, place, b"#!/bin/sh\ntrue\n")
    assert applied(client, place) == [True] * 3


def test_another_script_is_another_model_and_another_probe_is_not(
    server: Any, client: httpx.Client, made: dict[str, Any], place: str, base: str
) -> None:
    first = model_of(server)
    body = copy.deepcopy(a_set(base))
    profile_of(body)["extensionProfile"]["extensions"][0]["properties"]["settings"]["port"] = 81
    assert client.put(place, json=body).status_code == 200
    assert model_of(server) == first
    body = copy.deepcopy(a_set(base))
    profile_of(body)["extensionProfile"]["extensions"][1]["properties"]["settings"] = {
        "commandToExecute": "touch /other"
    }
    assert client.put(place, json=body).status_code == 200
    assert model_of(server) != first


def test_mode_rolling_needs_application_health(client: httpx.Client, base: str, place: str) -> None:
    body = copy.deepcopy(a_set(base))
    profile_of(body)["extensionProfile"]["extensions"].pop(0)
    policy = body["properties"]["upgradePolicy"]
    policy["mode"] = "Rolling"
    policy["automaticOSUpgradePolicy"]["enableAutomaticOSUpgrade"] = False
    answer = client.put(place, json=body)
    assert error(answer)[0] == 400
    assert "health" in message(answer)


def test_instances_that_need_different_things_are_named_in_two_calls(
    server: Any, client: httpx.Client, place: str, behind: str
) -> None:
    set_automatic = {"automaticOSUpgradePolicy": {"enableAutomaticOSUpgrade": False}}
    body = {"properties": {"upgradePolicy": set_automatic}}
    assert client.patch(place, json=body).status_code == 200
    server.write(
        lambda c: c.execute(update(t.machines).where(t.machines.c.id == "m_0").values(image="0.9"))
    )
    publish(client, "1.0.0")
    mixed = client.post(f"{place}/manualupgrade", json={"instanceIds": ["*"]})
    assert error(mixed)[0] == 409
    assert "web-0 need version 1.0.0, web-1, web-2 only the set's new model" in message(mixed)
    begun = client.post(f"{place}/manualupgrade", json={"instanceIds": ["0"]})
    assert begun.status_code == 202
    assert open_rolls(server) == [("replace_os_disk", "1.0.0")]


def test_upgrades_to_versions_are_not_crowded_out_of_the_history(
    server: Any, client: httpx.Client, made: dict[str, Any], place: str
) -> None:
    def ended(number: int, verb: str, target: str) -> dict[str, Any]:
        return {
            "id": f"ro_past_{number}",
            "group_id": made["properties"]["uniqueId"],
            "system": "os_image",
            "verb": verb,
            "target": target,
            "state": "completed",
            "started_by": "platform",
            "started_at": now + number,
            "ended_at": now + number,
        }

    now = to_us(server.clock.now())
    past = [ended(n, "reimage", f"model{n}") for n in range(1, 8)]
    past.insert(0, ended(0, "replace_os_disk", "1.0.0"))
    server.write(lambda c: c.execute(insert(t.rollouts), past))
    history = client.get(f"{place}/osUpgradeHistory").json()["value"]
    versions = [each["properties"]["targetImageReference"]["exactVersion"] for each in history]
    assert versions == ["1.0.0"]
