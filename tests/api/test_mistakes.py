"""What people get wrong: each is named, says what to do, and leaves all as it was."""

import asyncio
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from tests.api.agent_by_hand import eventually

from upkeep.catalogue.blobs import BlobStore
from upkeep.engine.prober import NetworkProber
from upkeep.platforms.commands import run_command
from upkeep.ports import DriverError, DriverErrorKind
from upkeep.server.main import serve
from upkeep.server.provision import StoreProvisioner
from upkeep.server.settings import ServerSettings, SettingsError
from upkeep.store import tables as t

PROBE = {"protocol": "http", "port": 8080, "path": "/health"}
GROUP = {"name": "web", "platform": "simulated", "image": "web", "probe": PROBE}


@pytest.fixture
def web(server: Any, admin: httpx.Client) -> dict[str, Any]:
    """A good group, as it is shown; the planner has looked at it and has nothing to do."""
    admin.post("/v1/images", json={"name": "web"})
    made = admin.post("/v1/groups", json=GROUP)
    assert made.status_code == 201, made.text
    eventually(
        lambda: server.read(lambda c: c.execute(select(t.groups.c.wake_at)).scalar()) is None
    )
    return dict(made.json())


def rows(server: Any) -> str:
    """All that an operator can change, as text."""
    tables = (t.groups, t.machines, t.budgets, t.blackouts, t.calls, t.rollouts, t.images)
    return str(server.read(lambda c: [c.execute(select(table)).all() for table in tables]))


# --- Groups ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/groups/nobody", None),
        ("PATCH", "/v1/groups/nobody", {"capacity": 3}),
        ("DELETE", "/v1/groups/nobody", None),
        ("POST", "/v1/groups/nobody/pause", None),
        ("POST", "/v1/groups/nobody/resume", None),
        ("GET", "/v1/groups/nobody/rollouts", None),
        ("POST", "/v1/groups/nobody/rollouts", {}),
        ("GET", "/v1/groups/nobody/story", None),
        ("POST", "/v1/machines", {"name": "db-1", "group": "nobody"}),
        ("POST", "/v1/budgets", {"name": "b", "max_down": 1, "selector": {"groups": ["nobody"]}}),
        (
            "POST",
            "/v1/blackouts",
            {"name": "b", "opens": "2026-12-24T00:00:00Z", "closes": "2026-12-25T00:00:00Z",
             "group": "nobody"},
        ),
    ],
)  # fmt: skip
def test_an_unknown_group_is_named_and_nothing_is_made(
    server: Any, admin: httpx.Client, web: Any, method: str, path: str, body: Any
) -> None:
    server.planning = False
    before = rows(server)
    answer = admin.request(method, path, json=body)
    assert answer.status_code in (400, 404), answer.text
    assert "nobody" in answer.json()["detail"]
    assert rows(server) == before


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"max_batch_percent": 4}, "max_batch_percent is 4; set 5 to"),
        ({"max_batch_percent": 101}, "max_batch_percent is 101; set 5 to"),
        ({"max_batch_percent": -1}, "max_batch_percent is -1; set 5 to"),
        ({"max_unhealthy_percent": 101}, "max_unhealthy_percent is 101; set"),
        ({"max_unhealthy_upgraded_percent": 101}, "max_unhealthy_upgraded_percent is 101; set"),
        ({"max_batch_percent": 30, "max_unhealthy_percent": 20}, "lower the first or raise"),
        ({"max_batch_percent": 30, "max_unhealthy_percent": 200}, "max_unhealthy_percent is 200"),
        ({"health_wait_s": 0}, "health_wait is 0; set"),
        ({"bake_time_s": -1}, "bake_time_s: set 0 to"),
        ({"max_batch_percent": 20.5}, "`int"),
        ({"max_batch_percent": "20%"}, "`int"),
    ],
)
def test_a_policy_that_breaks_a_rule_changes_no_group(
    server: Any, admin: httpx.Client, web: Any, policy: dict[str, Any], words: str
) -> None:
    server.planning = False
    before = rows(server)
    for answer in (
        admin.patch("/v1/groups/web", json={"policy": policy, "capacity": 9}),
        admin.post("/v1/groups", json={**GROUP, "name": "other", "policy": policy}),
    ):
        assert answer.status_code == 400
        assert words in answer.json()["detail"]
    assert rows(server) == before


def test_a_batch_above_the_limit_that_stands_is_refused(admin: httpx.Client, web: Any) -> None:
    """Only one of the two is sent; the other is the group's own."""
    limit = web["policy"]["max_unhealthy_percent"]
    answer = admin.patch("/v1/groups/web", json={"policy": {"max_batch_percent": limit + 1}})
    assert answer.status_code == 400
    assert f"max_unhealthy_percent ({limit})" in answer.json()["detail"]
    assert admin.get("/v1/groups/web").json()["policy"] == web["policy"]


def test_without_a_health_source_nothing_rolls_by_itself(admin: httpx.Client) -> None:
    admin.post("/v1/images", json={"name": "web"})
    answer = admin.post("/v1/groups", json={**GROUP, "probe": None})
    assert answer.status_code == 400
    assert "set `probe`" in answer.json()["detail"]
    assert "auto_upgrade to false" in answer.json()["detail"]
    assert admin.get("/v1/groups").json()["items"] == []


# --- Images ---------------------------------------------------------------------------------------


def publish(admin: httpx.Client, content: bytes, *, version: str = "1.0.0") -> httpx.Response:
    digest = hashlib.sha256(content).hexdigest()
    return admin.put(
        f"/v1/images/web/versions/{version}/tar",
        content=content,
        headers={"Digest": f"sha-256={digest}"},
    )


@pytest.mark.parametrize(
    "digest",
    ["", "sha-256=", "sha-256=" + "g" * 64, "md5=" + "0" * 32, "0" * 64, "sha-256=" + "0" * 65],
)
def test_a_digest_that_is_none_is_asked_for_before_the_file(
    server: Any, admin: httpx.Client, digest: str
) -> None:
    headers = {"Digest": digest} if digest else {}
    answer = admin.put("/v1/images/web/versions/1.0.0/tar", content=b"x", headers=headers)
    assert answer.status_code == 400
    assert "sha-256=<64 hex digits>" in answer.json()["detail"]
    assert admin.get("/v1/images/web").status_code == 404


def test_a_wrong_checksum_leaves_neither_a_version_nor_a_file(
    server: Any, admin: httpx.Client
) -> None:
    answer = admin.put(
        "/v1/images/web/versions/1.0.0/tar",
        content=b"not what was announced",
        headers={"Digest": "sha-256=" + "0" * 64},
    )
    assert (answer.status_code, answer.json()["kind"]) == (400, "digest_mismatch")
    assert "send the file again" in answer.json()["detail"]
    assert admin.get("/v1/images/web").status_code == 404
    assert [path for path in server.services.blobs.directory.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/groups", {**GROUP, "name": "other", "image": "nothing"}),
        ("PATCH", "/v1/groups/web", {"image": "nothing"}),
        ("GET", "/v1/images/nothing", None),
        ("PATCH", "/v1/images/nothing/versions/1.0.0", {"excluded": True}),
        ("POST", "/v1/images/nothing/versions/1.0.0/replicate", {"regions": ["eu"]}),
    ],
)
def test_a_missing_image_is_named(
    server: Any, admin: httpx.Client, web: Any, method: str, path: str, body: Any
) -> None:
    server.planning = False
    before = rows(server)
    answer = admin.request(method, path, json=body)
    assert answer.status_code in (400, 404)
    assert "nothing" in answer.json()["detail"]
    assert rows(server) == before


def test_a_missing_version_is_refused_by_name(admin: httpx.Client, web: Any) -> None:
    answer = admin.post("/v1/groups/web/rollouts", json={"version": "9.9.9"})
    assert answer.status_code == 409
    assert "9.9.9" in answer.json()["detail"]
    absent = admin.patch("/v1/images/web/versions/9.9.9", json={"excluded": True})
    assert absent.status_code == 404
    assert "9.9.9" in absent.json()["detail"]


def provisioner(server: Any) -> StoreProvisioner:
    services = server.services
    return StoreProvisioner(
        services.database, services.blobs, services.certificates, services.clock,
        server_url=services.url,
    )  # fmt: skip


def blob_of(blobs: BlobStore, content: bytes) -> Path:
    return blobs.path_of(hashlib.sha256(content).hexdigest())


def test_an_image_that_changed_on_the_servers_disk_is_never_booted(
    server: Any, admin: httpx.Client
) -> None:
    assert publish(admin, b"good").status_code == 201
    makes = provisioner(server)
    assert makes.find_image("web", "1.0.0", "nspawn").path.read_bytes() == b"good"
    file = blob_of(server.services.blobs, b"good")
    file.chmod(0o644)
    file.write_bytes(b"evil")
    with pytest.raises(DriverError) as refused:
        makes.find_image("web", "1.0.0", "nspawn")
    assert refused.value.kind is DriverErrorKind.BAD_IMAGE
    assert not refused.value.retryable
    assert "publish it again" in refused.value.detail
    # Publishing the good file again mends it.
    assert publish(admin, b"good").status_code == 200
    assert makes.find_image("web", "1.0.0", "nspawn").path.read_bytes() == b"good"


def test_an_image_whose_file_or_format_is_gone_says_what_to_do(
    server: Any, admin: httpx.Client
) -> None:
    assert publish(admin, b"good").status_code == 201
    makes = provisioner(server)
    blob_of(server.services.blobs, b"good").unlink()
    for platform, version, words in (
        ("nspawn", "1.0.0", "publish the version again"),
        ("libvirt", "1.0.0", "--format qcow2"),
        ("nspawn", "2.0.0", "--format tar"),
    ):
        with pytest.raises(DriverError) as refused:
            makes.find_image("web", version, platform)
        assert refused.value.kind is DriverErrorKind.BAD_IMAGE
        assert words in refused.value.detail


# --- Starting -----------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="the platform needs root")
def test_a_server_whose_platform_lacks_a_command_names_the_package_and_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = ServerSettings(
        state_dir=str(tmp_path / "state"), platforms=("nspawn",), bridge="upkeep-none"
    )
    with pytest.raises(SettingsError, match=r"command ip is missing.*apt-get install iproute2"):
        serve(settings)


def test_a_command_that_is_missing_names_its_package() -> None:
    with pytest.raises(DriverError) as refused:
        run_command(["upkeep-no-such-command"], package="some-package")
    assert refused.value.kind is DriverErrorKind.TOOL_MISSING
    assert "apt-get install some-package" in refused.value.detail


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"state_dir": "/proc/nowhere"}, "set another state_dir"),
        ({"database": "sqlite:////nowhere/at/all.db"}, "the database: .* files cannot be written"),
    ],
)
def test_a_server_that_cannot_keep_its_state_does_not_start(
    tmp_path: Path, settings: dict[str, str], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        serve(ServerSettings(**{"state_dir": str(tmp_path), **settings}, platforms=("agent_only",)))


# --- Probes ---------------------------------------------------------------------------------------


@contextmanager
def silent_port() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(4)
        yield int(listener.getsockname()[1])


@pytest.mark.parametrize("protocol", ["http", "https"])
def test_a_probe_that_is_never_answered_ends(protocol: str) -> None:
    prober = NetworkProber(allow_local=True)
    with silent_port() as port:
        result = asyncio.run(prober.probe(protocol, "127.0.0.1", port, "/", 0.2))
    assert not result.answered
    assert result.detail == "no answer within 0.2 s"


@pytest.mark.parametrize(
    ("address", "words"),
    [("127.0.0.1", "allow local probes"), ("169.254.169.254", "allow local probes"),
     ("::1", "allow local probes"), ("0.0.0.0", "allow local probes"),
     ("db.example", "db.example")],
)  # fmt: skip
def test_a_probe_that_may_not_be_sent_says_so(address: str, words: str) -> None:
    result = asyncio.run(NetworkProber().probe("http", address, 80, "/", 0.2))
    assert not result.answered
    assert words in result.detail
