"""The agents' protocol, as docs/agent-protocol.md has it."""

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from tests.api.agent_by_hand import Agent, add_group, drain, eventually, kind, new_token

from upkeep.engine.executor import Executor
from upkeep.engine.fleet_store import LeasedAction
from upkeep.ports import AGENT_ONLY, MachineSpec, OsImage
from upkeep.store import tables as t
from upkeep.store.database import to_us


@pytest.fixture
def agent(server: Any) -> Agent:
    add_group(server)
    made = Agent(server)
    assert made.enrol(new_token(server)).status_code == 200
    return made


def watch(server: Any) -> None:
    """What the engine's thread does when the watched machines have changed."""
    services = server.services
    services.watch.load(services.store.watched(), now=services.clock.now())


# --- Enrolment ------------------------------------------------------------------------------------


def test_a_token_enrols_one_machine_once(server: Any) -> None:
    add_group(server)
    token = new_token(server)
    first = Agent(server)
    assert first.enrol(token).status_code == 200
    assert first.check_in().status_code == 200
    assert kind(Agent(server, uuid="uuid-2").enrol(token)) == (409, "token_used")


def test_a_lost_enrolment_may_be_repeated_and_ends_the_first_secret(server: Any) -> None:
    add_group(server)
    token = new_token(server)
    lost, again = Agent(server), Agent(server)
    assert lost.enrol(token).status_code == again.enrol(token).status_code == 200
    assert again.check_in().status_code == 200
    assert kind(lost.check_in()) == (401, "identity_unknown")


def test_tokens_expire_after_an_hour(server: Any) -> None:
    add_group(server)
    token = new_token(server)
    server.clock.moved += timedelta(minutes=61)
    eventually(lambda: Agent(server).enrol(token).status_code == 401)
    assert kind(Agent(server).enrol(token)) == (401, "token_expired")


def test_a_token_is_for_its_machine_and_its_server(server: Any) -> None:
    add_group(server)
    token = new_token(server)
    assert kind(Agent(server, name="db-2").enrol(token)) == (404, "machine_unknown")
    assert kind(Agent(server).enrol("made-up")) == (401, "token_unknown")


def test_secrets_are_stored_hashed(server: Any) -> None:
    """Whoever reads the database, a copy of it or the audit log can use nothing of it."""
    add_group(server)
    token = new_token(server)
    agent = Agent(server)
    assert agent.enrol(token).status_code == 200
    secret = agent.bearer.partition(".")[2]
    rows = server.read(
        lambda c: [c.execute(select(table)).all() for table in (t.enrol_tokens, t.agents, t.audit)]
    )
    assert all(rows)
    assert token not in str(rows)
    assert secret not in str(rows)


# --- Check-ins ------------------------------------------------------------------------------------


def test_a_check_in_says_how_to_go_on(server: Any, agent: Agent) -> None:
    reply = agent.check_in().json()
    assert reply["poll"] == {"mode": "long", "seconds": 5}
    assert reply["commands"] == []
    assert reply["probe"] is None
    assert reply["nonce"]


def test_what_an_agent_says_is_written_and_seen(server: Any, agent: Agent) -> None:
    assert agent.check_in(reboot_required="linux-image", busy="backup").status_code == 200
    row = agent.row()
    assert (row.os, row.boot_id, row.busy) == ("Debian GNU/Linux 12", "boot-1", "backup")
    view = server.client().get("/v1/machines/db-1").json()
    assert view["agent"]["reboot_required"] == "linux-image"


def test_health_reaches_the_machine(server: Any, agent: Agent) -> None:
    watch(server)
    agent.check_in()
    eventually(lambda: agent.row().health == "healthy")
    agent.check_in(health={"state": "unhealthy", "detail": "503"})
    eventually(lambda: agent.row().health == "unhealthy")


def test_health_is_told_again_when_the_watch_begins_anew(server: Any, agent: Agent) -> None:
    """An agent that says the same as before must still be heard by a new watch."""
    watch(server)
    agent.check_in()
    eventually(lambda: agent.row().health == "healthy")
    move = update(t.machines).values(
        watch_from=to_us(server.services.clock.now()), health="initializing"
    )
    server.write(lambda c: c.execute(move))
    watch(server)
    agent.check_in()
    eventually(lambda: agent.row().health == "healthy")


def test_an_unchanged_check_in_touches_no_database(server: Any, agent: Agent) -> None:
    watch(server)
    agent.check_in()
    eventually(lambda: agent.row().health == "healthy")
    from sqlalchemy import event

    said: list[str] = []

    def listen(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        said.append(statement)

    engine = server.services.database.engine
    server.planning = False
    time.sleep(0.1)
    event.listen(engine, "before_cursor_execute", listen)
    for _ in range(20):
        assert agent.check_in().status_code == 200
    event.remove(engine, "before_cursor_execute", listen)
    # The engine's clock may move its mark meanwhile; nothing else may be asked.
    assert [text for text in said if "settings" not in text and "wake_at" not in text] == []


def test_only_the_groups_own_image_version_is_believed(server: Any, agent: Agent) -> None:
    def image() -> str:
        return str(server.client().get("/v1/machines/db-1").json()["image"])

    server.client().post("/v1/images", json={"name": "web"})
    agent.check_in()
    assert image() == ""
    assert server.client().patch("/v1/groups/db", json={"image": "web"}).status_code == 200
    agent.check_in(image={"name": "web", "version": "not a version"})
    assert image() == ""
    agent.check_in(image={"name": "web", "version": "1.0.2"})
    assert image() == "1.0.2"


def test_an_agent_may_be_newer_than_its_server(agent: Agent) -> None:
    assert agent.check_in(invented_later={"a": 1}).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"health": {"state": "well"}},
        {"health": None},
        {"done": [{"key": 1}]},
        {"os": 1.5},
        {"boot_id": "x" * 300},
        {"image": []},
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(agent: Agent, changes: Any) -> None:
    answer = agent.check_in(**changes)
    assert kind(answer) == (400, "invalid")
    assert "$." in answer.json()["detail"]


def test_a_body_has_a_limit(server: Any, agent: Agent) -> None:
    answer = agent.check_in(os="x" * 1_200_000)
    assert kind(answer) == (413, "too_large")


def test_only_post(server: Any, agent: Agent) -> None:
    answer = server.client(agent.bearer).get("/agent/v1/check-in")
    assert kind(answer) == (405, "method_not_allowed")


# --- Identity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bearer", ["", "m_1.wrong", "m_99.x", "nothing", "upk_1.x"])
def test_no_secret_no_check_in(server: Any, agent: Agent, bearer: str) -> None:
    agent.bearer = bearer
    assert kind(agent.check_in()) == (401, "identity_unknown")
    assert kind(agent.poll()) == (401, "identity_unknown")


def test_an_operators_token_is_no_machine(server: Any, agent: Agent) -> None:
    agent.bearer = server.admin
    assert kind(agent.check_in()) == (401, "identity_unknown")


def test_lost_replies_are_harmless(agent: Agent) -> None:
    agent.check_in()
    before = agent.nonce
    for _ in range(5):
        agent.nonce = before  # The reply never came.
        assert agent.check_in().status_code == 200
    for _ in range(3):
        assert agent.check_in().status_code == 200


def test_a_clone_with_another_uuid_is_turned_away_and_the_original_goes_on(
    server: Any, agent: Agent
) -> None:
    clone = agent.clone()
    clone.uuid = "uuid-of-the-clone"
    assert kind(clone.check_in()) == (409, "identity_conflict")
    assert kind(clone.poll()) == (409, "identity_conflict")
    assert agent.check_in().status_code == 200
    conflict = server.client().get("/v1/machines/db-1").json()["agent"]["conflict"]
    assert "uuid-of-the-clone" in conflict
    assert "127.0.0.1" in conflict


def test_two_with_one_uuid_both_stop_until_one_enrols_anew(server: Any, agent: Agent) -> None:
    clone = agent.clone()
    answers = []
    for _ in range(3):
        answers += [agent.check_in().status_code, clone.check_in().status_code]
    assert 409 in answers
    assert kind(agent.check_in()) == kind(clone.check_in()) == (409, "identity_conflict")
    line = server.client().post("/v1/machines/db-1/enrol-token").json()
    assert agent.enrol(line["token"]).status_code == 200
    assert agent.check_in().status_code == 200
    assert kind(clone.check_in()) == (401, "identity_unknown")
    assert server.client().get("/v1/machines/db-1").json()["agent"]["conflict"] == ""


def test_a_nonce_from_before_a_restart_is_taken(server: Any, agent: Agent) -> None:
    agent.check_in()
    agent.nonce = "0123456789abcdef.7"
    assert agent.check_in().status_code == 200
    agent.nonce = f"{server.app.agents.registry.process}.999"
    assert kind(agent.check_in()) == (409, "identity_conflict")


# --- Commands and polls ---------------------------------------------------------------------------


def test_a_command_comes_until_it_is_answered(server: Any, agent: Agent) -> None:
    key = drain(server, agent)
    eventually(lambda: agent.check_in().json()["commands"] != [])
    (command,) = agent.check_in().json()["commands"]
    assert (command["key"], command["verb"]) == (key, "drain")
    assert command["args"]["timeout_s"] >= 1
    done = [{"key": key, "fence": 0, "outcome": "succeeded", "detail": "drained"}]
    assert agent.check_in(done=done).json()["commands"] == []
    row = server.read(lambda c: c.execute(select(t.actions)).one())
    assert (row.state, row.detail) == ("succeeded", "drained")
    assert agent.check_in(done=done).status_code == 200  # Its reply was lost: said again.


def ask_for_restart(server: Any, agent: Agent) -> tuple[str, dict[str, Any]]:
    """The rollout, and the command as the agent then hears it."""
    services = server.services
    executor = Executor(
        services.store, {}, NoImages(), services.clock, owner="test",
        by_agent=frozenset({AGENT_ONLY}),
    )  # fmt: skip
    asked = server.client().post("/v1/machines/db-1/restart", json={"force": True})
    assert asked.status_code == 202, asked.text
    eventually(lambda: executor.claim(10) == [] and agent.check_in().json()["commands"] != [])
    (command,) = agent.check_in().json()["commands"]
    return asked.json()["id"], command


class NoImages:
    """A `Provisioner` that is never asked: nothing here has an OS disk of ours."""

    def image(self, leased: LeasedAction) -> OsImage:
        raise AssertionError(leased)

    def spec(self, leased: LeasedAction) -> MachineSpec:
        raise AssertionError(leased)

    def seed(self, leased: LeasedAction) -> dict[str, bytes]:
        raise AssertionError(leased)


def test_an_agent_restarts_its_machine_and_what_it_says_with_the_answer_counts(
    server: Any, agent: Agent
) -> None:
    watch(server)
    agent.check_in()
    eventually(lambda: agent.row().health == "healthy")
    rollout, command = ask_for_restart(server, agent)
    assert (command["verb"], command["fence"]) == ("restart", 1)
    assert agent.row().health == "initializing"
    done = [{"key": command["key"], "fence": 1, "outcome": "succeeded", "detail": ""}]
    assert agent.check_in(boot_id="boot-2", done=done).json()["commands"] == []
    # It says nothing more: the next check-in may be five minutes away.
    shown = server.client()
    eventually(lambda: shown.get(f"/v1/rollouts/{rollout}").json()["state"] == "completed")
    assert agent.row().health == "healthy"
    assert server.read(lambda c: c.execute(select(t.machines.c.boots)).scalar()) == 1
    # An agent takes nothing with a lower fence than it has seen.
    drain(server, agent)
    eventually(lambda: agent.check_in().json()["commands"] != [])
    assert agent.check_in().json()["commands"][0]["fence"] == 1


def test_a_command_that_an_agent_found_too_old_is_offered_again(server: Any, agent: Agent) -> None:
    rollout, command = ask_for_restart(server, agent)
    fenced = [{"key": command["key"], "fence": 1, "outcome": "fenced", "detail": ""}]
    assert agent.check_in(done=fenced).json()["commands"] == [command]
    assert server.client().get(f"/v1/rollouts/{rollout}").json()["state"] == "running"


def test_another_machines_command_is_not_its_to_answer(server: Any, agent: Agent) -> None:
    other = Agent(server, "db-2", "uuid-2")
    assert other.enrol(new_token(server, "db-2")).status_code == 200
    key = drain(server, agent)
    other.check_in(done=[{"key": key, "outcome": "succeeded"}])
    assert server.read(lambda c: c.execute(select(t.actions.c.state)).scalar()) == "ready"


def test_a_poll_waits_and_a_command_ends_it(server: Any, agent: Agent) -> None:
    agent.check_in()
    began = time.monotonic()
    timer = threading.Timer(0.3, drain, (server, agent))
    timer.start()
    reply = agent.poll(wait=10).json()
    timer.join()
    assert [c["verb"] for c in reply["commands"]] == ["drain"]
    assert 0.25 < time.monotonic() - began < 5


def test_a_poll_is_not_answered_twice_for_one_command(server: Any, agent: Agent) -> None:
    drain(server, agent)
    eventually(lambda: agent.check_in().json()["commands"] != [])
    waited = []
    for _ in range(3):
        began = time.monotonic()
        reply = agent.poll(wait=1).json()
        waited.append(time.monotonic() - began)
        assert len(reply["commands"]) == 1  # At its end it is said again.
    # The command's own wake-up may come after the check-in that has brought it, and end one poll
    # early; more than that would be an agent that asks without a pause.
    assert sum(seconds < 0.9 for seconds in waited) <= 1


def test_a_poll_is_answered_when_the_probe_changes(server: Any, agent: Agent) -> None:
    agent.check_in()
    probe = {"protocol": "tcp", "port": 22}
    change = lambda: server.client().patch("/v1/groups/db", json={"probe": probe})  # noqa: E731
    timer = threading.Timer(0.3, change)
    timer.start()
    reply = agent.poll(wait=10).json()
    timer.join()
    assert reply["probe"]["port"] == 22


def test_a_newer_poll_ends_the_older(server: Any, agent: Agent) -> None:
    agent.check_in()
    ended: list[float] = []

    def first() -> None:
        agent.poll(wait=10)
        ended.append(time.monotonic())

    thread = threading.Thread(target=first)
    thread.start()
    eventually(lambda: server.app.agents.polls_open == 1)
    agent.poll(wait=0)
    agent.poll(wait=1)
    thread.join(5)
    assert ended
    assert server.app.agents.polls_open == 0


def test_beyond_the_limit_agents_are_told_to_come_at_intervals(server: Any, agent: Agent) -> None:
    server.app.agents._polls_max = 0
    assert agent.check_in().json()["poll"] == {"mode": "interval", "seconds": 300}
    began = time.monotonic()
    assert agent.poll(wait=10).json()["poll"]["mode"] == "interval"
    assert time.monotonic() - began < 5


def test_polls_end_when_the_server_stops(server: Any, agent: Agent) -> None:
    agent.check_in()
    threads = [threading.Thread(target=agent.poll, args=(30,)) for _ in range(1)]
    for thread in threads:
        thread.start()
    eventually(lambda: server.app.agents.polls_open == 1)
    server.app.agents._services.notify._loop.call_soon_threadsafe(server.app.close)
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
