"""The model of a group: what it is named, what is refused, what is kept, what a disk is told."""

import base64
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select

from upkeep.core.model import GroupId, MachineId, RolloutId, Verb
from upkeep.core.snapshot import Action
from upkeep.engine.fleet_store import LeasedAction
from upkeep.ports import DriverError
from upkeep.server.provision import StoreProvisioner
from upkeep.store import tables as t
from upkeep.store.database import to_us
from upkeep.store.machine_models import UNNAMED_MAX

GROUP = {
    "name": "web",
    "platform": "simulated",
    "probe": {"protocol": "http", "port": 8080, "path": "/health"},
}


def make(client: httpx.Client, **changes: Any) -> httpx.Response:
    return client.post("/v1/groups", json=GROUP | changes)


def tell(client: httpx.Client, text: str) -> dict[str, Any]:
    """Change the custom data; the group."""
    data = base64.b64encode(text.encode()).decode()
    answer = client.patch("/v1/groups/web", json={"user_data": data})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_the_model_is_a_digest_of_what_a_new_disk_is_told(admin: httpx.Client) -> None:
    first = make(admin).json()
    assert (first["upgrade_mode"], first["model"]) == ("manual", first["baked_model"])
    other = tell(admin, "#!/bin/sh\n")
    assert other["model"] != first["model"] == other["baked_model"]
    assert tell(admin, "")["model"] == first["model"]
    larger = admin.patch("/v1/groups/web", json={"memory_mib": 1024}).json()
    assert larger["model"] == first["model"]


def test_an_upgrade_mode_that_cannot_be_is_refused(admin: httpx.Client) -> None:
    for body, word in (
        ({"upgrade_mode": "sometimes"}, "upgrade_mode"),
        ({"upgrade_mode": "rolling", "probe": None, "auto_upgrade": False}, "health source"),
        ({"upgrade_mode": "rolling", "platform": "agent_only"}, "agent_only"),
    ):
        answer = make(admin, **body)
        assert answer.status_code == 400, body
        assert word in answer.json()["detail"]
    assert make(admin, upgrade_mode="rolling").json()["upgrade_mode"] == "rolling"
    gone = admin.patch("/v1/groups/web", json={"probe": None, "auto_upgrade": False})
    assert gone.status_code == 400
    assert "upgrade_mode rolling" in gone.json()["detail"]


def test_models_that_nobody_has_are_forgotten_but_for_the_newest(
    server: Any, admin: httpx.Client
) -> None:
    assert make(admin).status_code == 201
    for number in range(UNNAMED_MAX + 5):
        group = tell(admin, f"#!/bin/sh\n# {number}\n")
    kept = server.read(lambda c: c.execute(select(t.machine_models.c.digest)).scalars().all())
    # The group's own, the one that baked last, and the newest others.
    assert len(kept) == UNNAMED_MAX + 2
    assert {group["model"], group["baked_model"]} <= set(kept)


def test_a_disk_is_told_what_the_model_of_its_action_says(server: Any, admin: httpx.Client) -> None:
    assert make(admin).status_code == 201
    first, second = tell(admin, "one"), tell(admin, "two")
    now = to_us(datetime.now(UTC))
    row = {"id": "m_1", "group_id": first["id"], "name": "web-0", "watch_from": now}
    server.write(
        lambda c: c.execute(insert(t.machines).values(created_at=now, health_since=now, **row))
    )
    services = server.services
    provisioner = StoreProvisioner(
        services.database, services.blobs, services.certificates, services.clock,
        server_url=services.url,
    )  # fmt: skip

    def told(model: str) -> bytes:
        action = Action(
            key="k",
            group=GroupId(first["id"]),
            machine=MachineId("m_1"),
            rollout=RolloutId("r"),
            verb=Verb.REIMAGE,
            version="1.0.0",
            model=model,
        )
        leased = LeasedAction(
            action=action, fence=1, attempts=1, machine_name="web-0", platform="simulated",
            image_name="web",
        )  # fmt: skip
        return provisioner.seed(leased)["user-data"]

    assert told(first["model"]) == b"one"
    assert told(second["model"]) == b"two"
    assert told("") == b"two", "an action from before models had names"
    with pytest.raises(DriverError) as refused:
        told("gone")
    assert "change the group's model again" in refused.value.detail
