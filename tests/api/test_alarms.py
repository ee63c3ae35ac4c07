"""Alarms over the API, asked of a real Prometheus."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, update
from tests.api.test_groups import eventually, publish, with_machines
from tests.real_prometheus import running_prometheus

from upkeep.engine.alarms import AlarmLoop
from upkeep.server.alarms import StoredAlarms
from upkeep.store import groups
from upkeep.store import tables as t


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_prometheus(tmp_path_factory.mktemp("prometheus")) as url:
        yield url


@pytest.fixture
def asking(server: Any) -> Iterator[Callable[[], None]]:
    """The server's loop, a turn at a call, and nobody waits for the next quarter of a minute."""
    stored = StoredAlarms(
        server.services.database,
        server.services.clock,
        lambda group: server.services.announce(group),
    )
    loop = AlarmLoop(stored, server.services.ask_alarm, server.clock)

    def turn() -> None:
        loop._due.clear()
        loop.look()
        loop.wait()

    yield turn
    loop.stop_asking()


def alarm(url: str, query: str, **more: Any) -> dict[str, Any]:
    return {"group": "web", "name": "errors", "url": url, "query": query, **more}


def test_an_alarm_is_asked_when_it_is_made_and_holds_the_rollout(
    server: Any, admin: httpx.Client, prometheus: str, asking: Callable[[], None]
) -> None:
    with_machines(server, admin)
    # It fires until the moment that the query itself names.
    made = admin.post("/v1/alarms", json=alarm(prometheus, f"time() < bool {time.time() + 6:.0f}"))
    assert (made.status_code, made.json()["state"]) == (201, "firing")
    assert publish(admin, "1.0.1").status_code == 201
    eventually(lambda: admin.get("/v1/holds?group=web").json()["items"] != [])
    holds = admin.get("/v1/holds?group=web").json()["items"]
    assert {hold["reason"] for hold in holds} == {"ALARM"}
    assert "alarm errors is quiet" in holds[0]["lifted_by"]

    def begins() -> bool:
        asking()
        return bool(admin.get("/v1/rollouts").json()["items"][0]["batch"])

    eventually(begins)
    (shown,) = admin.get("/v1/alarms").json()["items"]
    assert (shown["state"], shown["detail"], shown["action"]) == ("quiet", "it is 0", "hold")


def test_an_alarm_that_halts_is_the_rollouts_end(
    server: Any, admin: httpx.Client, prometheus: str, asking: Callable[[], None]
) -> None:
    with_machines(server, admin)
    query = f"time() > bool {time.time() + 4:.0f}"
    made = admin.post("/v1/alarms", json=alarm(prometheus, query, action="halt"))
    assert (made.status_code, made.json()["state"]) == (201, "quiet")
    assert publish(admin, "1.0.1").status_code == 201
    eventually(lambda: admin.get("/v1/rollouts").json()["items"][0]["begun_at"] is not None)

    def is_known() -> bool:
        asking()
        return bool(admin.get("/v1/alarms").json()["items"][0]["state"] == "firing")

    eventually(is_known)
    story = admin.get("/v1/groups/web/story").json()["items"]
    assert "alarm errors is firing: it is 1" in [line["line"] for line in story]

    def upgraded(connection: Connection) -> None:
        """There is no platform here: its work is told to the rows."""
        connection.execute(update(t.tasks).where(t.tasks.c.state == "running").values(state="done"))
        groups.mark_where(connection, t.groups.c.name == "web", now=server.clock.now())

    server.write(upgraded)
    server.services.wake()
    eventually(lambda: admin.get("/v1/rollouts").json()["items"][0]["ended_at"] is not None)
    rollout = admin.get("/v1/rollouts").json()["items"][0]
    assert (rollout["code"], rollout["guilty"]) == ("AlarmFired", True)
    assert "alarm errors fired at" in rollout["evidence"]


def test_alarms_that_are_none_are_refused_and_nothing_is_kept(
    server: Any, admin: httpx.Client, prometheus: str
) -> None:
    with_machines(server, admin)
    for wrong, words in (
        ({"url": "prometheus:9090"}, "write http://prometheus:9090"),
        ({"url": "http://user:word@prometheus"}, "no user"),
        ({"url": "http://" + "p" * 600}, "too long"),
        ({"url": "http://127.0.0.1:9"}, "would hold every rollout"),
        ({"query": " "}, "PromQL"),
        ({"query": "sum("}, "the query is refused"),
        ({"query": "up[5m]"}, "answers a matrix"),
        ({"action": "explode"}, "action"),
        ({"name": ""}, "name"),
    ):
        refused = admin.post("/v1/alarms", json=alarm(prometheus, "vector(1)") | wrong)
        assert (refused.status_code, words in refused.text) == (400, True), refused.text
    missing = admin.post("/v1/alarms", json=alarm(prometheus, "vector(1)") | {"group": "none"})
    assert missing.status_code == 404
    assert admin.get("/v1/alarms").json()["items"] == []


def test_a_name_is_one_alarms_in_its_group_and_free_again_when_it_is_deleted(
    server: Any, admin: httpx.Client, prometheus: str
) -> None:
    with_machines(server, admin)
    made = admin.post("/v1/alarms", json=alarm(prometheus, "up == 0"))
    again = admin.post("/v1/alarms", json=alarm(prometheus, "up == 0"))
    assert (again.status_code, "delete it first" in again.text) == (409, True)
    gone = admin.delete(f"/v1/alarms/{made.json()['id']}")
    assert (gone.status_code, gone.json()["name"]) == (200, "errors")
    assert admin.delete(f"/v1/alarms/{made.json()['id']}").status_code == 404
    assert admin.post("/v1/alarms", json=alarm(prometheus, "up == 0")).status_code == 201


def test_whoever_may_only_read_makes_no_alarm(
    server: Any, admin: httpx.Client, prometheus: str
) -> None:
    with_machines(server, admin)
    reader = server.client(server.token("reader"))
    assert reader.post("/v1/alarms", json=alarm(prometheus, "up == 0")).status_code == 403
    assert reader.get("/v1/alarms").status_code == 200
