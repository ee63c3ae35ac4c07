"""Brings a published version to the hypervisors before any machine is asked to run it.

A replica begins as `replicating`; here every platform that has groups with that image in the
region gets its copy (unpacked, or in its pool), and only then the replica is `completed`, which
makes the version eligible and the groups due.  So the first machine of a rollout does not wait
for the copying, and a broken file is found before anybody is touched.
"""

import logging
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from sqlalchemy import select, update

from upkeep.core.version import ReplicationState
from upkeep.engine.clock import EngineClock
from upkeep.ports import DriverError, OsImage, Platform
from upkeep.server.provision import FORMATS, StoreProvisioner
from upkeep.store import tables as t
from upkeep.store.fleet import SqlFleetStore
from upkeep.store.groups import mark_users_of_image

log = logging.getLogger("upkeep.server")


@runtime_checkable
class Stager(Protocol):
    """A platform that can take a copy of an image before it is needed."""

    def stage(self, image: OsImage) -> None:
        """Done already is success.

        Raises:
            DriverError: as `replace_os_disk` would.
        """
        ...


class Staging:
    """Call it whenever something may have been published; cheap when nothing was."""

    def __init__(
        self,
        store: SqlFleetStore,
        platforms: Mapping[str, Platform],
        provisioner: StoreProvisioner,
        clock: EngineClock,
    ) -> None:
        self._store = store
        self._platforms = platforms
        self._provisioner = provisioner
        self._clock = clock

    def waiting(self) -> bool:
        """Whether any replica is still on its way."""
        with self._store.database.read() as connection:
            return connection.execute(_REPLICATING.limit(1)).first() is not None

    def __call__(self) -> None:
        with self._store.database.read() as connection:
            replicas = connection.execute(_REPLICATING).all()
        for replica in replicas:
            self._bring(replica.image_name, replica.version, replica.region)

    def _bring(self, image: str, version: str, region: str) -> None:
        state, note = ReplicationState.COMPLETED, ""
        for platform in self._users(image, version, region):
            driver = self._platforms.get(platform)
            if not isinstance(driver, Stager):
                continue
            try:
                driver.stage(self._provisioner.find_image(image, version, platform))
            except DriverError as error:
                state, note = ReplicationState.FAILED, error.detail
                log.warning("image=%s version=%s region=%s: %s", image, version, region, note)
        now = self._clock.now()
        replicas = t.image_replicas.c
        with self._store.database.write() as connection:
            connection.execute(
                update(t.image_replicas)
                .where(
                    replicas.image_name == image,
                    replicas.version == version,
                    replicas.region == region,
                )
                .values(state=state, note=note)
            )
            groups = mark_users_of_image(connection, image, now=now)
        for group in groups:
            self._store.announce(group)

    def _users(self, image: str, version: str, region: str) -> list[str]:
        """Platforms with groups of this image in the region, whose format the version has."""
        formats = select(t.image_versions.c.format).where(
            t.image_versions.c.image_name == image, t.image_versions.c.version == version
        )
        query = (
            select(t.groups.c.platform)
            .where(
                t.groups.c.image_name == image,
                t.groups.c.region == region,
                t.groups.c.deleted_at.is_(None),
            )
            .distinct()
            .order_by(t.groups.c.platform)
        )
        with self._store.database.read() as connection:
            names = connection.execute(query).scalars().all()
            there = set(connection.execute(formats).scalars())
        return [name for name in names if FORMATS.get(name) in there]


_REPLICATING = (
    select(t.image_replicas.c.image_name, t.image_replicas.c.version, t.image_replicas.c.region)
    .where(t.image_replicas.c.state == ReplicationState.REPLICATING)
    .order_by(t.image_replicas.c.image_name, t.image_replicas.c.version, t.image_replicas.c.region)
)
