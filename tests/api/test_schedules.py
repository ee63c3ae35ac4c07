"""Schedules through the native API: what they accept, their windows, who waits for them."""

from typing import Any

import httpx
import pytest
from tests.api.agent_by_hand import eventually
from tests.api.test_groups import publish, with_machines

NIGHTS = {
    "name": "nights",
    "starts": "2026-01-05 22:00",
    "zone": "Europe/Berlin",
    "length_s": 5 * 3_600,
    "recur_every": "Week Saturday,Sunday",
}


def test_a_schedule_says_its_next_windows(admin: httpx.Client) -> None:
    made = admin.post("/v1/schedules", json=NIGHTS)
    assert made.status_code == 201, made.text
    assert len(made.json()["windows"]) == 5
    assert admin.get("/v1/schedules/nights").json() == made.json()
    (listed,) = admin.get("/v1/schedules").json()["items"]
    assert (listed["name"], listed["groups"], listed["expires"]) == ("nights", [], None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"length_s": 5 * 3_600 - 60}, "at least 5 h"),
        ({"length_s": 90}, "whole minutes"),
        ({"length_s": 0}, "whole minutes"),
        ({"recur_every": "8Days"}, "more than 7 days"),
        ({"recur_every": "Month day1"}, "more than 7 days"),
        ({"recur_every": "Sometimes"}, "how often"),
        ({"zone": "Mars/Olympus"}, "IANA name"),
        ({"zone": "../../etc/passwd"}, "IANA name"),
        ({"starts": "2026-02-30 22:00"}, "no time"),
        ({"starts": "tomorrow"}, "wall-clock time"),
        ({"starts": "1999-12-31 22:00"}, "2000 to 2999"),
        ({"starts": "3000-01-01 00:00"}, "2000 to 2999"),
        ({"expires": "2026-01-05 21:00"}, "before its first window"),
        ({"name": "No Name"}, "a-z"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused_and_says_why(
    admin: httpx.Client, change: dict[str, Any], why: str
) -> None:
    """Sheet os-image §2.6 #1."""
    refused = admin.post("/v1/schedules", json=NIGHTS | change)
    assert refused.status_code == 400
    assert why in refused.json()["detail"]
    assert admin.get("/v1/schedules").json()["items"] == []


@pytest.mark.parametrize("starts", ["2000-01-01 00:00", "2999-12-31 23:59"])
def test_windows_from_the_first_and_the_last_start_can_be_said(
    admin: httpx.Client, starts: str
) -> None:
    """The planner asks for them, and must not stumble: it would stand still for every group."""
    made = admin.post("/v1/schedules", json=NIGHTS | {"starts": starts})
    assert made.status_code == 201, made.text
    assert len(made.json()["windows"]) == 5


def test_a_name_is_taken_once(admin: httpx.Client) -> None:
    admin.post("/v1/schedules", json=NIGHTS)
    assert admin.post("/v1/schedules", json=NIGHTS).status_code == 409
    assert admin.get("/v1/schedules/days").status_code == 404


def test_a_change_keeps_what_it_does_not_name_and_a_bad_one_changes_nothing(
    admin: httpx.Client,
) -> None:
    made = admin.post("/v1/schedules", json=NIGHTS).json()
    refused = admin.patch("/v1/schedules/nights", json={"zone": "UTC", "length_s": 3_600})
    assert refused.status_code == 400
    assert admin.get("/v1/schedules/nights").json() == made
    changed = admin.patch(
        "/v1/schedules/nights", json={"length_s": 6 * 3_600, "expires": "2099-01-01 00:00"}
    ).json()
    assert (changed["length_s"], changed["zone"]) == (6 * 3_600, "Europe/Berlin")
    assert changed["expires"] == "2099-01-01 00:00"
    cleared = admin.patch("/v1/schedules/nights", json={"expires": None}).json()
    assert cleared["expires"] is None


@pytest.mark.number("os-image", "OS image window")
def test_a_group_waits_for_its_windows_and_works_at_any_time_without_them(
    server: Any, admin: httpx.Client
) -> None:
    with_machines(server, admin)
    # It begins long after this test; until then every moment is outside.
    far = NIGHTS | {"starts": "2099-01-05 22:00", "recur_every": "Day"}
    assert admin.post("/v1/schedules", json=far).status_code == 201
    assigned = admin.put("/v1/schedules/nights/groups/web")
    assert (assigned.status_code, assigned.json()["groups"]) == (200, ["web"])
    assert publish(admin, "1.0.1").status_code == 201

    def waiting() -> list[Any]:
        held: list[Any] = admin.get("/v1/holds?reason=OUTSIDE_WINDOW").json()["items"]
        return held

    eventually(lambda: len(waiting()) == 3)
    assert waiting()[0]["lifted_by"] == "window nights opens"
    assert waiting()[0]["until"] == "2099-01-05T21:00:00Z"
    removed = admin.delete("/v1/schedules/nights/groups/web")
    assert (removed.status_code, removed.json()["groups"]) == (200, [])
    eventually(lambda: waiting() == [])
    assert admin.delete("/v1/schedules/nights/groups/web").status_code == 404


def test_deleting_a_schedule_frees_its_groups(server: Any, admin: httpx.Client) -> None:
    with_machines(server, admin)
    admin.post("/v1/schedules", json=NIGHTS | {"starts": "2099-01-05 22:00"})
    admin.put("/v1/schedules/nights/groups/web")
    assert admin.put("/v1/schedules/nights/groups/nobody").status_code == 404
    assert admin.delete("/v1/schedules/nights").json()["groups"] == ["web"]
    assert publish(admin, "1.0.1").status_code == 201
    eventually(lambda: admin.get("/v1/rollouts").json()["items"][0]["batch"] == 1)
    assert admin.delete("/v1/schedules/nights").status_code == 404
