"""A person with Azure's client, two images, the place of a set, and a time that stands still."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from tests.api.arm.documents import a_set, rests

# A Wednesday; later than any real one, since the engine's time goes forward only.
THE_MOMENT = datetime(2050, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def in_still_time(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No window opens, nothing is late, and the planner plans as often as it is asked to."""
    monotonic = server.clock.monotonic() + (THE_MOMENT - server.clock.now()).total_seconds()
    monkeypatch.setattr(server.clock, "now", lambda: THE_MOMENT)
    monkeypatch.setattr(server.clock, "monotonic", lambda: monotonic)
    monkeypatch.setattr("upkeep.engine.loop.PLANS_PER_SECOND", 10**9)


@pytest.fixture
def client(server: Any) -> httpx.Client:
    client: httpx.Client = server.client()
    for name in ("web", "office"):
        assert client.post("/v1/images", json={"name": name}).status_code == 201
    return client


@pytest.fixture
def base(client: httpx.Client) -> str:
    (found,) = client.get("/subscriptions").json()["value"]
    return f"/subscriptions/{found['subscriptionId']}"


@pytest.fixture
def place(base: str) -> str:
    return f"{base}/resourceGroups/Shop/providers/Microsoft.Compute/virtualMachineScaleSets/Web"


@pytest.fixture
def made(server: Any, client: httpx.Client, base: str, place: str) -> dict[str, Any]:
    answer = client.put(place, json=a_set(base))
    assert answer.status_code == 201, answer.text
    rests(server)
    document: dict[str, Any] = answer.json()
    return document
