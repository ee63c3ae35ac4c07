"""A person with Azure's client, two images, and the place of a set."""

from typing import Any

import httpx
import pytest
from tests.api.arm.documents import a_set, rests


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
