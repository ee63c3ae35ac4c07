"""The catalogue: images, their versions (immutable), and where each version may be used."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, or_, select, update

from upkeep.core.version import ReplicationState
from upkeep.store import groups
from upkeep.store import tables as t
from upkeep.store.database import to_us
from upkeep.store.paging import read_page

LOCAL_REGION = "local"


def create(connection: Connection, name: str, *, now: datetime) -> bool:
    """False if there is one of this name."""
    if find(connection, name) is not None:
        return False
    connection.execute(insert(t.images).values(name=name, created_at=to_us(now)))
    return True


def find(connection: Connection, name: str) -> Row[Any] | None:
    return connection.execute(select(t.images).where(t.images.c.name == name)).first()


def names(connection: Connection) -> list[str]:
    return list(connection.execute(select(t.images.c.name).order_by(t.images.c.name)).scalars())


def read_list(
    connection: Connection, *, after: str | None, limit: int
) -> tuple[list[Row[Any]], bool]:
    return read_page(connection, select(t.images), t.images.c.name, after=after, limit=limit)


def versions(connection: Connection, names: Sequence[str]) -> list[Row[Any]]:
    """Every version and format of these images."""
    v = t.image_versions.c
    return list(
        connection.execute(
            select(t.image_versions)
            .where(v.image_name.in_(names))
            .order_by(v.image_name, v.version, v.format)
        )
    )


def replicas(connection: Connection, names: Sequence[str]) -> list[Row[Any]]:
    r = t.image_replicas.c
    return list(
        connection.execute(
            select(t.image_replicas)
            .where(r.image_name.in_(names))
            .order_by(r.image_name, r.version, r.region)
        )
    )


def find_version(
    connection: Connection, name: str, version: str, format: str = ""
) -> Row[Any] | None:
    query = select(t.image_versions).where(
        t.image_versions.c.image_name == name, t.image_versions.c.version == version
    )
    if format:
        query = query.where(t.image_versions.c.format == format)
    return connection.execute(query.limit(1)).first()


def publish(
    connection: Connection,
    name: str,
    version: str,
    format: str,
    *,
    sha256: str,
    size: int,
    regions: Sequence[str],
    now: datetime,
    state: ReplicationState = ReplicationState.COMPLETED,
) -> list[str]:
    """Add a stored blob as a version; answers the groups that were made due.

    Args:
        regions: where it may be used; empty means every region that a group uses, and `local`.
    """
    connection.execute(
        insert(t.image_versions).values(
            image_name=name,
            version=version,
            format=format,
            sha256=sha256,
            size=size,
            published_at=to_us(now),
        )
    )
    wanted = regions or sorted(groups.regions(connection) | {LOCAL_REGION})
    return replicate(connection, name, version, wanted, now=now, state=state)


def replicate(
    connection: Connection,
    name: str,
    version: str,
    regions: Sequence[str],
    *,
    now: datetime,
    state: ReplicationState = ReplicationState.COMPLETED,
) -> list[str]:
    """The version may be used in these regions, too; again for one that failed before.

    Args:
        state: REPLICATING where somebody brings the file to hypervisors first
            (`server/staging.py`), which then makes it COMPLETED or FAILED.
    """
    r = t.image_replicas.c
    here = set(
        connection.execute(
            select(r.region).where(r.image_name == name, r.version == version)
        ).scalars()
    )
    connection.execute(
        update(t.image_replicas)
        .where(
            r.image_name == name,
            r.version == version,
            r.region.in_(regions),
            r.state == ReplicationState.FAILED,
        )
        .values(state=state, note="")
    )
    missing = [region for region in regions if region not in here]
    if missing:
        connection.execute(
            insert(t.image_replicas),
            [
                {
                    "image_name": name,
                    "version": version,
                    "region": region,
                    "state": state,
                }
                for region in missing
            ],
        )
    return groups.mark_users_of_image(connection, name, now=now)


def change_version(
    connection: Connection,
    name: str,
    version: str,
    *,
    excluded: bool | None,
    regions: Sequence[str],
    floor: bool | None = None,
    note: str | None,
    now: datetime,
) -> list[str]:
    """Exclude a version, or take it back in, everywhere or in some regions; make it a floor."""
    v, r = t.image_versions.c, t.image_replicas.c
    everywhere: dict[str, Any] = {}
    if excluded is not None and not regions:
        everywhere["excluded"] = int(excluded)
    if floor is not None:
        everywhere["floor"] = int(floor)
    if note is not None:
        everywhere["note"] = note
    if everywhere:
        connection.execute(
            update(t.image_versions)
            .where(v.image_name == name, v.version == version)
            .values(everywhere)
        )
    if excluded is not None and regions:
        connection.execute(
            update(t.image_replicas)
            .where(
                r.image_name == name,
                r.version == version,
                or_(*(r.region == region for region in regions)),
            )
            .values(excluded=int(excluded))
        )
    return groups.mark_users_of_image(connection, name, now=now)
