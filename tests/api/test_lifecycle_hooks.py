"""What rollouts ask at their lifecycle hooks, through the native API."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from tests.api.agent_by_hand import eventually
from tests.api.test_groups import publish, with_machines


def asking(server: Any, admin: httpx.Client, **policy: Any) -> list[str]:
    """A group that asks, and a version that makes it ask."""
    names = with_machines(server, admin)
    hooks = {"batch_hook_wait_s": 3_600, "max_batch_percent": 67, "max_unhealthy_percent": 67}
    changed = admin.patch("/v1/groups/web", json={"policy": hooks | policy})
    assert changed.status_code == 200, changed.text
    assert publish(admin, "1.0.1").status_code == 201
    eventually(lambda: admin.get("/v1/hooks").json()["items"] != [])
    return names


def question(admin: httpx.Client) -> dict[str, Any]:
    (found,) = admin.get("/v1/hooks").json()["items"]
    assert admin.get(f"/v1/hooks/{found['id']}").json() == found
    document: dict[str, Any] = found
    return document


def test_a_batch_is_asked_about_and_goes_once_everybody_is_answered_for(
    server: Any, admin: httpx.Client
) -> None:
    first, second, third = asking(server, admin)
    asked = question(admin)
    assert (asked["group"], asked["about"], asked["silence"]) == ("web", "batch", "approved")
    assert asked["answers"] == {first: "waiting", second: "waiting"}
    path = f"/v1/hooks/{asked['id']}/answer"
    some = admin.post(path, json={"answer": "rejected", "machines": [second]}).json()
    assert some["answers"] == {first: "waiting", second: "rejected"}
    assert question(admin)["open"] is True
    assert admin.post(path, json={"answer": "approved", "machines": [first]}).status_code == 200
    eventually(lambda: admin.get(f"/v1/hooks/{asked['id']}").json()["open"] is False)
    rollout = admin.get(f"/v1/rollouts/{asked['rollout']}").json()
    states = {task["machine"]: (task["batch"], task["detail"]) for task in rollout["tasks"]}
    assert states[first][0] == 1
    assert states[second] == (0, "rejected at the lifecycle hook")
    assert admin.post(path, json={"answer": "approved"}).status_code == 409
    held = {h["machine"]: h["reason"] for h in admin.get("/v1/holds").json()["items"]}
    assert held == {second: "HOOK", third: "BATCH_OPEN"}


def test_a_rejected_beginning_ends_the_rollout(server: Any, admin: httpx.Client) -> None:
    asking(server, admin, start_hook_wait_s=60, batch_hook_wait_s=0, start_hook_approves=False)
    asked = question(admin)
    assert (asked["about"], asked["answer"], asked["answers"]) == ("start", "waiting", {})
    assert asked["silence"] == "rejected"
    answered = admin.post(f"/v1/hooks/{asked['id']}/answer", json={"answer": "rejected"})
    assert answered.json()["answer"] == "rejected"
    path = f"/v1/rollouts/{asked['rollout']}"
    eventually(lambda: admin.get(path).json()["state"] == "cancelled")
    assert "rejected at its lifecycle hook" in admin.get(path).json()["evidence"]


def test_a_question_may_wait_longer_but_not_for_ever(server: Any, admin: httpx.Client) -> None:
    asking(server, admin)
    path = f"/v1/hooks/{question(admin)['id']}"
    later = datetime.now(UTC) + timedelta(hours=30)
    changed = admin.patch(path, json={"wait_until": later.isoformat()})
    assert datetime.fromisoformat(changed.json()["wait_until"]) == later
    too_late = datetime.now(UTC) + timedelta(hours=49)
    refused = admin.patch(path, json={"wait_until": too_late.isoformat()})
    assert (refused.status_code, "two days" in refused.json()["detail"]) == (400, True)
    assert admin.get(path).json() == changed.json()


@pytest.mark.parametrize("hook", ["nothing", "ro_x.1", "ro_x.y", "ro_x.999999999999"])
def test_a_question_that_was_never_put_is_not_found(admin: httpx.Client, hook: str) -> None:
    path = f"/v1/hooks/{hook}"
    assert admin.get(path).status_code == 404
    assert admin.post(f"{path}/answer", json={"answer": "approved"}).status_code == 404


def test_what_is_not_asked_about_cannot_be_answered_for(server: Any, admin: httpx.Client) -> None:
    *_, third = asking(server, admin)
    asked = question(admin)
    path = f"/v1/hooks/{asked['id']}/answer"
    refused = admin.post(path, json={"answer": "approved", "machines": [third]})
    assert (refused.status_code, third in refused.json()["detail"]) == (400, True)
    assert admin.post(path, json={"answer": "perhaps"}).status_code == 400
    assert question(admin) == asked


def test_another_scope_sees_no_question(server: Any, admin: httpx.Client) -> None:
    asking(server, admin)
    other = server.client(server.token("operator", scope="other"))
    assert other.get("/v1/hooks").json()["items"] == []
    assert other.get(f"/v1/hooks/{question(admin)['id']}").status_code == 404
