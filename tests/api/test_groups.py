"""Groups, machines and rollouts as an operator changes them."""

import time
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select, update

from upkeep.store import tables as t
from upkeep.store.groups import remove_if_empty

PROBE = {"protocol": "http", "port": 8080, "path": "/health"}
TAR = b"a root file system" * 1000


def publish(
    client: httpx.Client, version: str = "1.0.0", content: bytes = TAR, **query: Any
) -> Any:
    import hashlib

    return client.put(
        f"/v1/images/web/versions/{version}/tar",
        content=content,
        params=query,
        headers={"Digest": f"sha-256={hashlib.sha256(content).hexdigest()}"},
    )


def make(client: httpx.Client, **changes: Any) -> Any:
    body = {"name": "web", "platform": "simulated", "probe": PROBE, **changes}
    return client.post("/v1/groups", json=body)


def group_row(server: Any, name: str = "web") -> Any:
    return server.read(lambda c: c.execute(select(t.groups).where(t.groups.c.name == name)).one())


def eventually(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def with_machines(server: Any, client: httpx.Client, count: int = 3) -> list[str]:
    """A group whose machines were made, by telling the rows what a platform would have."""
    publish(client)
    assert make(client, image="web", capacity=count).status_code == 201
    eventually(lambda: client.get("/v1/groups/web").json()["machines"]["creating"] == count)
    server.write(
        lambda c: c.execute(
            update(t.machines).values(lifecycle="present", health="healthy", image="1.0.0")
        )
    )
    server.write(lambda c: c.execute(update(t.rollouts).values(state="completed", ended_at=1)))
    server.write(lambda c: c.execute(update(t.tasks).values(state="done")))
    server.write(lambda c: c.execute(update(t.actions).values(state="succeeded", ended_at=1)))
    server.write(lambda c: c.execute(update(t.machines).values(in_work=0)))
    return [m["name"] for m in client.get("/v1/machines?group=web").json()["items"]]


def test_a_group_is_made_with_its_own_budget_and_its_machines(admin: httpx.Client) -> None:
    publish(admin)
    made = make(admin, image="web", capacity=3, policy={"max_batch_percent": 10})
    assert made.status_code == 201
    assert made.json()["policy"]["max_batch_percent"] == 10
    assert made.json()["policy"]["health_wait_s"] == 300
    (budget,) = admin.get("/v1/budgets").json()["items"]
    assert (budget["group"], budget["max_down"], budget["percent"]) == ("web", 10, True)
    eventually(lambda: admin.get("/v1/groups/web").json()["machines"]["total"] == 3)


def test_a_change_fails_the_plan_that_is_being_made(server: Any, admin: httpx.Client) -> None:
    make(admin)
    server.planning = False
    time.sleep(0.1)
    row = group_row(server)
    read = server.services.store.read_group(
        row.id, now=server.services.clock.now(), clock_stepped=False
    )
    from upkeep.core.plan import plan_group

    snapshot, mark = read
    plan = plan_group(snapshot, now=server.services.clock.now())
    assert admin.patch("/v1/groups/web", json={"capacity": 7}).status_code == 200
    now = server.services.clock.now()
    assert not server.services.store.commit_plan(plan, mark, now=now)
    assert group_row(server).capacity == 7
    assert group_row(server).wake_at is not None


@pytest.mark.parametrize("what", ["pause", "resume"])
def test_pausing_holds_at_once(server: Any, admin: httpx.Client, what: str) -> None:
    make(admin)
    before = group_row(server).fence
    answer = admin.post(f"/v1/groups/web/{what}")
    assert answer.json()["paused"] is (what == "pause")
    assert group_row(server).fence > before


def test_a_patch_changes_what_it_names_and_nothing_else(admin: httpx.Client) -> None:
    make(admin, policy={"bake_time_s": 60, "max_batch_percent": 5}, zones=["1", "2"])
    changed = admin.patch("/v1/groups/web", json={"policy": {"max_batch_percent": 15}}).json()
    assert changed["policy"]["bake_time_s"] == 60
    assert changed["policy"]["max_batch_percent"] == 15
    assert changed["zones"] == ["1", "2"]
    (budget,) = admin.get("/v1/budgets").json()["items"]
    assert budget["max_down"] == 15


def test_taking_the_probe_away_needs_auto_upgrade_off(admin: httpx.Client) -> None:
    make(admin)
    refused = admin.patch("/v1/groups/web", json={"probe": None})
    assert refused.status_code == 400
    assert "probe" in refused.json()["detail"]
    both = admin.patch("/v1/groups/web", json={"probe": None, "auto_upgrade": False})
    assert both.json()["probe"] is None


def test_scripts_are_stored_in_the_order_they_run(server: Any, admin: httpx.Client) -> None:
    def script(name: str, *after: str) -> dict[str, Any]:
        return {"name": name, "content": "ZWNobyBoaQ==", "provision_after": list(after)}

    made = make(admin, scripts=[script("c", "b"), script("a"), script("b", "a")])
    assert [s["name"] for s in made.json()["scripts"]] == ["a", "b", "c"]
    assert "ZWNobyBoaQ==" in group_row(server).scripts
    assert "ZWNobyBoaQ==" not in made.text
    circle = make(admin, name="x", scripts=[script("a", "b"), script("b", "a")])
    assert circle.status_code == 400
    assert "circle" in circle.json()["detail"]
    missing = make(admin, name="y", scripts=[script("a", "z")])
    assert "comes after z" in missing.json()["detail"]


def test_secrets_of_a_group_are_not_in_the_audit_log(admin: httpx.Client) -> None:
    make(admin, user_data="aHVudGVyMg==")
    admin.patch("/v1/groups/web", json={"user_data": "aHVudGVyMw==", "capacity": 0})
    assert "aHVudGVy" not in admin.get("/v1/audit").text
    assert "aHVudGVy" not in admin.get("/v1/groups/web").text


def test_a_group_without_machines_is_removed_at_once_and_its_name_is_free(
    admin: httpx.Client,
) -> None:
    make(admin)
    assert admin.delete("/v1/groups/web").status_code == 202
    assert admin.get("/v1/groups/web").status_code == 404
    assert admin.get("/v1/budgets").json()["items"] == []
    assert make(admin).status_code == 201


def test_a_removed_group_goes_when_its_last_machine_has_gone(
    server: Any, admin: httpx.Client
) -> None:
    with_machines(server, admin)
    assert admin.delete("/v1/groups/web").json()["deleting"] is True
    group = group_row(server).id
    now = server.services.clock.now()
    assert not server.write(remove_if_empty, group, now=now)
    assert admin.patch("/v1/groups/web", json={"capacity": 3}).status_code == 409
    server.planning = False
    time.sleep(0.1)
    server.write(lambda c: c.execute(update(t.machines).values(lifecycle="deleted")))
    server.write(lambda c: c.execute(update(t.rollouts).values(ended_at=1)))
    assert server.write(remove_if_empty, group, now=now)
    assert admin.get("/v1/groups/web").status_code == 404
    server.planning = True
    assert make(admin, image="web", capacity=3).status_code == 201
    eventually(lambda: admin.get("/v1/machines?group=web").json()["items"] != [])


def test_protected_machines_keep_their_group(server: Any, admin: httpx.Client) -> None:
    first, *_ = with_machines(server, admin)
    admin.patch(f"/v1/machines/{first}", json={"protected": True})
    refused = admin.delete("/v1/groups/web")
    assert refused.status_code == 409
    assert first in refused.json()["detail"]


def test_a_group_goes_with_those_who_were_to_stay(server: Any, admin: httpx.Client) -> None:
    first, *_ = with_machines(server, admin)
    admin.patch(f"/v1/machines/{first}", json={"scale_in_protected": True})
    assert admin.delete("/v1/groups/web").status_code == 202
    assert admin.get(f"/v1/machines/{first}").json()["scale_in_protected"] is False
    refused = admin.patch(f"/v1/machines/{first}", json={"protected": True})
    assert refused.status_code == 409
    assert "is being deleted" in refused.json()["detail"]


# --- Calls ----------------------------------------------------------------------------------------


def test_a_restart_answers_with_its_rollout(server: Any, admin: httpx.Client) -> None:
    first, *_ = with_machines(server, admin)
    answer = admin.post(f"/v1/machines/{first}/restart", json={"force": True})
    assert answer.status_code == 202, answer.text
    rollout = answer.json()
    assert (rollout["verb"], rollout["force"], rollout["size"]) == ("restart", True, 1)
    assert [task["machine"] for task in rollout["tasks"]] == [first]
    explained = admin.get(f"/v1/machines/{first}/explain").json()
    assert explained["task"]["rollout"] == rollout["id"]


def test_what_the_planner_refuses_is_a_409_with_its_words(server: Any, admin: httpx.Client) -> None:
    first, *_ = with_machines(server, admin)
    refused = admin.post(f"/v1/machines/{first}/start")
    assert (refused.status_code, refused.json()["kind"]) == (409, "refused")
    assert first in refused.json()["detail"]
    again = admin.post("/v1/groups/web/rollouts", json={"version": "9.9.9"})
    assert (again.status_code, again.json()["kind"]) == (409, "refused")


def test_a_rollout_by_hand_and_its_steering(server: Any, admin: httpx.Client) -> None:
    with_machines(server, admin)
    admin.patch("/v1/groups/web", json={"auto_upgrade": False})
    assert publish(admin, "1.0.1").status_code == 201
    started = admin.post("/v1/groups/web/rollouts", json={"version": "1.0.1"})
    assert started.status_code == 202, started.text
    rollout = started.json()["id"]
    assert admin.post(f"/v1/rollouts/{rollout}/pause").json()["paused"] is True
    assert admin.post(f"/v1/rollouts/{rollout}/resume").json()["paused"] is False
    assert admin.post(f"/v1/rollouts/{rollout}/cancel").json()["cancel_requested"] is True
    listed = admin.get("/v1/groups/web/rollouts").json()["items"]
    assert rollout in [entry["id"] for entry in listed]
    assert admin.get("/v1/rollouts?group=web&limit=1").json()["next"]


def test_a_rollout_that_needs_approval_waits_for_it(server: Any, admin: httpx.Client) -> None:
    first, *others = with_machines(server, admin)
    admin.patch("/v1/groups/web", json={"policy": {"needs_approval": True}})
    assert publish(admin, "1.0.1").status_code == 201

    def waiting() -> list[str]:
        held = admin.get("/v1/holds?reason=NEEDS_APPROVAL").json()["items"]
        return sorted(hold["machine"] for hold in held)

    eventually(lambda: waiting() == sorted([first, *others]))
    (rollout,) = [r for r in admin.get("/v1/rollouts").json()["items"] if r["target"] == "1.0.1"]
    path = f"/v1/rollouts/{rollout['id']}/approve"
    answer = admin.post(path, json={"machines": [first]}).json()
    assert [t["machine"] for t in answer["tasks"] if t["approved"]] == [first]
    eventually(lambda: waiting() == sorted(others))
    assert all(t["approved"] for t in admin.post(path, json={}).json()["tasks"])


def test_a_canary_is_held_until_it_is_promoted(server: Any, admin: httpx.Client) -> None:
    with_machines(server, admin)
    admin.patch("/v1/groups/web", json={"policy": {"canary_percent": 34}})
    assert publish(admin, "1.0.1").status_code == 201
    eventually(lambda: admin.get("/v1/rollouts").json()["items"][0]["target"] == "1.0.1")
    rollout = admin.get("/v1/rollouts").json()["items"][0]["id"]
    assert admin.get(f"/v1/rollouts/{rollout}").json()["promoted"] is False
    assert admin.post(f"/v1/rollouts/{rollout}/promote").json()["promoted"] is True
    admin.patch("/v1/groups/web", json={"policy": {"canary_percent": 0}, "auto_upgrade": False})
    ended = [r["id"] for r in admin.get("/v1/rollouts").json()["items"]][-1]
    refused = admin.post(f"/v1/rollouts/{ended}/promote")
    assert (refused.status_code, "no canary" in refused.json()["detail"]) == (409, True)


def test_an_approval_that_changes_nothing_is_refused_and_says_why(
    server: Any, admin: httpx.Client
) -> None:
    first, *_ = with_machines(server, admin)
    (ended, *_) = [r["id"] for r in admin.get("/v1/rollouts").json()["items"]][-1:]
    answer = admin.post(f"/v1/rollouts/{ended}/approve", json={})
    assert (answer.status_code, "has ended" in answer.json()["detail"]) == (409, True)
    admin.patch("/v1/groups/web", json={"auto_upgrade": False})
    assert publish(admin, "1.0.1").status_code == 201
    running = admin.post("/v1/groups/web/rollouts", json={}).json()["id"]
    answer = admin.post(f"/v1/rollouts/{running}/approve", json={"machines": [first]})
    assert (answer.status_code, "needs no approval" in answer.json()["detail"]) == (409, True)
    answer = admin.post(f"/v1/rollouts/{running}/approve", json={"machines": ["nobody"]})
    assert answer.status_code == 404


def test_an_ended_rollout_cannot_be_steered(server: Any, admin: httpx.Client) -> None:
    with_machines(server, admin)
    ended = admin.get("/v1/rollouts").json()["items"][-1]["id"]
    assert admin.post(f"/v1/rollouts/{ended}/pause").status_code == 409


# --- Images ---------------------------------------------------------------------------------------


def test_publishing_starts_a_rollout_with_nobody_asking(server: Any, admin: httpx.Client) -> None:
    with_machines(server, admin)
    assert publish(admin, "1.0.1").status_code == 201
    eventually(lambda: admin.get("/v1/groups/web").json()["rollout"] is not None)


def test_excluding_stops_it(server: Any, admin: httpx.Client) -> None:
    with_machines(server, admin)
    fence = group_row(server).fence
    excluded = admin.patch("/v1/images/web/versions/1.0.0", json={"excluded": True}).json()
    assert excluded["latest"] is None
    assert group_row(server).fence > fence
    back = admin.patch("/v1/images/web/versions/1.0.0", json={"excluded": False}).json()
    assert back["latest"] == "1.0.0"


def test_a_version_never_changes(admin: httpx.Client) -> None:
    assert publish(admin).status_code == 201
    assert publish(admin).status_code == 200
    other = publish(admin, content=b"something else")
    assert (other.status_code, other.json()["kind"]) == (409, "conflict")


def test_a_version_is_usable_where_groups_are_or_where_it_is_asked_for(
    admin: httpx.Client,
) -> None:
    make(admin, region="eu-1")
    assert publish(admin).json()["regions"] == ["eu-1", "local"]
    assert publish(admin, "1.0.1", regions="us-1").json()["regions"] == ["us-1"]
    more = admin.post("/v1/images/web/versions/1.0.1/replicate", json={"regions": ["eu-1"]})
    assert more.json()["versions"][0]["regions"] == ["eu-1", "us-1"]


def test_a_groups_image_is_not_changed_while_a_rollout_of_it_runs(
    server: Any, admin: httpx.Client
) -> None:
    with_machines(server, admin)
    assert admin.post("/v1/images", json={"name": "other"}).status_code == 201
    publish(admin, "1.0.1")
    eventually(lambda: admin.get("/v1/groups/web").json()["rollout"] is not None)
    refused = admin.patch("/v1/groups/web", json={"image": "other"})
    assert refused.status_code == 409
    assert "cancel it" in refused.json()["detail"]
    assert group_row(server).image_name == "web"
    server.write(lambda c: c.execute(update(t.rollouts).values(state="cancelled", ended_at=1)))
    assert admin.patch("/v1/groups/web", json={"image": "other"}).status_code == 200


def test_an_image_that_is_too_large_leaves_nothing(server: Any, admin: httpx.Client) -> None:
    answer = publish(admin, content=b"x" * (5 * 1024 * 1024))
    assert (answer.status_code, answer.json()["kind"]) == (413, "too_large")
    assert list(server.services.blobs.incoming.iterdir()) == []


# --- Scope ----------------------------------------------------------------------------------------


def test_a_token_of_one_scope_sees_and_changes_only_that(server: Any, admin: httpx.Client) -> None:
    make(admin, name="mine", scope="team-a")
    make(admin, name="theirs", scope="team-b")
    narrow = server.client(server.token("operator", scope="team-a"))
    assert [g["name"] for g in narrow.get("/v1/groups").json()["items"]] == ["mine"]
    assert narrow.get("/v1/groups/theirs").status_code == 404
    assert narrow.patch("/v1/groups/theirs", json={"capacity": 1}).status_code == 404
    assert narrow.post("/v1/groups/theirs/pause").status_code == 404
    assert narrow.delete("/v1/groups/theirs").status_code == 404
    assert narrow.patch("/v1/groups/mine", json={"capacity": 1}).status_code == 200
    assert make(narrow, name="other", scope="team-b").status_code == 403
    for path, body in (
        ("/v1/budgets", {"name": "b", "max_down": 1}),
        ("/v1/images", {"name": "x"}),
        ("/v1/clock/accept", None),
        (
            "/v1/blackouts",
            {"name": "b", "opens": "2026-12-24T00:00:00Z", "closes": "2026-12-25T00:00:00Z"},
        ),
    ):
        assert narrow.post(path, json=body).status_code == 403, path


# --- Budgets, blackouts ---------------------------------------------------------------------------


def test_budgets_over_groups(admin: httpx.Client) -> None:
    make(admin)
    body = {"name": "site", "selector": {"groups": ["web"], "zones": ["1"]}, "max_down": 2}
    made = admin.post("/v1/budgets", json=body)
    assert made.status_code == 201, made.text
    assert made.json()["selector"] == {"groups": ["web"], "zones": ["1"], "hosts": []}
    changed = admin.patch("/v1/budgets/site", json={"min_available": 90, "percent": True}).json()
    assert (changed["max_down"], changed["min_available"]) == (None, 90)
    assert admin.post("/v1/budgets", json=body).status_code == 409
    assert admin.delete("/v1/budgets/site").status_code == 200
    assert admin.get("/v1/budgets/site").status_code == 404


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "max_down"),
        ({"max_down": 1, "min_available": 1}, "not both"),
        ({"max_down": 101, "percent": True}, "0 to 100"),
        ({"rate": 3}, "rate_period_s"),
        ({"max_down": 1, "selector": {"groups": ["nobody"]}}, "nobody"),
        ({"max_down": 1.5}, "int"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(
    admin: httpx.Client, body: dict[str, Any], word: str
) -> None:
    answer = admin.post("/v1/budgets", json={"name": "b", **body})
    assert answer.status_code == 400
    assert word in answer.json()["detail"]


def test_a_groups_own_budget_is_its_policys(admin: httpx.Client) -> None:
    make(admin)
    (own,) = admin.get("/v1/budgets").json()["items"]
    assert admin.patch(f"/v1/budgets/{own['id']}", json={"max_down": 99}).status_code == 409
    assert admin.delete(f"/v1/budgets/{own['id']}").status_code == 409


def test_blackouts(server: Any, admin: httpx.Client) -> None:
    make(admin)
    fence = group_row(server).fence
    body = {"name": "Christmas", "opens": "2026-12-24T18:00:00+01:00",
            "closes": "2026-12-27T06:00:00Z", "group": "web"}  # fmt: skip
    made = admin.post("/v1/blackouts", json=body).json()
    assert made["opens"] == "2026-12-24T17:00:00Z"
    assert group_row(server).fence > fence
    assert [b["group"] for b in admin.get("/v1/blackouts").json()["items"]] == ["web"]
    assert admin.delete(f"/v1/blackouts/{made['id']}").status_code == 200
    assert admin.get("/v1/blackouts").json()["items"] == []
    turned = {**body, "closes": "2026-12-24T00:00:00Z"}
    assert admin.post("/v1/blackouts", json=turned).status_code == 400
    naive = {**body, "opens": "2026-12-24T18:00:00"}
    assert "offset" in admin.post("/v1/blackouts", json=naive).json()["detail"]


# --- Lists and events -----------------------------------------------------------------------------


def test_pages_join_to_the_whole_list(admin: httpx.Client) -> None:
    names = [f"g{number}" for number in range(7)]
    for name in names:
        make(admin, name=name)
    seen: list[str] = []
    after = None
    while True:
        page = admin.get("/v1/groups", params={"limit": 3, **({"after": after} if after else {})})
        seen += [group["name"] for group in page.json()["items"]]
        after = page.json()["next"]
        if after is None:
            break
    assert seen == names


def test_events_name_the_group_that_changed(admin: httpx.Client) -> None:
    make(admin)
    with admin.stream("GET", "/v1/events") as stream:
        lines = stream.iter_lines()
        assert "connected" in next(line for line in lines if line)
        assert admin.post("/v1/groups/web/pause").status_code == 200
        found = [next(line for line in lines if line.startswith(w)) for w in ("event:", "data:")]
    assert found == ["event: changed", "data: web"]


def test_machine_names_cannot_collide(server: Any, admin: httpx.Client) -> None:
    make(admin)
    admin.post("/v1/groups", json={"name": "db", "platform": "agent_only", "auto_upgrade": False})
    assert admin.post("/v1/machines", json={"name": "web-3", "group": "db"}).status_code == 409
    assert admin.post("/v1/machines", json={"name": "api-3", "group": "db"}).status_code == 201
    assert make(admin, name="api").status_code == 409
    assert admin.post("/v1/machines", json={"name": "x", "group": "web"}).status_code == 400


def test_holds_are_listed_with_their_reason(server: Any, admin: httpx.Client) -> None:
    first, *_ = with_machines(server, admin)
    row = server.read(lambda c: c.execute(select(t.machines).order_by(t.machines.c.id)).first())
    server.planning = False
    time.sleep(0.1)
    hold = insert(t.holds).values(
        machine_id=row.id, system="os_image", group_id=row.group_id, reason="PAUSED", since=1,
        lifted_by="resume the group",
    )  # fmt: skip
    server.write(lambda c: c.execute(hold))
    (found,) = admin.get("/v1/holds?group=web&reason=PAUSED").json()["items"]
    assert (found["machine"], found["lifted_by"]) == (first, "resume the group")
    assert admin.get("/v1/holds?reason=NONSENSE").status_code == 400


def test_a_pace_is_set_shown_and_refused(server: Any, admin: httpx.Client) -> None:
    with_machines(server, admin)
    pace = {"checkpoints": [20, 50], "checkpoint_bake_s": 600, "ramp_s": 7200}
    assert admin.patch("/v1/groups/web", json={"policy": pace}).status_code == 200
    shown = admin.get("/v1/groups/web").json()["policy"]
    assert {key: shown[key] for key in pace} == pace
    for wrong in ({"checkpoints": [50, 20]}, {"checkpoints": ["x"]}, {"ramp_s": -1}):
        refused = admin.patch("/v1/groups/web", json={"policy": wrong})
        assert (refused.status_code, next(iter(wrong)) in refused.text) == (400, True), refused.text
    assert admin.get("/v1/groups/web").json()["policy"] == shown


def test_a_version_is_made_a_floor_and_machines_go_through_it(
    server: Any, admin: httpx.Client
) -> None:
    with_machines(server, admin)
    admin.patch("/v1/groups/web", json={"auto_upgrade": False})
    for version in ("1.0.1", "1.0.2"):
        assert publish(admin, version).status_code == 201
    changed = admin.patch("/v1/images/web/versions/1.0.1", json={"floor": True})
    assert changed.status_code == 200
    assert {v["version"]: v["floor"] for v in changed.json()["versions"]} == {
        "1.0.2": False,
        "1.0.1": True,
        "1.0.0": False,
    }
    admin.patch("/v1/groups/web", json={"auto_upgrade": True})
    eventually(lambda: admin.get("/v1/rollouts").json()["items"][0]["target"] == "1.0.1")
    off = admin.patch("/v1/images/web/versions/1.0.1", json={"floor": False})
    assert not any(version["floor"] for version in off.json()["versions"])
