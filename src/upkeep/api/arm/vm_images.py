"""The catalogue once more, as platform images: publisher `upkeep`, an offer for each image.

Only what a machine of the location would get: versions that have come there and are not excluded.
Lists are bare arrays.  Source: sheet os-image §2.2 (automaticOSUpgradeSupported), §9.1.
"""

from typing import Any

from sqlalchemy import Connection

from upkeep.api.arm.route import ArmReply, ArmRequest
from upkeep.api.arm.scale_sets import is_same_location
from upkeep.api.arm.scopes import COMPUTE, check_subscription
from upkeep.api.arm.set_model import PUBLISHER, SKU
from upkeep.api.problems import invalid, not_found
from upkeep.api.shapes import is_name
from upkeep.core.version import is_usable, order_of
from upkeep.store import images
from upkeep.store.snapshot import read_versions


def show_publishers(connection: Connection, request: ArmRequest) -> ArmReply:
    check_subscription(connection, request)
    return ArmReply(body=[_entry(request, PUBLISHER)])


def show_offers(connection: Connection, request: ArmRequest) -> ArmReply:
    _check_publisher(connection, request)
    return ArmReply(body=[_entry(request, name) for name in images.names(connection)])


def show_skus(connection: Connection, request: ArmRequest) -> ArmReply:
    _find_image(connection, request)
    return ArmReply(body=[_entry(request, SKU)])


def show_versions(connection: Connection, request: ArmRequest) -> ArmReply:
    """By number; `$top` of them, and the highest first with `$orderby=name desc`."""
    found = sorted(_versions(connection, request), key=order_of)
    if request.query.get("$orderby", "").casefold().endswith("desc"):
        found.reverse()
    top = request.query.get("$top", "")
    if top and not (top.isascii() and top.isdigit() and len(top) < 10):
        raise invalid("$top: how many versions, as 1")
    return ArmReply(body=[_entry(request, each) for each in found[: int(top) if top else None]])


def show_version(connection: Connection, request: ArmRequest) -> ArmReply:
    version = request.params["version"]
    if version not in _versions(connection, request):
        raise not_found(f"there is no version {version[:40]!r} in {request.params['location']!r}")
    entry = _entry(request, version) | {
        "properties": {
            "osDiskImage": {"operatingSystem": "Linux"},
            "hyperVGeneration": "V2",
            "automaticOSUpgradeProperties": {"automaticOSUpgradeSupported": True},
        }
    }
    entry["id"] = entry["id"].rpartition("/")[0]
    return ArmReply(body=entry)


def _check_publisher(connection: Connection, request: ArmRequest) -> None:
    check_subscription(connection, request)
    name = request.params["publisher"]
    if name.casefold() != PUBLISHER:
        raise not_found(f"there is no publisher {name[:60]!r}; there is {PUBLISHER!r}")


def _find_image(connection: Connection, request: ArmRequest) -> str:
    _check_publisher(connection, request)
    name = request.params["offer"].lower()
    if not is_name(name) or images.find(connection, name) is None:
        raise not_found(f"there is no offer {name[:60]!r}: an offer is an image of the catalogue")
    return name


def _versions(connection: Connection, request: ArmRequest) -> list[str]:
    name, sku = _find_image(connection, request), request.params["sku"]
    if sku.casefold() != SKU:
        raise not_found(f"there is no SKU {sku[:60]!r}; there is {SKU!r}")
    location = request.params["location"]
    known = {replica.region for replica in images.replicas(connection, [name])}
    region = next((each for each in known if is_same_location(each, location)), location)
    return [v.version for v in read_versions(connection, name, region) if is_usable(v)]


def _entry(request: ArmRequest, name: str) -> dict[str, Any]:
    subscription, location = request.params["subscription"].lower(), request.params["location"]
    place = f"/subscriptions/{subscription}/{COMPUTE}/locations/{location}"
    rest = request.path.casefold().partition("/publishers")[2].rstrip("/")
    return {"id": f"{place}/publishers{rest}/{name}", "name": name, "location": location}
