"""One agent, by hand: what it sends and what it keeps, as docs/agent-protocol.md has it."""

import time
from typing import Any

import httpx
from sqlalchemy import insert, select

from upkeep.core.model import Verb
from upkeep.store import tables as t
from upkeep.store.database import to_us

BODY: dict[str, Any] = {
    "uuid": "uuid-1",
    "boot_id": "boot-1",
    "agent": "0.1.0",
    "image": {"name": "web", "version": "1.0.1"},
    "os": "Debian GNU/Linux 12",
    "health": {"state": "healthy", "since": "2026-11-24T09:00:00Z", "detail": "200 OK",
               "phase": None, "skip": False},
    "busy": None,
    "reboot_required": "",
    "first_boot": {"state": "done", "detail": ""},
    "done": [],
}  # fmt: skip


class Agent:
    """One agent, by hand: it keeps its nonce as the protocol says."""

    def __init__(self, server: Any, name: str = "db-1", uuid: str = "uuid-1") -> None:
        self.server = server
        self.name, self.uuid = name, uuid
        self.bearer = self.nonce = self.machine_id = ""

    def enrol(self, token: str) -> httpx.Response:
        answer = self.server.client("").post(
            "/agent/v1/enrol",
            json={"token": token, "machine": self.name, "uuid": self.uuid, "boot_id": "boot-1",
                  "agent": "0.1.0"},
        )  # fmt: skip
        if answer.status_code == 200:
            made = answer.json()
            self.machine_id, self.nonce = made["machine_id"], made["nonce"]
            self.bearer = f"{made['machine_id']}.{made['secret']}"
        return answer

    def check_in(self, **changes: Any) -> httpx.Response:
        body = {**BODY, "uuid": self.uuid, "nonce": self.nonce, **changes}
        answer = self.server.client(self.bearer).post("/agent/v1/check-in", json=body)
        if answer.status_code == 200:
            self.nonce = answer.json()["nonce"]
        return answer

    def poll(self, wait: int = 3, **changes: Any) -> httpx.Response:
        body = {**BODY, "uuid": self.uuid, "nonce": "stale", **changes}
        return self.server.client(self.bearer).post(f"/agent/v1/poll?wait={wait}", json=body)

    def clone(self) -> "Agent":
        other = Agent(self.server, self.name, self.uuid)
        other.bearer, other.nonce, other.machine_id = self.bearer, self.nonce, self.machine_id
        return other

    def row(self) -> Any:
        query = select(t.agents, t.machines.c.health).join(
            t.machines, t.machines.c.id == t.agents.c.machine_id
        )
        return self.server.read(
            lambda c: c.execute(query.where(t.agents.c.machine_id == self.machine_id)).one()
        )


def add_group(server: Any) -> None:
    group = {"name": "db", "platform": "agent_only", "auto_upgrade": False}
    assert server.client().post("/v1/groups", json=group).status_code == 201


def new_token(server: Any, name: str = "db-1") -> str:
    answer = server.client().post("/v1/machines", json={"name": name, "group": "db"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


def eventually(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def kind(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["kind"]


def drain(server: Any, agent: Agent, key: str = "ro_1/m/drain/1") -> str:
    """A command for the agent, as a plan would have written it."""
    now = to_us(server.services.clock.now())
    group = server.read(lambda c: c.execute(select(t.groups.c.id)).scalar_one())
    server.write(
        lambda c: c.execute(
            insert(t.actions).values(
                key=key, group_id=group, machine_id=agent.machine_id, rollout_id="ro_1",
                verb=Verb.DRAIN, state="ready", ready_at=now, created_at=now,
            )
        )
    )  # fmt: skip
    server.services.store.announce(group)
    return key
