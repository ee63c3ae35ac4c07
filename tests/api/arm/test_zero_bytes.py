"""Zero bytes: PostgreSQL has no text that holds one, so nothing of the dialect may.

Most of these were server errors there; SQLite keeps them.
"""

from typing import Any

import httpx
import pytest
from tests.api.arm.documents import a_configuration, error, image, message, rows

ZERO = "\x00"
SHOP = "resourceGroups/Shop/providers"
CONFIGURATION = f"{SHOP}/Microsoft.Maintenance/maintenanceConfigurations/nights"
ASSIGNMENTS = "providers/Microsoft.Maintenance/configurationAssignments"
OFFERS = "publishers/upkeep/artifacttypes/vmimage/offers"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{SHOP}/Microsoft.Resources/deployments/a%00b"),
        ("GET", f"{SHOP}/Microsoft.Resources/deployments/a%00b/operationStatuses/current"),
        ("GET", "resourceGroups/S%00hop/providers/Microsoft.Resources/deployments"),
        ("GET", "resourceGroups/S%00hop"),
        ("GET", f"{SHOP}/Microsoft.Compute/virtualMachineScaleSets/w%00eb"),
        ("GET", f"providers/Microsoft.Compute/locations/%00/{OFFERS}/web/skus/default/versions"),
        ("PUT", CONFIGURATION.replace("Shop", "S%00hop")),
        ("PUT", f"{SHOP}/Microsoft.Compute/virtualMachineScaleSets/Web/{ASSIGNMENTS}/a%00b"),
    ],
)
@pytest.mark.usefixtures("made")
def test_a_zero_byte_in_a_path_is_refused(
    client: httpx.Client, base: str, method: str, path: str
) -> None:
    body = {} if method == "GET" else {"json": a_configuration()}
    refused = client.request(method, f"{base}/{path}", **body)
    assert error(refused) == (400, "BadRequest")
    assert "zero byte" in message(refused)


def _of_image(base: str, name: str) -> dict[str, Any]:
    storage = {"imageReference": image(base, name)}
    return {"properties": {"virtualMachineProfile": {"storageProfile": storage}}}


@pytest.mark.parametrize("where", ["a key", "a value", "a value in a list", "an image"])
def test_a_zero_byte_in_a_body_is_refused_and_changes_nothing(
    server: Any, client: httpx.Client, base: str, place: str, made: dict[str, Any], where: str
) -> None:
    body = {
        "a key": {"tags": {f"a{ZERO}b": "1"}},
        "a value": {"tags": {"a": ZERO}},
        "a value in a list": {"zones": [f"1{ZERO}"]},
        "an image": _of_image(base, f"we{ZERO}b"),
    }[where]
    before = rows(server)
    refused = client.patch(place, json=body)
    assert error(refused) == (400, "BadRequest")
    assert "zero byte" in message(refused)
    assert ZERO not in message(refused)
    assert rows(server) == before
