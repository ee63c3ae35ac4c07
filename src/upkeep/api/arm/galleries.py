"""Galleries: the catalogue of images, as Azure writes it.

The catalogue is one, for all of the server; it is the gallery `upkeep` of whichever resource group
is asked.  A version's file comes by the native API (`upkeep image publish`); here a version is
looked at, excluded from latest (everywhere or in a region), brought to more regions, or published
again under a new number or another name: the way from staging to production.
Source: sheet os-image §2.1 (latest, replication), §9.1.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row

from upkeep.api.arm.documents import Document, checked, field
from upkeep.api.arm.route import PAGE, ArmReply, ArmRequest, Changed, page_reply, resource_reply
from upkeep.api.arm.scopes import COMPUTE, GALLERY, check_subscription, image_of_id
from upkeep.api.arm.set_model import PUBLISHER, SKU
from upkeep.api.arm.values import flag
from upkeep.api.problems import InputError, ProblemKind, bad_request, invalid, not_found
from upkeep.api.shapes import is_label, is_name, text_cursor
from upkeep.core.version import ReplicationState, is_version, order_of
from upkeep.store import images
from upkeep.store.database import from_us

# Where the gallery is said to be when no resource group was asked.
HOME = "upkeep"

_AGGREGATED: Sequence[tuple[ReplicationState, str]] = (
    (ReplicationState.FAILED, "Failed"),
    (ReplicationState.REPLICATING, "InProgress"),
    (ReplicationState.UNKNOWN, "Unknown"),
)


# --- Looking --------------------------------------------------------------------------------------


def show_list(connection: Connection, request: ArmRequest) -> ArmReply:
    check_subscription(connection, request)
    return ArmReply(body={"value": [_gallery(request)]})


def show(connection: Connection, request: ArmRequest) -> ArmReply:
    _check_gallery(connection, request)
    return ArmReply(body=_gallery(request))


def show_images(connection: Connection, request: ArmRequest) -> ArmReply:
    _check_gallery(connection, request)
    after = text_cursor(request.query.get("$skiptoken"))
    rows, more = images.read_list(connection, after=after, limit=PAGE)
    found = [_image(request, row.name) for row in rows]
    return page_reply(request, found, after=rows[-1].name if more else None)


def show_image(connection: Connection, request: ArmRequest) -> ArmReply:
    return ArmReply(body=_image(request, _find_image(connection, request)))


def show_versions(connection: Connection, request: ArmRequest) -> ArmReply:
    name = _find_image(connection, request)
    found = sorted({row.version for row in images.versions(connection, [name])}, key=order_of)
    value = [_version(connection, request, name, version) for version in found]
    return ArmReply(body={"value": value})


def show_version(connection: Connection, request: ArmRequest) -> ArmReply:
    name, version = _find_image(connection, request), request.params["version"]
    if not _rows(connection, name, version):
        raise not_found(f"there is no version {version[:40]!r} of {name}")
    return resource_reply(_version(connection, request, name, version))


# --- Changing -------------------------------------------------------------------------------------


def put_image(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    """An image without versions; one that is there is as it is."""
    _check_unscoped(request)
    _check_gallery(connection, request)
    name = request.params["image"].lower()
    if not is_name(name):
        raise invalid(f"an image cannot be called {name[:70]!r}: a-z, 0-9, dot, _ and hyphen")
    made = images.create(connection, name, now=now)
    return [], ArmReply(status=201 if made else 200, body=_image(request, name))


def put_version(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    return _write_version(connection, request, now, may_make=True)


def patch_version(connection: Connection, request: ArmRequest, now: datetime) -> Changed:
    return _write_version(connection, request, now, may_make=False)


def _check_unscoped(request: ArmRequest) -> None:
    if request.actor.scope:
        raise InputError(
            ProblemKind.FORBIDDEN,
            f"images concern every scope; the token holds only in {request.actor.scope!r}",
        )


def _write_version(
    connection: Connection, request: ArmRequest, now: datetime, *, may_make: bool
) -> Changed:
    _check_unscoped(request)
    name, version = _find_image(connection, request), request.params["version"]
    body = checked(request.body)
    profile = field(body, "properties", "publishingProfile")
    regions = _regions(profile)
    is_new = not _rows(connection, name, version)
    marked: list[str] = []
    if is_new:
        if not may_make:
            raise not_found(f"there is no version {version[:40]!r} of {name}")
        marked += _publish_again(connection, request, name, version, body, list(regions), now)
    elif regions:
        new = set(regions) - {r.region for r in _replicas(connection, name, version)}
        state = request.services.replication
        marked += images.replicate(connection, name, version, sorted(new), now=now, state=state)
    for excluded, where in _exclusions(profile, regions):
        marked += images.change_version(
            connection, name, version, excluded=excluded, regions=where, note=None, now=now
        )
    document = _version(connection, request, name, version)
    return marked, resource_reply(document, status=201 if is_new else 200)


def _publish_again(
    connection: Connection,
    request: ArmRequest,
    name: str,
    version: str,
    body: Document,
    regions: Sequence[str],
    now: datetime,
) -> list[str]:
    """The files of a version that is there, as a new one.

    Raises:
        InputError: there is no such source, or the number is none.
    """
    if not is_version(version):
        raise invalid(f"a version is three numbers, as 1.0.2; not {version[:40]!r}")
    place = field(body, "properties", "storageProfile", "source", "id")
    from_name, from_version = image_of_id(place) or ("", None)
    if from_version is None:
        raise bad_request(
            "a version's file comes with `upkeep image publish NAME VERSION FILE`; here"
            " storageProfile.source.id may name a version of this gallery to publish again"
        )
    source = _rows(connection, from_name, from_version)
    if not source:
        raise not_found(
            f"there is no version {from_version[:40]!r} of {from_name[:60]!r} to publish"
        )
    marked: list[str] = []
    for row in source:
        marked += images.publish(
            connection, name, version, row.format,
            sha256=row.sha256, size=row.size, regions=regions, now=now,
            state=request.services.replication,
        )  # fmt: skip
    return marked


def _regions(profile: Any) -> Mapping[str, bool | None]:
    """The target regions, and whether the version is excluded there; None: not said."""
    given = field(profile, "targetRegions")
    if given is None:
        return {}
    if not isinstance(given, list):
        raise invalid('targetRegions: a list, as [{"name": "local"}]')
    found: dict[str, bool | None] = {}
    for region in given:
        name = field(region, "name")
        if not isinstance(name, str) or not is_label(name):
            raise invalid("targetRegions: each has a name, as the groups' regions are called")
        said = field(region, "excludeFromLatest") is not None
        found[name] = flag(region, "excludeFromLatest") if said else None
    return found


def _exclusions(
    profile: Any, regions: Mapping[str, bool | None]
) -> Sequence[tuple[bool, Sequence[str]]]:
    """Changes to make: excluded or not, and where; nowhere named: everywhere."""
    found: list[tuple[bool, Sequence[str]]] = []
    if field(profile, "excludeFromLatest") is not None:
        found.append((flag(profile, "excludeFromLatest"), ()))
    found += [(excluded, (name,)) for name, excluded in regions.items() if excluded is not None]
    return found


# --- Finding and showing --------------------------------------------------------------------------


def _check_gallery(connection: Connection, request: ArmRequest) -> None:
    check_subscription(connection, request)
    name = request.params["gallery"]
    if name.casefold() != GALLERY:
        raise not_found(f"there is no gallery {name[:60]!r}: the catalogue is called {GALLERY!r}")


def _find_image(connection: Connection, request: ArmRequest) -> str:
    _check_gallery(connection, request)
    name = request.params["image"].lower()
    if not is_name(name) or images.find(connection, name) is None:
        raise not_found(f"there is no image {name[:60]!r}")
    return name


def _rows(connection: Connection, name: str, version: str) -> list[Row[Any]]:
    return [row for row in images.versions(connection, [name]) if row.version == version]


def _replicas(connection: Connection, name: str, version: str) -> list[Row[Any]]:
    return [row for row in images.replicas(connection, [name]) if row.version == version]


def _gallery_id(request: ArmRequest) -> str:
    group = request.params.get("group", HOME)
    subscription = request.params["subscription"].lower()
    return f"/subscriptions/{subscription}/resourceGroups/{group}/{COMPUTE}/galleries/{GALLERY}"


def _gallery(request: ArmRequest) -> Document:
    return {
        "id": _gallery_id(request),
        "name": GALLERY,
        "type": "Microsoft.Compute/galleries",
        "location": "local",
        "properties": {
            "description": "the catalogue of this server",
            "identifier": {"uniqueName": GALLERY},
            "provisioningState": "Succeeded",
        },
    }


def _image(request: ArmRequest, name: str) -> Document:
    return {
        "id": f"{_gallery_id(request)}/images/{name}",
        "name": name,
        "type": "Microsoft.Compute/galleries/images",
        "location": "local",
        "properties": {
            "osType": "Linux",
            "osState": "Generalized",
            "hyperVGeneration": "V2",
            "identifier": {"publisher": PUBLISHER, "offer": name, "sku": SKU},
            "provisioningState": "Succeeded",
        },
    }


def _version(connection: Connection, request: ArmRequest, name: str, version: str) -> Document:
    """One version with all its formats; `$expand=ReplicationStatus` says where it has come."""
    rows, replicas = _rows(connection, name, version), _replicas(connection, name, version)
    states = {ReplicationState(replica.state) for replica in replicas}
    aggregated = next((word for state, word in _AGGREGATED if state in states), "Completed")
    properties: Document = {
        "publishingProfile": {
            "excludeFromLatest": all(row.excluded for row in rows),
            "publishedDate": from_us(min(row.published_at for row in rows)).isoformat(),
            "targetRegions": [
                {
                    "name": replica.region,
                    "regionalReplicaCount": 1,
                    "excludeFromLatest": bool(replica.excluded),
                }
                for replica in replicas
            ],
        },
        "storageProfile": {"osDiskImage": {"sizeInGB": -(-max(r.size for r in rows) // 2**30)}},
        "provisioningState": "Updating" if aggregated == "InProgress" else "Succeeded",
    }
    if request.query.get("$expand", "").casefold() == "replicationstatus":
        properties["replicationStatus"] = {
            "aggregatedState": aggregated,
            "summary": [
                {
                    "region": replica.region,
                    "state": replica.state.capitalize(),
                    "details": replica.note,
                    "progress": 100 if replica.state == ReplicationState.COMPLETED else 0,
                }
                for replica in replicas
            ],
        }
    return {
        "id": f"{_gallery_id(request)}/images/{name}/versions/{version}",
        "name": version,
        "type": "Microsoft.Compute/galleries/images/versions",
        "location": "local",
        "properties": properties,
    }
