"""Maintenance configurations through Azure's dialect: schedules under Azure's names.

Source: sheet maintenance §1.1 to §1.4.
"""

from typing import Any

import httpx
import pytest
from tests.api.arm.documents import a_configuration, error, message


@pytest.fixture
def config(base: str) -> str:
    provider = f"{base}/resourceGroups/Shop/providers/Microsoft.Maintenance"
    return f"{provider}/maintenanceConfigurations/Nights"


def test_a_configuration_is_a_schedule(client: httpx.Client, base: str, config: str) -> None:
    made = client.put(config, json=a_configuration())
    assert made.status_code == 201, made.text
    found = made.json()
    assert (found["name"], found["type"]) == (
        "nights",
        "Microsoft.Maintenance/maintenanceConfigurations",
    )
    assert (found["location"], found["tags"]) == ("north", {"team": "shop"})
    properties = found["properties"]
    assert (properties["maintenanceScope"], properties["visibility"]) == ("OSImage", "Custom")
    assert properties["maintenanceWindow"] == {
        "startDateTime": "2026-12-24 22:00",
        "expirationDateTime": "9999-12-31 23:59:59",
        "duration": "05:00",
        "timeZone": "W. Europe Standard Time",
        "recurEvery": "Week Saturday,Sunday",
    }
    native = client.get("/v1/schedules/nights").json()
    assert (native["zone"], native["length_s"], native["scope"]) == (
        "Europe/Berlin",
        18_000,
        "Shop",
    )
    assert client.get(config.upper().replace("/SUBSCRIPTIONS", "/subscriptions")).json() == found
    whole = f"{base}/providers/Microsoft.Maintenance/maintenanceConfigurations"
    assert client.get(whole).json()["value"] == [found]
    assert client.get(config.rpartition("/")[0]).json()["value"] == [found]


def test_a_second_put_and_a_patch_keep_what_they_leave_out(
    client: httpx.Client, config: str
) -> None:
    client.put(config, json=a_configuration(expirationDateTime="2099-01-01 00:00:00"))
    again = client.put(config, json=a_configuration(duration="06:30"))
    assert again.status_code == 200
    window = again.json()["properties"]["maintenanceWindow"]
    assert (window["duration"], window["expirationDateTime"]) == ("06:30", "2099-01-01 00:00")
    patched = client.patch(
        config, json={"properties": {"maintenanceWindow": {"recurEvery": "Day"}}}
    )
    assert patched.status_code == 200
    window = patched.json()["properties"]["maintenanceWindow"]
    assert (window["recurEvery"], window["duration"]) == ("Day", "06:30")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"duration": "04:59"}, "at least 5 h"),
        ({"duration": "5 hours"}, "HH:mm"),
        ({"recurEvery": "2Weeks"}, "more than 7 days"),
        ({"recurEvery": "Month"}, "which day of the month"),
        ({"timeZone": "Middle Earth Standard Time"}, "IANA name"),
        ({"startDateTime": None}, "startDateTime"),
        ({"startDateTime": "24.12.2026"}, "YYYY-MM-DD"),
        ({"startDateTime": "0001-01-01 00:00"}, "2000 to 2999"),
        ({"startDateTime": "9999-12-31 22:00"}, "2000 to 2999"),
        ({"expirationDateTime": "2026-12-24 21:00"}, "before its first window"),
    ],
)
@pytest.mark.number("os-image", "OS image window")
def test_windows_that_are_none_are_refused(
    client: httpx.Client, config: str, change: dict[str, Any], why: str
) -> None:
    refused = client.put(config, json=a_configuration(**change))
    assert error(refused) == (400, "InvalidParameter")
    assert why in message(refused)
    assert client.get(config).status_code == 404


@pytest.mark.parametrize("scope", ["Host", "InGuestPatch", "Everything", 7, None])
def test_other_scopes_are_not_pretended(client: httpx.Client, config: str, scope: Any) -> None:
    body = a_configuration()
    body["properties"]["maintenanceScope"] = scope
    refused = client.put(config, json=body)
    assert error(refused) == (400, "BadRequest")
    assert "OSImage" in message(refused)


def test_a_set_is_assigned_and_freed(
    client: httpx.Client, config: str, place: str, made: dict[str, Any]
) -> None:
    identity = client.put(config, json=a_configuration()).json()["id"]
    path = f"{place}/providers/Microsoft.Maintenance/configurationAssignments/by-night"
    body = {"location": "", "properties": {"maintenanceConfigurationId": identity.upper()}}
    first = client.put(path, json=body)
    assert first.status_code == 201, first.text
    assert first.json()["properties"] == {
        "maintenanceConfigurationId": identity,
        "resourceId": made["id"],
    }
    assert client.put(path, json=body).status_code == 200
    assert client.get(path).json() == first.json()
    assert client.get(path.rpartition("/")[0]).json()["value"] == [first.json()]
    assert client.get("/v1/schedules/nights").json()["groups"] == ["web"]
    assert client.delete(path).status_code == 200
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404


def test_an_assignment_under_the_same_name_moves_to_another_configuration(
    client: httpx.Client, config: str, place: str, made: dict[str, Any]
) -> None:
    path = f"{place}/providers/Microsoft.Maintenance/configurationAssignments/mine"
    for name in ("nights", "weekends"):
        identity = client.put(config.replace("Nights", name), json=a_configuration()).json()["id"]
        body = {"properties": {"maintenanceConfigurationId": identity}}
        assert client.put(path, json=body).is_success
    assert client.get("/v1/schedules/nights").json()["groups"] == []
    assert client.get("/v1/schedules/weekends").json()["groups"] == ["web"]


def test_what_cannot_be_assigned_is_refused(
    client: httpx.Client, config: str, place: str, made: dict[str, Any]
) -> None:
    path = f"{place}/providers/Microsoft.Maintenance/configurationAssignments/by-night"
    missing = {"properties": {"maintenanceConfigurationId": client.base_url.path + "nights"}}
    assert error(client.put(path, json=missing)) == (400, "InvalidParameter")
    identity = client.put(config, json=a_configuration()).json()["id"]
    nowhere = {"properties": {"maintenanceConfigurationId": identity.replace("nights", "days")}}
    assert error(client.put(path, json=nowhere)) == (404, "ResourceNotFound")
    off = {"upgradePolicy": {"automaticOSUpgradePolicy": {"enableAutomaticOSUpgrade": False}}}
    assert client.patch(place, json={"properties": off}).status_code == 200
    body = {"properties": {"maintenanceConfigurationId": identity}}
    refused = client.put(path, json=body)
    assert error(refused) == (400, "BadRequest")
    assert "enableAutomaticOSUpgrade" in message(refused)


def test_a_deleted_configuration_takes_its_assignments_along(
    client: httpx.Client, config: str, place: str, made: dict[str, Any]
) -> None:
    identity = client.put(config, json=a_configuration()).json()["id"]
    path = f"{place}/providers/Microsoft.Maintenance/configurationAssignments"
    client.put(f"{path}/by-night", json={"properties": {"maintenanceConfigurationId": identity}})
    assert client.delete(config).status_code == 200
    assert client.delete(config).status_code == 204
    assert client.get(path).json() == {"value": []}


@pytest.mark.parametrize("name", ["S" * 5_000, "Shop%0a"])
def test_a_configuration_is_in_a_resource_group_that_could_be_one(
    client: httpx.Client, config: str, name: str
) -> None:
    """As a set is; it stood in a scope that the native API refuses to name."""
    path = config.replace("/Shop/", f"/{name}/")
    refused = client.put(path, json=a_configuration())
    assert error(refused) == (400, "InvalidParameter")
    assert "resource group" in message(refused)
    nowhere = a_configuration() | {"location": "north\n"}
    assert error(client.put(config, json=nowhere)) == (400, "InvalidParameter")


@pytest.mark.parametrize("name", ["a" * 5_000, "by%0anight"])
def test_an_assignment_has_a_name_that_can_be_shown(
    client: httpx.Client, config: str, place: str, made: dict[str, Any], name: str
) -> None:
    identity = client.put(config, json=a_configuration()).json()["id"]
    body = {"properties": {"maintenanceConfigurationId": identity}}
    path = f"{place}/providers/Microsoft.Maintenance/configurationAssignments"
    refused = client.put(f"{path}/{name}", json=body)
    assert error(refused) == (400, "InvalidParameter")
    assert client.get(path).json() == {"value": []}
