"""Turns the names in an action into what a driver needs: a verified image, a spec, a seed.

The seed is what docs/guest.md says: where the server is, the CA to pin, a one-time enrolment
token, the custom data, the first-boot scripts, the probe.  The token is new in each seed and
works for an hour, so none is ever in an image.
"""

import json
import threading
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, select, update

from upkeep.api.certificates import Certificates
from upkeep.catalogue.blobs import BlobError, BlobErrorKind, BlobStore
from upkeep.engine.clock import EngineClock
from upkeep.engine.fleet_store import LeasedAction
from upkeep.ports import DriverError, DriverErrorKind, MachineSpec, OsImage
from upkeep.store import machine_models
from upkeep.store import tables as t
from upkeep.store.agents import new_enrol_token
from upkeep.store.database import Database

# Which of a version's files a platform boots.
FORMATS = {"nspawn": "tar", "libvirt": "qcow2", "simulated": "tar"}

# Hardware identities are derived from machine ids, so a repeated creation gives the same one.
_UUIDS = uuid.UUID("6f1d4a2c-5d0e-5a52-9a0a-3f2b9c1e7d10")


class StoreProvisioner:
    """`executor.Provisioner` over the database and the blob store."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        certificates: Certificates,
        clock: EngineClock,
        *,
        server_url: str,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._certificates = certificates
        self._clock = clock
        self._server_url = server_url
        # Digest → what the file looked like when it was last read whole and found right.
        self._verified: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()

    def image(self, leased: LeasedAction) -> OsImage:
        """See `Provisioner.image`."""
        return self.find_image(leased.image_name, leased.action.version, leased.platform)

    def find_image(self, name: str, version: str, platform: str) -> OsImage:
        """One version's file for one platform, its checksum verified; raises as `image` does."""
        wanted = FORMATS.get(platform, "")
        versions = t.image_versions
        with self._database.read() as connection:
            row = connection.execute(
                select(versions).where(
                    versions.c.image_name == name,
                    versions.c.version == version,
                    versions.c.format == wanted,
                )
            ).first()
        if row is None:
            raise DriverError(
                DriverErrorKind.BAD_IMAGE,
                f"image {name} has no {wanted or 'usable'} file of version {version};"
                f" build it with --format {wanted} and publish it",
                retryable=False,
            )
        self._verify(row.sha256)
        return OsImage(
            name=name,
            version=version,
            sha256=row.sha256,
            path=self._blobs.path_of(row.sha256),
        )

    def spec(self, leased: LeasedAction) -> MachineSpec:
        machine, group = self._rows(leased)
        return MachineSpec(
            name=machine.name,
            uuid=machine.uuid,
            image=self.image(leased),
            memory_mib=group.memory_mib,
            cpus=group.cpus,
            network=group.network,
            seed=self._seed(machine, group, leased.action.model),
            model=leased.action.model,
        )

    def seed(self, leased: LeasedAction) -> Mapping[str, bytes]:
        return self._seed(*self._rows(leased), leased.action.model)

    def _verify(self, sha256: str) -> None:
        """Read the blob whole unless the very same file was found right before."""
        with self._lock:
            try:
                looks = _looks(self._blobs, sha256)
                if self._verified.get(sha256) == looks:
                    return
                self._blobs.verified(sha256)
                self._verified[sha256] = looks
            except FileNotFoundError as error:
                raise DriverError(
                    DriverErrorKind.BAD_IMAGE,
                    f"the image file {sha256} is gone from the server; publish the version again",
                    retryable=False,
                ) from error
            except BlobError as error:
                kind = (
                    DriverErrorKind.NO_SPACE
                    if error.kind is BlobErrorKind.NO_SPACE
                    else DriverErrorKind.BAD_IMAGE
                )
                raise DriverError(kind, error.detail, retryable=False) from error

    def _rows(self, leased: LeasedAction) -> tuple[Row[Any], Row[Any]]:
        """The machine, with a hardware identity from now on, and its group."""
        with self._database.write() as connection:
            connection.execute(
                update(t.machines)
                .where(t.machines.c.id == leased.action.machine, t.machines.c.uuid == "")
                .values(uuid=str(uuid.uuid5(_UUIDS, leased.action.machine)))
            )
            machine = connection.execute(
                select(t.machines).where(t.machines.c.id == leased.action.machine)
            ).one()
            group = connection.execute(
                select(t.groups).where(t.groups.c.id == leased.action.group)
            ).one()
            return machine, group

    def _seed(self, machine: Row[Any], group: Row[Any], digest: str) -> dict[str, bytes]:
        """What the OS disk is told; an action from before models had names gets the newest."""
        now = self._clock.now()
        with self._database.write() as connection:
            token = new_enrol_token(connection, machine.id, now)
            model = machine_models.find(connection, group.id, digest) if digest else group
        if model is None:
            raise DriverError(
                DriverErrorKind.FAILED,
                f"model {digest} of group {group.name} is gone: change the group's model again",
                retryable=False,
            )
        seed = {
            "upkeep.json": json.dumps(
                {
                    "server": self._server_url,
                    "ca_sha256": self._certificates.ca_sha256,
                    "machine": machine.name,
                    "uuid": machine.uuid,
                    "token": token,
                }
            ).encode(),
            "scripts.json": model.scripts.encode(),
        }
        if model.user_data:
            seed["user-data"] = model.user_data
        if group.probe != "{}":
            seed["probe.json"] = group.probe.encode()
        return seed


def _looks(blobs: BlobStore, sha256: str) -> tuple[int, int, int]:
    status = blobs.path_of(sha256).stat()
    return status.st_ino, status.st_mtime_ns, status.st_size
