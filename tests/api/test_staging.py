"""A published version is on the hypervisor before the first machine is asked to run it.

Real API, rows, blobs and engine; the platform only writes down what it is given to stage.  The
engine's thread plans all the time, so whatever may begin has begun when the test looks.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import PROBE, Server

from upkeep.core.version import ReplicationState
from upkeep.ports import DriverError, DriverErrorKind, OsImage
from upkeep.server.provision import StoreProvisioner
from upkeep.server.staging import Staging
from upkeep.store import images

PLANNED_S = 30.0


class Hypervisor:
    """A platform of which only `stage` is asked."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.staged: list[tuple[str, bytes]] = []
        self.refusal: DriverError | None = None
        self._look = look

    def stage(self, image: OsImage) -> None:
        self._look()
        if self.refusal is not None:
            raise self.refusal
        self.staged.append((image.version, image.path.read_bytes()))


@pytest.fixture
def site(server: Server) -> "Site":
    return Site(server)


class Site:
    """One group of two machines on a server whose versions begin as REPLICATING."""

    def __init__(self, server: Server) -> None:
        object.__setattr__(server.services, "replication", ReplicationState.REPLICATING)
        self.server = server
        self.api = server.client()
        self.hypervisor = Hypervisor(self.assert_nothing_begun)
        services = server.services
        self.staging = Staging(
            services.store,
            {"simulated": self.hypervisor},  # type: ignore[dict-item]
            StoreProvisioner(
                services.database, services.blobs, services.certificates, services.clock,
                server_url=services.url,
            ),
            services.clock,
        )  # fmt: skip
        self.api.post("/v1/images", json={"name": "web"}).raise_for_status()
        group = {"name": "web", "platform": "simulated", "image": "web", "capacity": 2}
        self.api.post("/v1/groups", json={**group, "probe": PROBE}).raise_for_status()

    def publish(self, version: str, *, format: str = "tar") -> None:
        content = f"web {version}".encode()
        digest = f"sha-256={hashlib.sha256(content).hexdigest()}"
        path = f"/v1/images/web/versions/{version}/{format}"
        self.api.put(path, content=content, headers={"Digest": digest}).raise_for_status()

    def replica(self, version: str) -> tuple[str, str]:
        """How far the version has come in the group's region, and what was noted."""
        found = self.server.read(images.replicas, ["web"])
        (row,) = [row for row in found if row.version == version]
        return row.state, row.note

    def work(self) -> list[dict[str, Any]]:
        return list(self.api.get("/v1/groups/web/rollouts").json()["items"])

    def plan(self) -> None:
        """Until the engine's thread has planned all that was written before."""
        services = self.server.services
        deadline = time.monotonic() + PLANNED_S
        while services.store.due_groups(services.clock.now(), 1):
            assert time.monotonic() < deadline, "the engine does not plan"
            time.sleep(0.01)

    def assert_nothing_begun(self) -> None:
        self.plan()
        assert self.work() == []


def test_nothing_begins_before_the_platform_has_the_image(site: Site) -> None:
    site.publish("1.0.0")
    site.assert_nothing_begun()
    assert site.staging.waiting()
    assert site.replica("1.0.0") == ("replicating", "")
    site.staging()
    assert site.hypervisor.staged == [("1.0.0", b"web 1.0.0")]
    assert site.replica("1.0.0") == ("completed", "")
    assert not site.staging.waiting()
    site.plan()
    (rollout,) = site.work()
    assert rollout["target"] == "1.0.0"


def test_an_image_that_the_platform_refuses_goes_to_nobody_and_says_why(site: Site) -> None:
    site.hypervisor.refusal = DriverError(
        DriverErrorKind.NO_SPACE, "the pool is full: 3 MB free", retryable=False
    )
    site.publish("1.0.0")
    site.staging()
    assert site.replica("1.0.0") == ("failed", "the pool is full: 3 MB free")
    site.assert_nothing_begun()
    # Publishing the same file again with its region is how somebody tries again.
    site.hypervisor.refusal = None
    answer = site.api.post("/v1/images/web/versions/1.0.0/replicate", json={"regions": ["local"]})
    answer.raise_for_status()
    site.staging()
    site.plan()
    assert [rollout["target"] for rollout in site.work()] == ["1.0.0"]


def test_a_file_that_was_damaged_in_the_store_is_found_before_anybody_is_touched(
    site: Site, tmp_path: Path
) -> None:
    site.publish("1.0.0")
    digest = hashlib.sha256(b"web 1.0.0").hexdigest()
    site.server.services.blobs.path_of(digest).chmod(0o600)
    site.server.services.blobs.path_of(digest).write_bytes(b"web 1.0.x")
    site.staging()
    assert site.hypervisor.staged == []
    assert site.replica("1.0.0")[0] == "failed"
    site.assert_nothing_begun()


def test_a_version_without_this_platforms_file_is_no_failure_of_it(site: Site) -> None:
    site.publish("1.0.0", format="qcow2")
    site.staging()
    assert site.hypervisor.staged == []
    assert site.replica("1.0.0") == ("completed", "")
