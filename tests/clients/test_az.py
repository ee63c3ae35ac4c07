"""`az`, unmodified, over real machines: the story of a set from its creation to its end.

The machines are nspawn's, the server is `upkeep serve`.
"""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.clients.az import Az, AzError
from tests.clients.conftest import client_python
from tests.machines.real_fleet import RealFleet, real_fleet

pytestmark = pytest.mark.machines

SIZE = 4
IN_SET = ("--resource-group", "default", "--name", "shop")
OF_NEW = ("--resource-group", "lab", "--name", "till")
WAIT_MAX_S = 120.0


@pytest.fixture(scope="module")
def fleet() -> Iterator[RealFleet]:
    with (
        real_fleet(prepare=lambda overlay: None) as site,
        site.machines_of("shop", SIZE) as fleet,
    ):
        yield fleet


@pytest.fixture(scope="module")
def az(fleet: RealFleet, tmp_path_factory: pytest.TempPathFactory) -> Az:
    return Az(
        client_python("client-az.lock"),
        tmp_path_factory.mktemp("azure"),
        base=f"https://127.0.0.1:{fleet.port}",
        ca=fleet.stage.state / "ca" / "ca.pem",
        token=fleet.token,
    )


def until(az: Az, *arguments: str, is_so: Callable[[Any], bool]) -> Any:
    """Asked again until it is so; the last answer."""
    deadline = time.monotonic() + WAIT_MAX_S
    while True:
        found = az(*arguments)
        if is_so(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def subscription(az: Az) -> str:
    return str(az("account", "show")["id"])


def test_it_has_logged_in_and_sees_the_set(az: Az) -> None:
    assert az("account", "show")["user"]["type"] == "servicePrincipal"
    assert [each["name"] for each in az("vmss", "list")] == ["shop"]
    found = az("vmss", "list-instances", *IN_SET)
    assert [each["instanceId"] for each in found] == ["0", "1", "2", "3"]
    view = az("vmss", "get-instance-view", *IN_SET)
    summary = view["virtualMachine"]["statusesSummary"]
    assert {"code": "HealthState/healthy", "count": SIZE} in summary


def test_it_makes_a_set_of_real_machines_that_upgrades_itself(az: Az) -> None:
    az("group", "create", "--name", "lab", "--location", "local")
    assert az("group", "exists", "--name", "lab") is True
    (gallery,) = az("sig", "list")
    images = az("sig", "image-definition", "list", "-r", gallery["name"], "-g", "lab")
    (image,) = [each for each in images if each["name"] == "shop"]
    made = az(
        "vmss", "create", *OF_NEW, "--image", image["id"], "--instance-count", "2",
        "--orchestration-mode", "Uniform", "--vm-sku", "Upkeep_1cpu_128mib",
        "--admin-username", "someone", "--admin-password", "S3cret-of-nobody",
        "--authentication-type", "password", "--lb", "", "--public-ip-address", "",
    )  # fmt: skip
    assert made["VMSS"]["provisioningState"] == "Succeeded"
    assert len(az("vmss", "list-instances", *OF_NEW)) == 2
    automatic = "upgradePolicy.automaticOSUpgradePolicy.enableAutomaticOSUpgrade=true"
    with pytest.raises(AzError, match="needs a health source"):
        az("vmss", "update", *OF_NEW, "--set", automatic)
    settings = {"protocol": "http", "port": 8080, "requestPath": "/health"}
    az(
        "vmss", "extension", "set", "--resource-group", "lab", "--vmss-name", "till",
        "--name", "ApplicationHealthLinux", "--publisher", "Microsoft.ManagedServices",
        "--version", "1.0", "--settings", json.dumps(settings),
    )  # fmt: skip
    changed = az("vmss", "update", *OF_NEW, "--set", automatic)
    policy = changed["upgradePolicy"]["automaticOSUpgradePolicy"]
    assert policy["enableAutomaticOSUpgrade"] is True
    view = until(
        az, "vmss", "get-instance-view", *OF_NEW,
        is_so=lambda found: {"code": "HealthState/healthy", "count": 2}
        in found["virtualMachine"]["statusesSummary"],
    )  # fmt: skip
    assert {"code": "ProvisioningState/succeeded", "count": 2} in view["virtualMachine"][
        "statusesSummary"
    ]


def test_it_switches_repairs_on_and_suspends_them(az: Az) -> None:
    repaired = az(
        "vmss", "update", *OF_NEW, "--enable-automatic-repairs", "true",
        "--automatic-repairs-grace-period", "30", "--automatic-repairs-action", "Restart",
    )  # fmt: skip
    assert repaired["automaticRepairsPolicy"] == {
        "enabled": True,
        "gracePeriod": "PT30M",
        "repairAction": "Restart",
    }
    for action, state in (("Suspend", "Suspended"), ("Resume", "Running")):
        az(
            "vmss", "set-orchestration-service-state", *OF_NEW,
            "--service-name", "AutomaticRepairs", "--action", action,
        )  # fmt: skip
        (service,) = az("vmss", "get-instance-view", *OF_NEW)["orchestrationServices"]
        assert (service["serviceName"], service["serviceState"]) == ("AutomaticRepairs", state)


def test_it_protects_an_instance_scales_and_deletes(az: Az) -> None:
    protected = az(
        "vmss", "update", *OF_NEW, "--instance-id", "1", "--protect-from-scale-in", "true"
    )
    assert protected["protectionPolicy"]["protectFromScaleIn"] is True
    assert az("vmss", "scale", *OF_NEW, "--new-capacity", "1")["sku"]["capacity"] == 1
    left = until(az, "vmss", "list-instances", *OF_NEW, is_so=lambda found: len(found) == 1)
    assert [each["instanceId"] for each in left] == ["1"]
    az("vmss", "delete", *OF_NEW)
    assert [each["name"] for each in az("vmss", "list")] == ["shop"]
    az("group", "delete", "--name", "lab", "--yes")
    assert az("group", "exists", "--name", "lab") is False


def test_it_follows_a_roll_to_its_end(fleet: RealFleet, az: Az) -> None:
    with pytest.raises(AzError, match="There is no ongoing Rolling Upgrade to cancel"):
        az("vmss", "rolling-upgrade", "cancel", *IN_SET)
    fleet.publish("1.0.1")
    fleet.wait("the roll", lambda: fleet.rollouts("1.0.1") != [])
    ended = until(
        az, "vmss", "rolling-upgrade", "get-latest", *IN_SET,
        is_so=lambda found: found["runningStatus"]["code"] != "RollingForward",
    )  # fmt: skip
    assert ended["runningStatus"]["code"] == "Completed"
    assert ended["progress"]["successfulInstanceCount"] == SIZE
    az("vmss", "update-instances", *IN_SET, "--instance-ids", "*")
    (past,) = az("vmss", "get-os-upgrade-history", *IN_SET)
    assert past["properties"]["targetImageReference"]["exactVersion"] == "1.0.1"


def test_a_roll_asks_at_its_hooks_and_waits_for_an_approval(fleet: RealFleet, az: Az) -> None:
    """The preview commands of lifecycle hooks; az has none for a deferral, but calls what it is
    told to."""
    hook = ("vmss", "lifecycle-hook")
    of_set = ("--resource-group", "default", "--vmss-name", "shop")
    az(*hook, "add", *of_set, "--type", "UpgradeAutoOSScheduling", "--wait-duration", "PT1H")
    az(*hook, "add", *of_set, "--type", "UpgradeAutoOSRollingBatchStarting")
    listed = az(*hook, "list", *of_set)
    assert [(each["waitDuration"], each["defaultAction"]) for each in listed] == [
        ("PT1H", "Approve"),
        ("PT30M", "Approve"),
    ]
    deferral = "upgradePolicy.automaticOSUpgradePolicy.osRollingUpgradeDeferral=true"
    az("vmss", "update", *IN_SET, "--set", deferral)
    fleet.publish("1.0.2")
    event = ("vmss", "lifecycle-hook-event")

    def asked(kind: str) -> dict[str, Any]:
        """The one question of its kind that is open."""
        found = until(
            az, *event, "list", *of_set,
            is_so=lambda all: any(is_open(each, kind) for each in all),
        )  # fmt: skip
        (one,) = [each for each in found if is_open(each, kind)]
        found_again: dict[str, Any] = az(*event, "show", *of_set, "--name", one["name"])
        return found_again["properties"]

    def is_open(each: dict[str, Any], kind: str) -> bool:
        return bool(each["properties"]["state"] == "Active" and each["properties"]["type"] == kind)

    def name_of(kind: str) -> str:
        listed = az(*event, "list", *of_set)
        return str(next(each["name"] for each in listed if is_open(each, kind)))

    (target,) = asked("UpgradeAutoOSScheduling")["targetResources"]
    assert target["resource"]["id"].endswith("/virtualMachineScaleSets/shop")
    az(*event, "approve", *of_set, "--name", name_of("UpgradeAutoOSScheduling"))
    held = {"reason": "NEEDS_APPROVAL", "group": "shop"}
    fleet.wait("deferral", lambda: len(fleet.client.get("/v1/holds", **held)["items"]) == SIZE)
    place = az("vmss", "show", *IN_SET)["id"]
    url = f"{place}/approveRollingUpgrade?api-version=2025-04-01"
    az("rest", "--method", "post", "--url", url, "--body", json.dumps({"instanceIds": ["2"]}))
    batch = asked("UpgradeAutoOSRollingBatchStarting")
    assert [each["actionState"] for each in batch["targetResources"]] == ["Waiting"]
    assert batch["targetResources"][0]["resource"]["id"].endswith("/virtualMachines/2")
    name = name_of("UpgradeAutoOSRollingBatchStarting")
    az(*event, "approve", *of_set, "--name", name, "--instance-ids", "2")
    az(*hook, "remove", *of_set, "--all")
    assert az(*hook, "list", *of_set) == []
    az("vmss", "update", *IN_SET, "--set", deferral.replace("true", "false"))


def test_the_image_is_broken_and_the_roll_is_faulted_and_it_excluded(
    fleet: RealFleet, az: Az
) -> None:
    ended = until(
        az, "vmss", "rolling-upgrade", "get-latest", *IN_SET,
        is_so=lambda found: found["runningStatus"]["code"] == "Faulted",
    )  # fmt: skip
    assert ended["error"]["code"] == "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade"
    az(
        "sig", "image-version", "update", "--resource-group", "default", "--gallery-name",
        "upkeep", "--gallery-image-definition", "shop", "--gallery-image-version", "1.0.2",
        "--set", "publishingProfile.excludeFromLatest=true",
    )  # fmt: skip
    assert fleet.client.get("/v1/images/shop")["latest"] == "1.0.1"
    with pytest.raises(AzError, match="no unprotected machine is older"):
        az("vmss", "rolling-upgrade", "start", *IN_SET)


def test_it_restarts_stops_and_starts_instances(fleet: RealFleet, az: Az) -> None:
    fleet.wait("healthy machines", lambda: fleet.healthy() == SIZE)
    az("vmss", "restart", *IN_SET, "--instance-ids", "1")
    boots = {name: len(seen.boot_ids) for name, seen in fleet.poller.seen.items()}
    az("vmss", "reimage", *IN_SET, "--instance-ids", "3")
    fleet.wait("healthy machines", lambda: fleet.healthy() == SIZE)
    again = {name: len(seen.boot_ids) - boots[name] for name, seen in fleet.poller.seen.items()}
    assert again == {"shop-0": 0, "shop-1": 0, "shop-2": 0, "shop-3": 1}
    (kept,) = [m for m in fleet.machines() if m["name"] == "shop-3"]
    assert (kept["image"], kept["kept"]) == ("1.0.1", "1.0.1")
    az("vmss", "stop", *IN_SET, "--instance-ids", "0")
    of_one = ("vmss", "get-instance-view", *IN_SET, "--instance-id", "0")
    assert "PowerState/stopped" in [each["code"] for each in az(*of_one)["statuses"]]
    az("vmss", "start", *IN_SET, "--instance-ids", "0")
    assert "PowerState/running" in [each["code"] for each in az(*of_one)["statuses"]]
