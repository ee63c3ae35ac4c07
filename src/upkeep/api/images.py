"""The catalogue: images and their versions; publishing one starts rollouts by itself."""

import asyncio
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from litestar import Response, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED
from msgspec import Meta
from sqlalchemy import Connection, Row

from upkeep.api.auth import OPERATE_ALL, READ
from upkeep.api.problems import InputError, ProblemKind, conflict, invalid, not_found
from upkeep.api.services import Services
from upkeep.api.shapes import (
    After,
    AnyRequest,
    Body,
    Label,
    Limit,
    Name,
    Page,
    Text,
    View,
    is_label,
    is_name,
    note,
    page_of,
    text_cursor,
    too_many,
)
from upkeep.catalogue.blobs import Blob, BlobError, BlobWriter
from upkeep.core.version import ImageVersion, ReplicationState, is_version, latest, order_of
from upkeep.store import images
from upkeep.store.database import from_us

FORMATS = ("tar", "qcow2")
# Hashing and writing leave the loop in pieces of this size, not chunk by chunk.
PIECE_BYTES = 1024 * 1024
# Each keeps a thread busy and a disk head moving.
UPLOADS_MAX = 4
REGIONS_MAX = 100

_DIGEST = re.compile(r"sha-256=([0-9a-fA-F]{64})")

Regions = Annotated[tuple[Label, ...], Meta(max_length=REGIONS_MAX)]


class ImageNew(Body):
    name: Name


class VersionPatch(Body):
    """`regions`, of `excluded`: absent or empty is everywhere."""

    excluded: bool | None = None
    floor: bool | None = None
    regions: Regions = ()
    note: Text | None = None


class Replicate(Body):
    regions: Annotated[tuple[Label, ...], Meta(min_length=1, max_length=REGIONS_MAX)]


class VersionView(View):
    """One format of one version; `excluded_regions`: where alone it is excluded."""

    version: str
    format: str
    sha256: str
    size: int
    excluded: bool
    floor: bool
    excluded_regions: list[str]
    regions: list[str]
    note: str
    published_at: datetime


class ImageView(View):
    """`latest`: the highest version that is not excluded; regions may differ."""

    name: str
    latest: str | None
    versions: list[VersionView]
    created_at: datetime


@get("/v1/images", opt=READ, sync_to_thread=True)
def list_images(
    services: NamedDependency[Services], limit: Limit = 100, after: After = None
) -> Page[ImageView]:
    """List images, by name."""
    with services.database.read() as connection:
        rows, more = images.read_list(connection, after=text_cursor(after), limit=limit)
        views = {view.name: view for view in _views(connection, rows)}
    return page_of(rows, more, lambda row: views[row.name], lambda row: row.name)


@post("/v1/images", opt=OPERATE_ALL, sync_to_thread=True)
def create_image(
    request: AnyRequest, services: NamedDependency[Services], data: JSONBody[ImageNew]
) -> ImageView:
    """Create an image without a version; publishing the first version does it, too."""
    note(request, data)
    now = services.clock.now()
    with services.database.write() as connection:
        if not images.create(connection, data.name, now=now):
            raise conflict(f"there is an image {data.name!r} already")
        return _views(connection, [_find(connection, data.name)])[0]


@get("/v1/images/{image:str}", opt=READ, sync_to_thread=True)
def show_image(services: NamedDependency[Services], image: FromPath[str]) -> ImageView:
    """Show an image with its versions, newest first."""
    with services.database.read() as connection:
        return _views(connection, [_find(connection, image)])[0]


@put(
    "/v1/images/{image:str}/versions/{version:str}/{format:str}",
    opt=OPERATE_ALL,
    request_max_body_size=None,
)
async def publish(
    request: AnyRequest,
    services: NamedDependency[Services],
    image: FromPath[str],
    version: FromPath[str],
    format: FromPath[str],
    regions: Annotated[str, QueryParameter(max_length=10_000)] = "",
) -> Response[VersionView]:
    """Upload a version; groups that run the image with automatic upgrade begin to roll.

    Header `Digest: sha-256=<hex>`; `?regions=a,b` names where it may be used, by default
    everywhere that a group is and in `local`.  The same blob again is no error.
    """
    if not is_name(image) or not is_version(version) or format not in FORMATS:
        raise invalid(f"the path is /v1/images/NAME/versions/1.2.3/FORMAT, format one of {FORMATS}")
    match = _DIGEST.fullmatch(request.headers.get("digest", ""))
    if match is None:
        raise invalid("header Digest: send `Digest: sha-256=<64 hex digits>` of the file")
    wanted = _parse_regions(regions)
    if _uploads.locked():
        raise too_many(f"{UPLOADS_MAX} uploads are running; wait for one")
    async with _uploads:
        blob = await _receive(request, services, match[1].lower())
    note(request, {"sha256": blob.sha256, "size": blob.size, "regions": wanted})
    view, made = await asyncio.to_thread(
        _write_version, services, image, version, format, blob, wanted
    )
    return Response(view, status_code=HTTP_201_CREATED if made else HTTP_200_OK)


@patch("/v1/images/{image:str}/versions/{version:str}", opt=OPERATE_ALL, sync_to_thread=True)
def change_version(
    request: AnyRequest,
    services: NamedDependency[Services],
    image: FromPath[str],
    version: FromPath[str],
    data: JSONBody[VersionPatch],
) -> ImageView:
    """Exclude a version or take it back in; running rollouts of an excluded one stop.  Or make it a
    floor, which no machine goes past without having run it."""
    note(request, data)
    now = services.clock.now()
    with services.database.write() as connection:
        _find_version(connection, image, version)
        marked = images.change_version(
            connection,
            image,
            version,
            excluded=data.excluded,
            regions=data.regions,
            floor=data.floor,
            note=data.note,
            now=now,
        )
        view = _views(connection, [_find(connection, image)])[0]
    services.announce(*marked)
    return view


@post(
    "/v1/images/{image:str}/versions/{version:str}/replicate",
    opt=OPERATE_ALL,
    status_code=HTTP_200_OK,
    sync_to_thread=True,
)
def replicate(
    request: AnyRequest,
    services: NamedDependency[Services],
    image: FromPath[str],
    version: FromPath[str],
    data: JSONBody[Replicate],
) -> ImageView:
    """Let a version be used in more regions."""
    note(request, data)
    now = services.clock.now()
    with services.database.write() as connection:
        _find_version(connection, image, version)
        marked = images.replicate(
            connection, image, version, data.regions, now=now, state=services.replication
        )
        view = _views(connection, [_find(connection, image)])[0]
    services.announce(*marked)
    return view


ROUTES = [list_images, create_image, show_image, publish, change_version, replicate]

_uploads = asyncio.Semaphore(UPLOADS_MAX)


async def _receive(request: AnyRequest, services: Services, sha256: str) -> Blob:
    """Stream the body into the blob store; half of it leaves nothing."""
    writer: BlobWriter | None = None
    try:
        writer = await asyncio.to_thread(services.blobs.begin, sha256)
        piece = bytearray()
        async for chunk in request.stream():
            piece += chunk
            if len(piece) >= PIECE_BYTES:
                await asyncio.to_thread(writer.write, bytes(piece))
                piece.clear()
        if piece:
            await asyncio.to_thread(writer.write, bytes(piece))
        return await asyncio.to_thread(writer.commit)
    except BlobError as error:
        raise InputError(ProblemKind(error.kind.value), error.detail) from error
    finally:
        if writer is not None:
            writer.close()


def _write_version(
    services: Services, image: str, version: str, format: str, blob: Blob, regions: Sequence[str]
) -> tuple[VersionView, bool]:
    now = services.clock.now()
    marked: list[str] = []
    with services.database.write() as connection:
        images.create(connection, image, now=now)
        known = images.find_version(connection, image, version, format)
        if known is not None and known.sha256 != blob.sha256:
            raise conflict(
                f"{image} {version} was published with SHA-256 {known.sha256}, and a version never"
                " changes: publish this file under a higher number"
            )
        if known is None:
            marked = images.publish(
                connection,
                image,
                version,
                format,
                sha256=blob.sha256,
                size=blob.size,
                regions=regions,
                now=now,
                state=services.replication,
            )
        elif regions:
            marked = images.replicate(
                connection, image, version, regions, now=now, state=services.replication
            )
        image_view = _views(connection, [_find(connection, image)])[0]
    services.announce(*marked)
    view = next(v for v in image_view.versions if (v.version, v.format) == (version, format))
    return view, known is None


def _parse_regions(text: str) -> list[str]:
    regions = [region.strip() for region in text.split(",") if region.strip()]
    if len(regions) > REGIONS_MAX or not all(is_label(region) for region in regions):
        raise invalid(f"regions: at most {REGIONS_MAX} names with commas between")
    return regions


def _find(connection: Connection, image: str) -> Row[Any]:
    row = images.find(connection, image) if is_name(image) else None
    if row is None:
        raise not_found(f"there is no image {image!r}; list them with GET /v1/images")
    return row


def _find_version(connection: Connection, image: str, version: str) -> None:
    _find(connection, image)
    found = images.find_version(connection, image, version) if is_version(version) else None
    if found is None:
        raise not_found(f"there is no version {version!r} of {image}; see GET /v1/images/{image}")


def _views(connection: Connection, rows: Sequence[Row[Any]]) -> list[ImageView]:
    names = [row.name for row in rows]
    versions = images.versions(connection, names)
    replicas = images.replicas(connection, names)
    return [
        _view(
            row,
            [v for v in versions if v.image_name == row.name],
            [r for r in replicas if r.image_name == row.name],
        )
        for row in rows
    ]


def _view(row: Row[Any], versions: Sequence[Row[Any]], replicas: Sequence[Row[Any]]) -> ImageView:
    entries = [
        ImageVersion(version=version.version, excluded=bool(version.excluded))
        for version in versions
    ]
    views = [_version_view(v, [r for r in replicas if r.version == v.version]) for v in versions]
    views.sort(key=lambda view: (order_of(view.version), view.format), reverse=True)
    return ImageView(
        name=row.name,
        latest=latest(entries),
        versions=views,
        created_at=from_us(row.created_at),
    )


def _version_view(version: Row[Any], replicas: Sequence[Row[Any]]) -> VersionView:
    return VersionView(
        version=version.version,
        format=version.format,
        sha256=version.sha256,
        size=version.size,
        excluded=bool(version.excluded),
        floor=bool(version.floor),
        excluded_regions=[r.region for r in replicas if r.excluded],
        regions=[r.region for r in replicas if r.state == ReplicationState.COMPLETED],
        note=version.note,
        published_at=from_us(version.published_at),
    )
