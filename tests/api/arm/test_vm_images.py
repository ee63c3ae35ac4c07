"""The catalogue as platform images: bare lists of what a location has."""

import hashlib
from typing import Any

import httpx
import pytest
from tests.api.arm.documents import a_set, error, message

FILE = b"a root file system"


@pytest.fixture
def offers(client: httpx.Client, base: str) -> str:
    """`web` 1.0.0 and 1.0.10 in the north, the second in the south, too."""
    digest = {"Digest": f"sha-256={hashlib.sha256(FILE).hexdigest()}"}
    for version, regions in (("1.0.0", "north"), ("1.0.10", "north,south")):
        path = f"/v1/images/web/versions/{version}/tar?regions={regions}"
        assert client.put(path, content=FILE, headers=digest).status_code == 201
    place = f"{base}/providers/Microsoft.Compute/locations/north/publishers"
    return f"{place}/upkeep/artifacttypes/vmimage/offers"


def names(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [each["name"] for each in answer.json()]


def test_an_image_is_an_offer(client: httpx.Client, base: str, offers: str) -> None:
    place = f"{base}/providers/Microsoft.Compute/locations/north/publishers"
    assert names(client.get(place)) == ["upkeep"]
    assert names(client.get(offers)) == ["office", "web"]
    assert names(client.get(f"{offers}/web/skus")) == ["default"]
    versions = f"{offers}/web/skus/default/versions"
    assert names(client.get(versions)) == ["1.0.0", "1.0.10"]
    assert names(client.get(f"{versions}?$top=1&$orderby=name%20desc")) == ["1.0.10"]
    found = client.get(f"{versions}/1.0.10").json()
    assert found["id"].endswith("/offers/web/skus/default/versions/1.0.10")
    automatic = found["properties"]["automaticOSUpgradeProperties"]
    assert automatic == {"automaticOSUpgradeSupported": True}


def test_a_location_has_what_has_come_there_and_is_not_excluded(
    client: httpx.Client, offers: str
) -> None:
    versions = f"{offers}/web/skus/default/versions"
    south = versions.replace("/north/", "/South/")
    assert names(client.get(south)) == ["1.0.10"]
    excluded = {"excluded": True, "regions": ["south"]}
    assert client.patch("/v1/images/web/versions/1.0.10", json=excluded).status_code == 200
    assert names(client.get(south)) == []
    assert names(client.get(versions)) == ["1.0.0", "1.0.10"]
    assert error(client.get(f"{south}/1.0.10")) == (404, "ResourceNotFound")


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/none/skus", "no offer"),
        ("/web/skus/other/versions", "no SKU"),
        ("/web/skus/default/versions/9.9.9", "no version"),
    ],
)
def test_what_is_not_there(client: httpx.Client, offers: str, path: str, word: str) -> None:
    answer = client.get(offers + path)
    assert error(answer) == (404, "ResourceNotFound")
    assert word in message(answer)
    elsewhere = offers.replace("/publishers/upkeep/", "/publishers/Canonical/")
    assert "no publisher" in message(client.get(elsewhere))
    assert error(client.get(f"{offers}/web/skus/default/versions?$top=x"))[0] == 400


@pytest.mark.usefixtures("offers")
def test_a_set_may_follow_a_platform_image(client: httpx.Client, base: str, place: str) -> None:
    document: dict[str, Any] = a_set(base)
    reference = {"publisher": "Upkeep", "offer": "Web", "sku": "default", "version": "latest"}
    document["properties"]["virtualMachineProfile"]["storageProfile"]["imageReference"] = reference
    assert client.put(place, json=document).status_code == 201
    assert client.get("/v1/groups/web").json()["image"] == "web"
