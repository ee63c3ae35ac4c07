"""Scale sets through Azure's dialect: created, changed, deleted; what is kept, what is refused."""

import base64
import gzip
from typing import Any

import httpx
import pytest
from tests.api.arm.documents import (
    HEALTH,
    SCRIPT,
    a_set,
    after,
    error,
    message,
    profile_of,
    rows,
)

from upkeep.store import tables as t

# --- Created --------------------------------------------------------------------------------------


@pytest.mark.number("os-image", "domains")
def test_a_set_that_azure_makes_is_a_group(client: httpx.Client, base: str, place: str) -> None:
    made = client.put(place, json=a_set(base))
    assert made.status_code == 201, made.text
    shown = made.json()
    assert shown["id"] == place.replace("/Web", "/web")
    assert shown["properties"]["provisioningState"] in ("Creating", "Updating")
    group = client.get("/v1/groups/web").json()
    assert (group["scope"], group["region"], group["capacity"]) == ("Shop", "north", 3)
    assert (group["cpus"], group["memory_mib"]) == (2, 256)
    assert (group["update_domains"], group["fault_domains"]) == (5, 5)
    assert group["image"] == "web"
    assert group["probe"] == {
        "protocol": "http", "port": 8080, "path": "/health", "number_of_probes": 1,
        "rich": False, "interval_s": 5,
    }  # fmt: skip
    policy = group["policy"]
    assert policy["max_batch_percent"] == 34
    assert policy["max_unhealthy_upgraded_percent"] == 0
    assert policy["pause_between_batches_s"] == 90
    assert (policy["max_surge"], policy["governs_automatic"]) == (True, True)
    assert group["auto_upgrade"] is True
    assert group["user_data_bytes"] == 15
    assert [script["name"] for script in group["scripts"]] == ["setup"]


def test_a_client_reads_what_it_wrote_but_for_secrets(
    server: Any, client: httpx.Client, base: str, place: str
) -> None:
    made = client.put(place, json=a_set(base)).json()
    assert made == client.get(place).json()
    assert made["tags"] == {"team": "shop"}
    assert made["sku"] == {"name": "Upkeep_2cpu_256mib", "tier": "Standard", "capacity": 3}
    assert profile_of(made)["osProfile"] == {
        "computerNamePrefix": "web",
        "adminUsername": "someone",
    }
    names = [each["name"] for each in profile_of(made)["extensionProfile"]["extensions"]]
    assert names == ["health", "Setup"]
    stored = server.read(lambda c: c.execute(t.arm_documents.select()).all())
    assert "S3cret" not in str(stored)
    assert "S3cret" not in str(client.get("/v1/audit").json())


@pytest.mark.number("os-image", "defaults")
def test_what_a_client_did_not_say_has_the_documented_defaults(
    client: httpx.Client, base: str, place: str
) -> None:
    """Sheet os-image §10: 20, 20, 20, PT0S; §2.3: the flags are false."""
    document = a_set(base, upgradePolicy={"mode": "Manual"})
    made = client.put(place, json=document).json()
    upgrade = made["properties"]["upgradePolicy"]
    rolling = upgrade["rollingUpgradePolicy"]
    assert rolling["maxBatchInstancePercent"] == 20
    assert rolling["maxUnhealthyInstancePercent"] == 20
    assert rolling["maxUnhealthyUpgradedInstancePercent"] == 20
    assert rolling["pauseTimeBetweenBatches"] == "PT0S"
    assert rolling["maxSurge"] is False
    assert upgrade["automaticOSUpgradePolicy"] == {
        "enableAutomaticOSUpgrade": False,
        "disableAutomaticRollback": False,
        "useRollingUpgradePolicy": False,
        "osRollingUpgradeDeferral": False,
    }


@pytest.mark.parametrize("notice", [True, False])
@pytest.mark.number("os-image", "OS image notice")
def test_an_os_image_notification_is_a_notice_of_15_minutes(
    client: httpx.Client, base: str, place: str, notice: bool
) -> None:
    document = a_set(base)
    profile_of(document)["scheduledEventsProfile"] = {
        "osImageNotificationProfile": {"enable": notice, "notBeforeTimeout": "PT15M"}
    }
    client.put(place, json=document)
    assert client.get("/v1/groups/web").json()["policy"]["notice_s"] == (900 if notice else 0)


@pytest.mark.parametrize(
    ("script", "content"),
    [
        ({"settings": {"commandToExecute": "a b"}}, b"#!/bin/sh\na b\n"),
        ({"protectedSettings": {"commandToExecute": "a b"}}, b"#!/bin/sh\na b\n"),
        ({"settings": {"script": base64.b64encode(b"#!/x\n").decode()}}, b"#!/x\n"),
        ({"settings": {"script": base64.b64encode(gzip.compress(b"#!/x\n")).decode()}}, b"#!/x\n"),
    ],
)
def test_a_custom_script_is_a_first_boot_script(
    server: Any, client: httpx.Client, base: str, place: str, script: Any, content: bytes
) -> None:
    document = a_set(base)
    kind = {"publisher": "Microsoft.Azure.Extensions", "type": "CustomScript"}
    second = {"name": "Setup", "properties": kind | script}
    profile_of(document)["extensionProfile"]["extensions"] = [HEALTH, second]
    assert client.put(place, json=document).status_code == 201
    (row,) = server.read(lambda c: c.execute(t.groups.select()).all())
    assert base64.b64encode(content).decode() in row.scripts


def test_scripts_run_in_the_models_sequence(client: httpx.Client, base: str, place: str) -> None:
    """Sheet os-image §5: provisionAfterExtensions; the health extension is no step of it."""
    first, second = after("First"), after("Second", "first", "health")
    document = a_set(base)
    profile_of(document)["extensionProfile"]["extensions"] = [second, first, HEALTH]
    assert client.put(place, json=document).status_code == 201
    scripts = client.get("/v1/groups/web").json()["scripts"]
    assert scripts == [
        {"name": "first", "provision_after": []},
        {"name": "second", "provision_after": ["first"]},
    ]


# --- Refused --------------------------------------------------------------------------------------


def flexible(document: dict[str, Any]) -> None:
    document["properties"]["orchestrationMode"] = "Flexible"


def without_health(document: dict[str, Any]) -> None:
    profile_of(document)["extensionProfile"]["extensions"] = []


def rolling_without_health(document: dict[str, Any]) -> None:
    without_health(document)
    document["properties"]["upgradePolicy"] = {"mode": "Rolling"}


def two_sources(document: dict[str, Any]) -> None:
    profile_of(document)["networkProfile"] = {"healthProbe": {"id": "/probe"}}


def a_balancer(document: dict[str, Any]) -> None:
    without_health(document)
    two_sources(document)


def without_image(document: dict[str, Any]) -> None:
    del profile_of(document)["storageProfile"]


def without_image_by_hand(document: dict[str, Any]) -> None:
    without_image(document)
    del document["properties"]["upgradePolicy"]


def another_gallery(document: dict[str, Any]) -> None:
    reference = profile_of(document)["storageProfile"]["imageReference"]
    reference["id"] = reference["id"].replace("/galleries/upkeep/", "/galleries/other/")


def patched(document: dict[str, Any]) -> None:
    profile_of(document)["osProfile"]["linuxConfiguration"] = {
        "patchSettings": {"patchMode": "AutomaticByPlatform"}
    }


def windows_updates(document: dict[str, Any]) -> None:
    profile_of(document)["osProfile"]["windowsConfiguration"] = {"enableAutomaticUpdates": "true"}


def a_version(document: dict[str, Any]) -> None:
    profile_of(document)["storageProfile"]["imageReference"]["id"] += "/versions/1.0.0"


def a_managed_image(document: dict[str, Any]) -> None:
    place = "/subscriptions/x/resourceGroups/y/providers/Microsoft.Compute/images/z"
    profile_of(document)["storageProfile"]["imageReference"] = {"id": place}


def somebody_elses_image(document: dict[str, Any]) -> None:
    reference = {"publisher": "Canonical", "offer": "Ubuntu", "sku": "x", "version": "latest"}
    profile_of(document)["storageProfile"]["imageReference"] = reference


def an_agent(document: dict[str, Any]) -> None:
    kind = {"publisher": "Microsoft.Azure.Monitor", "type": "AzureMonitorLinuxAgent"}
    profile_of(document)["extensionProfile"]["extensions"].append(
        {"name": "monitor", "properties": kind}
    )


def files(document: dict[str, Any]) -> None:
    settings = {"fileUris": ["https://example.com/x.sh"], "commandToExecute": "x.sh"}
    properties = SCRIPT["properties"] | {"settings": settings}  # type: ignore[operator]
    profile_of(document)["extensionProfile"]["extensions"][1] = SCRIPT | {"properties": properties}


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (flexible, "Uniform"),
        (without_health, "needs a health source"),
        (rolling_without_health, "mode Rolling needs a health source"),
        (two_sources, "exactly one health source"),
        (a_balancer, "no load balancers"),
        (without_image, "needs an image"),
        (without_image_by_hand, "name the image"),
        (another_gallery, "galleries/upkeep"),
        (patched, "exclude each other"),
        (windows_updates, "enableAutomaticUpdates must be false"),
        (a_version, "leave the version out"),
        (a_managed_image, "plain managed images"),
        (somebody_elses_image, "publisher"),
        (an_agent, "cannot run"),
        (files, "fileUris"),
    ],
)
def test_preconditions_are_checked_at_the_door(
    server: Any, client: httpx.Client, base: str, place: str, spoil: Any, word: str
) -> None:
    """Sheet os-image §2.2 and §9.4: BadRequest, and nothing is written."""
    before = rows(server)
    document = a_set(base)
    spoil(document)
    answer = client.put(place, json=document)
    assert error(answer) == (400, "BadRequest")
    assert word in message(answer)
    assert rows(server) == before


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        ({"maxBatchInstancePercent": 4}, "maxBatchInstancePercent is 4; set 5 to 100"),
        ({"maxBatchInstancePercent": 101}, "set 5 to 100"),
        ({"maxUnhealthyInstancePercent": 4}, "maxUnhealthyInstancePercent is 4; set 5 to 100"),
        ({"maxUnhealthyUpgradedInstancePercent": -1}, "set 0 to 100"),
        ({"maxUnhealthyUpgradedInstancePercent": 101}, "set 0 to 100"),
        (
            {"maxBatchInstancePercent": 21, "maxUnhealthyInstancePercent": 20},
            "maxBatchInstancePercent (21) is above maxUnhealthyInstancePercent (20)",
        ),
        ({"pauseTimeBetweenBatches": "5 minutes"}, "ISO 8601"),
        ({"pauseTimeBetweenBatches": "-PT1M"}, "pauseTimeBetweenBatches: set 0"),
        ({"maxSurge": "perhaps"}, "maxSurge: true or false"),
        ({"maxBatchInstancePercent": "many"}, "maxBatchInstancePercent: a whole number"),
    ],
)
@pytest.mark.number("os-image", "batch range")
@pytest.mark.number("os-image", "unhealthy range")
@pytest.mark.number("os-image", "unhealthy-upgraded range")
@pytest.mark.number("os-image", "cross rule")
def test_a_policy_out_of_range_is_refused_in_azures_own_words(
    server: Any, client: httpx.Client, base: str, place: str, policy: Any, word: str
) -> None:
    """Sheet os-image §10: 5..100, 5..100, 0..100, batch at most unhealthy."""
    before = rows(server)
    document = a_set(base, upgradePolicy={"mode": "Manual", "rollingUpgradePolicy": policy})
    answer = client.put(place, json=document)
    assert error(answer) == (400, "InvalidParameter")
    assert word in message(answer)
    assert rows(server) == before


@pytest.mark.number("os-image", "set size")
@pytest.mark.parametrize(("capacity", "status"), [(0, 201), (1_000, 201), (1_001, 400), (-1, 400)])
def test_a_set_has_at_most_1000_instances(
    client: httpx.Client, base: str, place: str, capacity: int, status: int
) -> None:
    document = a_set(base) | {"sku": {"capacity": capacity}}
    assert client.put(place, json=document).status_code == status


@pytest.mark.parametrize(
    ("extensions", "word"),
    [
        ("all", "a list of objects"),
        ([{}], "each has a name"),
        ([HEALTH, SCRIPT, SCRIPT | {"name": "SETUP"}], "two are called"),
        ([HEALTH, HEALTH | {"name": "again"}], "exactly one health source"),
        (
            [HEALTH, {"name": "x", "properties": {"provisionAfterExtensions": ["y"]}}],
            "there is no 'y'",
        ),
        (
            [
                {"name": "y", "properties": {"type": "CustomScript"}},
                {"name": "x", "properties": {"provisionAfterExtensions": ["y"]}},
            ],
            "needs `settings`",
        ),
        (
            [HEALTH, after("a", "b"), after("b", "a")],
            "that is a circle",
        ),
    ],
)
def test_extensions_that_cannot_be_put_in_sequence_are_refused(
    client: httpx.Client, base: str, place: str, extensions: Any, word: str
) -> None:
    """Sheet os-image §5."""
    document = a_set(base)
    profile_of(document)["extensionProfile"]["extensions"] = extensions
    answer = client.put(place, json=document)
    assert answer.status_code == 400
    assert word in message(answer)
