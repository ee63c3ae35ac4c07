"""What one agent's word can move, and what it cannot: its own machine, once, while it is there."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, select, update
from tests.api.agent_by_hand import Agent, add_group, drain, eventually, kind, new_token
from tests.api.test_doors import ask, guarded

from upkeep.api import agent_writer, agents
from upkeep.core.model import Verb
from upkeep.engine.fleet_store import ActionResult
from upkeep.ports import MachineStatus, Power
from upkeep.store import tables as t
from upkeep.store.database import to_us


@pytest.fixture
def agent(server: Any) -> Agent:
    add_group(server)
    made = Agent(server)
    assert made.enrol(new_token(server)).status_code == 200
    return made


@pytest.fixture
def other(server: Any, agent: Agent) -> Agent:
    made = Agent(server, "db-2", "uuid-2")
    assert made.enrol(new_token(server, "db-2")).status_code == 200
    return made


def group_row(server: Any) -> Any:
    return server.read(lambda c: c.execute(select(t.groups)).one())


def writes(server: Any) -> list[str]:
    """Every statement that changes a row from now on, but for the engine's clock."""
    said: list[str] = []

    def listen(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if not statement.startswith(("SELECT", "BEGIN")) and "settings" not in statement:
            said.append(statement)

    event.listen(server.services.database.engine, "before_cursor_execute", listen)
    return said


# --- What moves a group ---------------------------------------------------------------------------


def test_a_check_in_marks_its_group_once_for_what_changed(server: Any, agent: Agent) -> None:
    server.client().post("/v1/images", json={"name": "web"})
    assert server.client().patch("/v1/groups/db", json={"image": "web"}).status_code == 200
    agent.check_in()
    eventually(lambda: group_row(server).wake_at is None)
    server.planning = False
    before = group_row(server).marks
    assert agent.check_in(image={"name": "web", "version": "1.0.7"}).status_code == 200
    marked = group_row(server)
    assert marked.marks > before
    assert marked.wake_at is not None
    said = writes(server)
    for _ in range(5):
        assert agent.check_in(image={"name": "web", "version": "1.0.7"}).status_code == 200
    assert said == []
    assert group_row(server).marks == marked.marks


def test_what_changes_no_plan_is_written_without_marking(server: Any, agent: Agent) -> None:
    agent.check_in()
    eventually(lambda: group_row(server).wake_at is None)
    server.planning = False
    before = group_row(server).marks
    said = writes(server)
    assert agent.check_in(os="Debian GNU/Linux 13").status_code == 200
    assert agent.row().os == "Debian GNU/Linux 13"
    assert [statement.partition(" SET ")[0] for statement in said] == ["UPDATE agents"]
    assert group_row(server).marks == before


# --- The mailbox ----------------------------------------------------------------------------------


def test_a_mailbox_is_its_machines_alone(server: Any, agent: Agent, other: Agent) -> None:
    drain(server, agent)
    eventually(lambda: agent.check_in().json()["commands"] != [])
    assert other.check_in().json()["commands"] == []
    assert other.poll(wait=0).json()["commands"] == []
    other.name = agent.name  # Nothing that it says of itself opens another's mailbox.
    assert other.check_in(uuid=other.uuid, machine="db-1").json()["commands"] == []


def test_mail_wakes_the_machine_that_it_is_for(server: Any, agent: Agent, other: Agent) -> None:
    agent.check_in()
    other.check_in()
    answers: dict[str, Any] = {}

    def wait(who: Agent) -> None:
        answers[who.name] = who.poll(wait=20).json()["commands"]

    threads = {who.name: threading.Thread(target=wait, args=(who,)) for who in (agent, other)}
    for thread in threads.values():
        thread.start()
    eventually(lambda: server.app.agents.polls_open == 2)
    drain(server, agent)
    threads["db-1"].join(10)
    assert [command["verb"] for command in answers["db-1"]] == ["drain"]
    assert "db-2" not in answers  # Still waiting.
    assert server.app.agents.polls_open == 1
    other.poll(wait=0)
    server.app.agents._services.notify._loop.call_soon_threadsafe(server.app.close)
    threads["db-2"].join(10)
    assert answers["db-2"] == []


# --- Outcomes -------------------------------------------------------------------------------------


def test_an_outcome_that_is_said_again_changes_nothing(server: Any, agent: Agent) -> None:
    key = drain(server, agent)
    first = [{"key": key, "fence": 0, "outcome": "succeeded", "detail": "drained"}]
    assert agent.check_in(done=first).status_code == 200
    before = server.read(lambda c: c.execute(select(t.actions)).one())
    assert before.ended_at is not None
    marks = group_row(server).marks
    for outcome in ("succeeded", "failed", "fenced"):
        again = [{"key": key, "fence": 7, "outcome": outcome, "detail": "told again"}]
        assert agent.check_in(done=again).status_code == 200
    assert server.read(lambda c: c.execute(select(t.actions)).one()) == before
    assert group_row(server).marks == marks


def test_an_outcome_of_an_unknown_key_or_a_platforms_verb_moves_nothing(
    server: Any, agent: Agent
) -> None:
    now = to_us(server.services.clock.now())
    group = group_row(server).id
    server.planning = False
    server.write(
        lambda c: c.execute(
            insert(t.actions).values(
                key="ro_1/m/restart/1", group_id=group, machine_id=agent.machine_id,
                rollout_id="ro_1", verb=Verb.RESTART, state="ready", ready_at=now, created_at=now,
            )
        )
    )  # fmt: skip
    done = [
        {"key": key, "outcome": "succeeded"} for key in ("nobody/knows/1", "ro_1/m/restart/1", "")
    ]
    assert agent.check_in(done=done).status_code == 200
    row = server.read(lambda c: c.execute(select(t.actions)).one())
    assert (row.state, row.ended_at) == ("ready", None)


def test_a_result_under_an_old_fence_tells_what_was_seen_and_ends_nothing(
    server: Any, agent: Agent
) -> None:
    """The first holder's lease ran out while it worked; the second has the action now."""
    server.planning = False
    store, now = server.services.store, server.services.clock.now()
    server.write(
        lambda c: c.execute(
            insert(t.actions).values(
                key="ro_1/m/restart/1", group_id=group_row(server).id,
                machine_id=agent.machine_id, rollout_id="ro_1", verb=Verb.RESTART, state="ready",
                ready_at=to_us(now), created_at=to_us(now),
            )
        )
    )  # fmt: skip
    (old,) = store.claim_actions("one", now=now, lease_until=now, limit=1)
    later = now + timedelta(seconds=1)
    (new,) = store.claim_actions("two", now=later, lease_until=later + timedelta(60), limit=1)
    assert new.fence > old.fence
    status = MachineStatus(name="db-1", power=Power.RUNNING, image_version="1.0.9", boots=5)
    late = ActionResult(succeeded=True, detail="late", status=status)
    assert not store.finish_action(old.action.key, fence=old.fence, result=late, now=later)
    action = server.read(lambda c: c.execute(select(t.actions)).one())
    assert (action.state, action.owner, action.ended_at) == ("leased", "two", None)
    machine = server.read(lambda c: c.execute(select(t.machines)).one())
    assert (machine.image, machine.boots, machine.in_work) == ("1.0.9", 5, 1)
    assert store.finish_action(new.action.key, fence=new.fence, result=late, now=later)
    assert not store.finish_action(new.action.key, fence=new.fence, result=late, now=later)


# --- Doors ----------------------------------------------------------------------------------------


def test_a_machines_secret_opens_no_route_of_the_operators(server: Any, agent: Agent) -> None:
    assert agent.check_in().status_code == 200
    client = server.client(agent.bearer)
    tried = guarded(server)
    assert len(tried) > 40
    for method, path in tried:
        answer = ask(client, method, path)
        assert answer.status_code == 401, (method, path, answer.text)
    assert client.get("/").status_code in (303, 401)


@pytest.mark.parametrize("role", ["reader", "operator", "admin"])
def test_no_token_of_a_person_is_a_machine(server: Any, agent: Agent, role: str) -> None:
    agent.bearer = server.token(role)
    assert kind(agent.check_in()) == (401, "identity_unknown")
    assert kind(agent.poll()) == (401, "identity_unknown")


def test_a_revoked_token_opens_nothing_from_that_moment(server: Any) -> None:
    text = server.token("operator")
    client = server.client(text)
    assert client.get("/v1/groups").status_code == 200
    ended = server.client().delete(f"/v1/tokens/{text.partition('.')[0]}")
    assert ended.status_code == 200
    assert kind(client.get("/v1/groups")) == (401, "token_revoked")


@pytest.fixture
def quick_housekeeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """To be asked for ahead of the server."""
    monkeypatch.setattr(agents, "SEEN_EVERY_S", 0.05)


def test_the_agent_of_a_removed_machine_is_turned_away(
    quick_housekeeping: None, server: Any, agent: Agent
) -> None:
    assert agent.check_in().status_code == 200
    again = server.client().post("/v1/machines/db-1/enrol-token").json()["token"]
    server.write(lambda c: c.execute(update(t.machines).values(lifecycle="deleted")))
    eventually(lambda: agent.check_in().status_code == 401)
    assert kind(agent.check_in()) == (401, "identity_unknown")
    assert kind(agent.poll()) == (401, "identity_unknown")
    # Nor does a token that was made for it bring it back.
    assert agent.enrol(again).status_code in (401, 404)
    assert server.read(lambda c: c.execute(select(t.agents)).all()) == []


def test_what_is_too_much_at_once_is_turned_away_with_a_time_to_come_again(
    server: Any, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.check_in()
    monkeypatch.setattr(agent_writer, "JOBS_MAX", 0)
    before = agent.nonce
    answer = agent.check_in(os="Debian GNU/Linux 13")
    assert kind(answer) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0
    # Whoever has nothing new costs nothing, and is answered all the same.
    agent.nonce = before
    assert agent.check_in().status_code == 200
    monkeypatch.undo()
    assert agent.check_in(os="Debian GNU/Linux 13").status_code == 200
    assert agent.row().os == "Debian GNU/Linux 13"
