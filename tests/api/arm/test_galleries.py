"""The catalogue through Azure's dialect: looked at, excluded, replicated, published again."""

import hashlib
from typing import Any

import httpx
import pytest
from tests.api.arm.documents import error, message

FILE = b"a root file system"


@pytest.fixture
def gallery(client: httpx.Client, base: str) -> str:
    """Two versions of `web`, one of them of two formats."""
    digest = {"Digest": f"sha-256={hashlib.sha256(FILE).hexdigest()}"}
    for version, format in (("1.0.0", "tar"), ("1.0.10", "tar"), ("1.0.10", "qcow2")):
        path = f"/v1/images/web/versions/{version}/{format}?regions=local"
        assert client.put(path, content=FILE, headers=digest).status_code == 201
    return f"{base}/resourceGroups/Shop/providers/Microsoft.Compute/galleries/upkeep"


def names(answer: httpx.Response) -> list[str]:
    return [each["name"] for each in answer.json()["value"]]


def latest(client: httpx.Client, name: str = "web") -> str:
    return str(client.get(f"/v1/images/{name}").json()["latest"])


def profile(**fields: Any) -> dict[str, Any]:
    return {"location": "local", "properties": {"publishingProfile": fields}}


def test_the_catalogue_is_a_gallery(client: httpx.Client, base: str, gallery: str) -> None:
    assert names(client.get(f"{base}/providers/Microsoft.Compute/galleries")) == ["upkeep"]
    assert client.get(gallery).json()["id"] == gallery
    assert names(client.get(f"{gallery}/images")) == ["office", "web"]
    image = client.get(f"{gallery}/images/WEB").json()
    assert image["id"] == f"{gallery}/images/web"
    assert image["properties"]["identifier"]["offer"] == "web"
    assert names(client.get(f"{gallery}/images/web/versions")) == ["1.0.0", "1.0.10"]
    assert error(client.get(f"{gallery}x")) == (404, "ResourceNotFound")
    assert error(client.get(f"{gallery}/images/none")) == (404, "ResourceNotFound")
    assert error(client.get(f"{gallery}/images/web/versions/9.9.9")) == (404, "ResourceNotFound")


def test_a_version_says_where_it_has_come(client: httpx.Client, gallery: str) -> None:
    place = f"{gallery}/images/web/versions/1.0.10"
    plain = client.get(place).json()["properties"]
    assert "replicationStatus" not in plain
    assert plain["publishingProfile"]["excludeFromLatest"] is False
    found = client.get(f"{place}?$expand=ReplicationStatus").json()["properties"]
    assert found["replicationStatus"]["aggregatedState"] == "Completed"
    (local,) = found["replicationStatus"]["summary"]
    assert (local["region"], local["state"], local["progress"]) == ("local", "Completed", 100)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_version_is_excluded_from_latest_and_taken_back(
    client: httpx.Client, gallery: str, method: str
) -> None:
    """Sheet os-image §2.1: excludeFromLatest is mutable; latest goes by number."""
    place = f"{gallery}/images/web/versions/1.0.10"
    assert latest(client) == "1.0.10"
    answer = client.request(method, place, json=profile(excludeFromLatest=True))
    assert answer.status_code == 200, answer.text
    assert answer.json()["properties"]["publishingProfile"]["excludeFromLatest"] is True
    assert latest(client) == "1.0.0"
    client.request(method, place, json=profile(ExcludeFromLatest="false"))
    assert latest(client) == "1.0.10"


def test_a_version_is_excluded_in_one_region(client: httpx.Client, gallery: str) -> None:
    place = f"{gallery}/images/web/versions/1.0.10"
    regions = [{"name": "local", "excludeFromLatest": True}, {"name": "north"}]
    answer = client.patch(place, json=profile(targetRegions=regions))
    found = answer.json()["properties"]["publishingProfile"]["targetRegions"]
    assert {each["name"]: each["excludeFromLatest"] for each in found} == {
        "local": True,
        "north": False,
    }


def test_a_version_is_published_again_under_another_name(
    client: httpx.Client, gallery: str
) -> None:
    place = f"{gallery}/images/office/versions/2.0.0"
    source = {"storageProfile": {"source": {"id": f"{gallery}/images/web/versions/1.0.10"}}}
    made = client.put(place, json={"location": "local", "properties": source})
    assert made.status_code == 201, made.text
    assert latest(client, "office") == "2.0.0"
    versions = client.get("/v1/images/office").json()["versions"]
    digest = hashlib.sha256(FILE).hexdigest()
    assert {(v["format"], v["sha256"]) for v in versions} == {("tar", digest), ("qcow2", digest)}


@pytest.mark.parametrize(
    ("version", "source", "status", "word"),
    [
        ("2.0.0", None, 400, "upkeep image publish"),
        ("2.0.0", "/images/web/versions/9.9.9", 404, "no version '9.9.9' of 'web'"),
        ("2.0.0", "nonsense", 400, "upkeep image publish"),
        ("two", "/images/web/versions/1.0.0", 400, "three numbers"),
    ],
)
def test_a_version_without_a_file_is_refused(
    client: httpx.Client, gallery: str, version: str, source: str | None, status: int, word: str
) -> None:
    properties: dict[str, Any] = {}
    if source is not None:
        place = gallery + source if source.startswith("/") else source
        properties = {"storageProfile": {"source": {"id": place}}}
    answer = client.put(
        f"{gallery}/images/office/versions/{version}",
        json={"location": "local", "properties": properties},
    )
    assert answer.status_code == status
    assert word in message(answer)
    assert latest(client, "office") == "None"


def test_an_image_is_made_once(client: httpx.Client, gallery: str) -> None:
    place = f"{gallery}/images/Till"
    assert client.put(place, json={"location": "local"}).status_code == 201
    assert client.put(place, json={"location": "local"}).status_code == 200
    assert client.get("/v1/images/till").status_code == 200
    assert client.put(f"{gallery}/images/Ti%20ll", json={}).status_code == 400


def test_a_narrowed_token_changes_no_image(server: Any, gallery: str) -> None:
    narrowed = server.client(server.token("operator", scope="Shop"))
    place = f"{gallery}/images/web/versions/1.0.10"
    answer = narrowed.patch(place, json=profile(excludeFromLatest=True))
    assert error(answer) == (403, "AuthorizationFailed")
    assert narrowed.get(place).status_code == 200
