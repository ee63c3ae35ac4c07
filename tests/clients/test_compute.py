"""azure-mgmt-compute, unmodified, over real machines: create, look, follow a roll, cancel, …

The machines are nspawn's, the server is `upkeep serve`; the client runs in its own environment
and says what it saw (`compute_story.py`).
"""

import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.machines.real_fleet import RealFleet, real_fleet

pytestmark = pytest.mark.machines

STORY = Path(__file__).with_name("compute_story.py")
SIZE = 4


class Person:
    """Somebody with Azure's SDK and a token."""

    def __init__(self, fleet: RealFleet, python: Path) -> None:
        base = f"https://127.0.0.1:{fleet.port}"
        ca = fleet.stage.state / "ca" / "ca.pem"
        bearer = {"Authorization": f"Bearer {fleet.token}"}
        trust = ssl.create_default_context(cafile=ca)
        (mine,) = httpx.get(f"{base}/subscriptions", headers=bearer, verify=trust).json()["value"]
        self._command = [str(python), str(STORY)]
        self._place = [base, mine["subscriptionId"], "default", fleet.group]
        self._env = {
            **os.environ,
            "PYTHONPATH": "",
            "UPKEEP_TOKEN": fleet.token,
            "REQUESTS_CA_BUNDLE": str(ca),
        }

    def does(self, step: str) -> list[Any]:
        """What the client printed."""
        return self.begins(step)()

    def begins(self, step: str) -> Any:
        """It has begun; the answer waits for its end."""
        running = subprocess.Popen(
            [*self._command, step, *self._place],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        def end() -> list[Any]:
            out, err = running.communicate()
            assert running.returncode == 0, err
            return [json.loads(line) for line in out.splitlines()]

        return end


@pytest.fixture(scope="module")
def fleet(compute_python: Path) -> Iterator[RealFleet]:
    """One for each client."""
    with (
        real_fleet(prepare=lambda overlay: None) as site,
        site.machines_of("shop", SIZE) as fleet,
    ):
        yield fleet


@pytest.fixture(scope="module")
def person(fleet: RealFleet, compute_python: Path) -> Person:
    return Person(fleet, compute_python)


def only(**counters: int) -> dict[str, int]:
    return {"successful": 0, "failed": 0, "in_progress": 0, "pending": 0} | counters


def is_whole(states: list[dict[str, Any]]) -> bool:
    """In each state that was seen the four counters sum to the candidates."""
    names = ("successful", "failed", "in_progress", "pending")
    return all(sum(state[name] for name in names) == SIZE for state in states)


def test_it_sees_the_set_and_its_machines(person: Person) -> None:
    found, one, catalogue = person.does("look")
    assert found["names"] == found["in_group"] == ["shop"]
    assert (found["state"], found["capacity"], found["automatic"]) == ("Succeeded", SIZE, True)
    assert found["summary"]["HealthState/healthy"] == SIZE
    assert found["versions"] == ["1.0.0"] * SIZE
    assert found["current"] == [True] * SIZE
    assert found["ids"] == ["0", "1", "2", "3"]
    assert one["name"] == "shop-0"
    assert "PowerState/running" in one["power"]
    assert catalogue == {"offers": ["shop"], "newest": "1.0.0", "automatic": True}


def test_it_creates_a_set_of_real_machines_and_is_told_what_cannot_be(person: Person) -> None:
    made, refused = person.does("create")
    assert made == {
        "state": "Succeeded",
        "tags": {"made": "by hand"},
        "batch": 20,
        "names": ["till-0", "till-1"],
        "versions": ["1.0.0", "1.0.0"],
    }
    assert (refused["status"], refused["code"]) == (400, "InvalidParameter")
    assert "maxBatchInstancePercent (21) is above maxUnhealthy" in refused["message"]


def test_it_protects_an_instance_shrinks_the_set_and_deletes_it(person: Person) -> None:
    protected, shrunk, gone = person.does("protect")
    assert protected == {"scale_in": True, "actions": False}
    assert shrunk == {"left": ["1"]}
    assert gone == {"names": ["shop"]}


def test_with_nothing_rolling_there_is_nothing_to_cancel(person: Person) -> None:
    (refused,) = person.does("cancel")
    assert refused["status"] == 409
    assert refused["message"] == "There is no ongoing Rolling Upgrade to cancel."


def test_a_roll_waits_for_its_window_and_for_an_approval(fleet: RealFleet, person: Person) -> None:
    """The client of 2020 knows neither; then the roll is the next test's."""
    configured, *more = person.does("close")
    if not configured["can"]:
        return
    assigned, refused = more
    assert configured == {"can": True, "scope": "OSImage", "length": "05:00", "zone": "UTC"}
    assert assigned == {"names": ["by-night"], "same": True}
    assert (refused["status"], refused["code"]) == (400, "InvalidParameter")
    assert "at least 5 h" in refused["message"]
    person.does("defer")
    fleet.publish("1.0.1")

    def held(reason: str) -> int:
        return len(fleet.client.get("/v1/holds", group=fleet.group, reason=reason)["items"])

    fleet.wait("the window", lambda: held("OUTSIDE_WINDOW") == SIZE)
    assert person.does("open") == [{"every": "Day", "length": "20:00"}]
    fleet.wait("an approval", lambda: held("NEEDS_APPROVAL") == SIZE)
    waiting, one = person.does("approve")
    assert waiting == {"waiting": only(pending=SIZE)}
    assert one == {"current": ["1"], "progress": only(successful=1, pending=SIZE - 1)}
    assert person.does("free") == [{"left": []}]


def test_it_follows_a_roll_that_nobody_asked_for_to_its_end(
    fleet: RealFleet, person: Person
) -> None:
    if not fleet.rollouts("1.0.1"):
        fleet.publish("1.0.1")
    fleet.wait("the roll", lambda: fleet.rollouts("1.0.1") != [])
    (told,) = person.does("follow")
    assert [state["code"] for state in told["seen"]][-1] == "Completed"
    assert told["seen"][-1]["successful"] == SIZE
    assert is_whole(told["seen"])
    assert told["id"].endswith("/virtualMachineScaleSets/shop/rollingUpgrades/latest")
    found, *_ = person.does("look")
    assert found["versions"] == ["1.0.1"] * SIZE
    (refused,) = person.does("start")
    assert refused["code"] == "OperationNotAllowed", "nothing is left to upgrade"


def test_changed_custom_data_reaches_every_machine_in_mode_rolling(
    fleet: RealFleet, person: Person
) -> None:
    boots = {name: len(machine.boot_ids) for name, machine in fleet.poller.seen.items()}
    fleet.poller.end_phase()
    changed, reached = person.does("model")
    assert changed == {"mode": "Rolling", "behind": True}
    assert reached["current"] == [True] * SIZE
    rolls = fleet.client.get(f"/v1/groups/{fleet.group}/rollouts")["items"]
    (rollout,) = [r for r in rolls if r["verb"] == "reimage" and r["system"] == "os_image"]
    fleet.wait("its end", lambda: fleet.rollouts(rollout["target"])[0]["ended_at"] is not None)
    fleet.wait("answers from every machine", fleet.poller.all_up)
    assert fleet.poller.end_phase().down_max == 1
    again = {
        name: len(machine.boot_ids) - boots[name] for name, machine in fleet.poller.seen.items()
    }
    assert again == dict.fromkeys(boots, 1)
    told = [path.read_text() for path in fleet.stage.folder.rglob("machines/shop-*/data/told")]
    assert told == ["told\n"] * SIZE, "the script ran once on each new OS disk"


def test_a_broken_image_is_faulted_with_the_documented_code(
    fleet: RealFleet, person: Person
) -> None:
    fleet.publish("1.0.2")
    fleet.wait("the roll", lambda: fleet.rollouts("1.0.2") != [])
    (told,) = person.does("follow")
    assert [state["code"] for state in told["seen"]][-1] == "Faulted"
    assert told["code"] == "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade"
    assert "shop-0" in told["why"]
    assert is_whole(told["seen"])
    found, *_ = person.does("look")
    assert "1.0.2" not in found["versions"]
    assert found["current"] == [False] * SIZE


def test_it_stops_starts_restarts_and_removes_machines(fleet: RealFleet, person: Person) -> None:
    fleet.wait("healthy machines", lambda: fleet.healthy() == SIZE)
    boots = {name: len(machine.boot_ids) for name, machine in fleet.poller.seen.items()}
    off, on, restarted, left, refused = person.does("power")
    stopped, running = "PowerState/stopped", "PowerState/running"
    assert off["off"] == [stopped, running, running, running]
    assert on["on"] == restarted["restarted"] == [running] * SIZE
    assert (left["left"], left["capacity"]) == (["0", "1", "2"], SIZE - 1)
    assert (refused["status"], refused["code"]) == (404, "ResourceNotFound")
    again = {name: len(machine.boot_ids) - boots[name] for name, machine in
             fleet.poller.seen.items()}  # fmt: skip
    assert again == {"shop-0": 1, "shop-1": 1, "shop-2": 0, "shop-3": 0}


def test_a_start_by_hand_stays_open_for_the_roll_and_a_cancel_ends_it(
    fleet: RealFleet, person: Person
) -> None:
    started = person.begins("start")
    fleet.wait(
        "the roll by hand",
        lambda: any(r["ended_at"] is None for r in fleet.rollouts("1.0.2")),
    )
    (cancelled,) = person.does("cancel")
    assert cancelled == {"status": "done"}
    (ended,) = started()
    assert ended["status"] == 200
    assert ended["code"] in ("Canceled", "OperationPreempted") or "Unhealthy" in ended["code"]
    # Started by a person, it takes no machine back by itself.  Source: sheet os-image §2.8.
    (told,) = person.does("history")
    assert [past["version"] for past in told["past"]] == ["1.0.2", "1.0.2", "1.0.1"]
    assert [past["started_by"] for past in told["past"]] == ["User", "Platform", "Platform"]
    assert told["past"][1]["rolled_back"] == 1
