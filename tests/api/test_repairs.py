"""Repairs through the native API: what a group may ask for, suspending, resuming."""

from typing import Any

import httpx
import pytest
from tests.api.test_groups import make, publish


def with_repairs(admin: httpx.Client, **values: Any) -> httpx.Response:
    publish(admin)
    return make(admin, image="web", **{"repair_action": "restart"} | values)


@pytest.mark.number("os-image", "repairs")
def test_a_group_says_how_it_repairs(admin: httpx.Client) -> None:
    made = with_repairs(admin, repair_grace_s=1_800)
    assert made.status_code == 201, made.text
    assert (made.json()["repair_action"], made.json()["repair_grace_s"]) == ("restart", 1_800)
    changed = admin.patch("/v1/groups/web", json={"repair_action": "replace"}).json()
    assert (changed["repair_action"], changed["repair_grace_s"]) == ("replace", 1_800)
    off = admin.patch("/v1/groups/web", json={"repair_action": None}).json()
    assert (off["repair_action"], off["repairs_suspended_at"]) == (None, None)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"repair_grace_s": 599}, "10 to 90 minutes"),
        ({"repair_grace_s": 5_401}, "10 to 90 minutes"),
        ({"repair_action": "pray"}, "replace"),
        ({"probe": None, "auto_upgrade": False}, "health source"),
    ],
)
def test_what_cannot_be_repaired_is_refused_and_says_why(
    admin: httpx.Client, values: dict[str, Any], why: str
) -> None:
    refused = with_repairs(admin, **values)
    assert (refused.status_code, why in refused.json()["detail"]) == (400, True), refused.text
    assert admin.get("/v1/groups").json()["items"] == []


@pytest.mark.parametrize("action", ["reimage", "replace"])
def test_machines_that_upkeep_did_not_make_are_only_restarted(
    admin: httpx.Client, action: str
) -> None:
    probe = {"protocol": "tcp", "port": 22}
    group = {"name": "metal", "platform": "agent_only", "probe": probe, "repair_action": action}
    refused = admin.post("/v1/groups", json=group)
    assert (refused.status_code, "repair_action" in refused.json()["detail"]) == (400, True)
    assert admin.post("/v1/groups", json=group | {"repair_action": "restart"}).status_code == 201


def test_repairs_are_suspended_and_resumed(admin: httpx.Client) -> None:
    with_repairs(admin)
    suspended = admin.post("/v1/groups/web/repairs/suspend")
    assert suspended.status_code == 200
    assert suspended.json()["repairs_suspended_at"] is not None
    resumed = admin.post("/v1/groups/web/repairs/resume").json()
    assert resumed["repairs_suspended_at"] is None
    told = [line["line"] for line in admin.get("/v1/groups/web/story").json()["items"]]
    assert any("resumed repairs" in line for line in told)


def test_what_is_not_repaired_cannot_be_suspended(admin: httpx.Client) -> None:
    with_repairs(admin, repair_action=None)
    refused = admin.post("/v1/groups/web/repairs/suspend")
    assert (refused.status_code, "repair_action" in refused.json()["detail"]) == (409, True)
