"""The simulated platform's machines, asked from outside as anybody would."""

import json
import tarfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from upkeep.demo.stage import BROKEN, GOOD, NEXT, Stage, build_images, free_port
from upkeep.platforms.bridge import Bridge
from upkeep.platforms.simulated_host import SimulatedHost
from upkeep.ports import DriverError, DriverErrorKind, MachineSpec, OsImage, Power

ANSWER_TIME_MAX_S = 30.0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], OsImage]:
    folder = tmp_path_factory.mktemp("images")
    stage = Stage(platform="simulated", folder=folder, bridge=Bridge(), application_port=0)
    built = build_images(stage, lambda line: None)
    return lambda version: OsImage(
        name="web", version=version, sha256=built[version].sha256, path=built[version].path
    )


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def host(images: Callable[[str], OsImage], port: int) -> Iterator[SimulatedHost]:
    """One with the machine `web-0` on the good version."""
    host = SimulatedHost(boot_s=0.05)
    seed = {"probe.json": json.dumps({"port": port}).encode()}
    spec = MachineSpec(name="web-0", uuid=str(uuid.uuid4()), image=images(GOOD), seed=seed)
    host.create(spec, key="create", fence=1)
    yield host
    host.delete("web-0", key="delete", fence=99)


def look(host: SimulatedHost, port: int) -> tuple[int, dict[str, Any]]:
    """What the machine's application says; (0, {}) when it does not answer."""
    address = host.observe(["web-0"])[0].address
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, {}


def answered(host: SimulatedHost, port: int) -> tuple[int, dict[str, Any]]:
    deadline = time.monotonic() + ANSWER_TIME_MAX_S
    while (found := look(host, port))[0] == 0:
        assert time.monotonic() < deadline, "it never answered"
        time.sleep(0.01)
    return found


def test_a_new_disk_is_a_new_boot_with_the_old_data(
    host: SimulatedHost, images: Callable[[str], OsImage], port: int
) -> None:
    status, before = answered(host, port)
    assert (status, before["version"]) == (200, GOOD)
    seed = {"probe.json": json.dumps({"port": port}).encode()}
    host.replace_os_disk("web-0", images(NEXT), seed, key="replace", fence=2)
    status, after = answered(host, port)
    assert (status, after["version"]) == (200, NEXT)
    assert after["boot_id"] != before["boot_id"]
    assert after["marker"] == before["marker"]
    assert host.observe(["web-0"])[0].kept_version == GOOD


def test_a_machine_that_is_off_does_not_answer(host: SimulatedHost, port: int) -> None:
    answered(host, port)
    host.stop("web-0", key="stop", fence=2)
    assert look(host, port) == (0, {})
    assert host.observe(["web-0"])[0].power is Power.OFF
    host.start("web-0", key="start", fence=3)
    assert answered(host, port)[0] == 200


def test_a_broken_version_answers_503_until_the_old_disk_is_back(
    host: SimulatedHost, images: Callable[[str], OsImage], port: int
) -> None:
    seed = {"probe.json": json.dumps({"port": port}).encode()}
    host.replace_os_disk("web-0", images(BROKEN), seed, key="replace", fence=2)
    status, page = answered(host, port)
    assert (status, page["version"]) == (503, BROKEN)
    host.switch_back("web-0", key="back", fence=3)
    status, page = answered(host, port)
    assert (status, page["version"]) == (200, GOOD)


def test_what_is_no_image_is_refused_before_the_machine_goes_down(
    host: SimulatedHost, port: int, tmp_path: Path
) -> None:
    _, before = answered(host, port)
    empty = tmp_path / "empty.tar"
    with tarfile.open(empty, "w"):
        pass
    image = OsImage(name="web", version="1.0.3", sha256="0" * 64, path=empty)
    for call in (
        lambda: host.stage(image),
        lambda: host.replace_os_disk("web-0", image, {}, key="replace", fence=2),
    ):
        with pytest.raises(DriverError) as caught:
            call()
        assert caught.value.kind is DriverErrorKind.BAD_IMAGE
    assert look(host, port) == (200, before)
