"""A whole roll of 20 real machines against a bare shell loop, and a rollback against its upgrade.

Both sides run on nspawn machines of the same image, in batches of four (20 %), bake and notice 0,
with the same probe at the same interval; the image is unpacked before either begins (upkeep does
that when a version is published).  They take turns, three pairs in one run, and the ratio is of
each pair.
"""

import asyncio
import shutil
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.figure import Figure
from bench.server_process import running_server
from bench.workspace import load_now, room_for_machines, workspace
from upkeep.agent.pack import build_zipapp
from upkeep.catalogue.build import BuiltImage, build_image
from upkeep.cli.client import Client
from upkeep.demo.stage import CACHE, OVERLAY
from upkeep.engine.prober import NetworkProber
from upkeep.platforms.bridge import Bridge
from upkeep.platforms.nspawn import NspawnPlatform
from upkeep.platforms.nspawn_cgroup import machine_groups
from upkeep.ports import MachineSpec, OsImage

MACHINES = 20
BATCH = 4
PAIRS = 3
GOOD, NEXT = "1.0.0", "1.0.1"
INTERVAL_S = 0.2
# Where the demonstration's application answers.
PORT = 8080
BARE_ROLL = Path(__file__).with_name("bare_roll.sh")
OURS_BRIDGE, OURS_ADDRESS = "upkeepours0", "10.217.0.1"
BARE_BRIDGE, BARE_PREFIX = "upkeepbare0", "10.215.0"
ONE_BRIDGE, ONE_NETWORK = "upkeepone0", "10.216.0.1/24"
TURNS = 7
WAIT_S = 300.0


def measure() -> list[Figure]:
    with workspace() as folder, room_for_machines():
        images = _build_images(folder)
        ratios, note = _roll_ratios(folder, images)
        rollback, rollback_note = _rollback_ratio(folder, images)
    return [
        Figure(
            name="roll_ratio",
            value=statistics.median(ratios),
            unit="ratio",
            budget=1.05,
            note=f"{MACHINES} machines by {BATCH}; upkeep/bare seconds per pair: {note}",
        ),
        Figure(
            name="rollback_ratio",
            value=rollback,
            unit="ratio",
            budget=1.2,
            note=f"one machine, each until its application answers; {rollback_note}",
        ),
    ]


def _build_images(folder: Path) -> dict[str, BuiltImage]:
    """Two versions of the demonstration's application; the bare system below is kept."""
    CACHE.mkdir(parents=True, exist_ok=True)
    agent = build_zipapp(folder / "agent.pyz")
    return {
        version: build_image(
            "web", version, folder / f"web-{version}.tar", overlay=OVERLAY, packages=(),
            agent=agent, format="tar", cache=CACHE,
            progress=lambda text: print(text, file=sys.stderr, flush=True),
        )
        for version in (GOOD, NEXT)
    }  # fmt: skip


def _roll_ratios(folder: Path, images: dict[str, BuiltImage]) -> tuple[list[float], str]:
    bare = _Bare(folder / "bare", images[GOOD].path)
    bridge = Bridge(name=OURS_BRIDGE, address=f"{OURS_ADDRESS}/24")
    with running_server(
        folder,
        "--platform", "nspawn", "--bridge", bridge.name, "--network", bridge.address,
        addresses=("127.0.0.1", OURS_ADDRESS),
    ) as server:  # fmt: skip
        fleet = _Fleet(server.client())
        try:
            fleet.create(images[GOOD])
            bare.create()
            return _race(fleet, bare, images)
        finally:
            bare.clear()
            fleet.clear()
            bridge.remove()


def _race(fleet: "_Fleet", bare: "_Bare", images: dict[str, BuiltImage]) -> tuple[list[float], str]:
    ratios, notes = [], []
    for number in range(PAIRS):
        ours = fleet.roll(images[NEXT], f"1.1.{number}")
        theirs = bare.roll(images[NEXT].path)
        ratios.append(ours / theirs)
        notes.append(f"{ours:.2f}/{theirs:.2f} ({load_now()})")
    return ratios, ", ".join(notes)


class _Fleet:
    """A group of machines under a running server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, image: BuiltImage) -> None:
        self._client.post("/v1/images", {"name": "web"})
        self._publish(image, GOOD)
        self._client.post(
            "/v1/groups",
            {
                "name": "web",
                "kind": "scale_set",
                "platform": "nspawn",
                "capacity": MACHINES,
                "image": "web",
                "probe": {
                    "protocol": "http",
                    "port": PORT,
                    "path": "/",
                    "interval_ms": int(INTERVAL_S * 1000),
                },
                "policy": {"max_batch_percent": 20, "health_wait_s": 20},
            },
        )
        _wait(self._all_healthy)

    def _all_healthy(self) -> bool:
        machines = self._client.get("/v1/machines", group="web")["items"]
        return len(machines) == MACHINES and all(m["health"] == "healthy" for m in machines)

    def _publish(self, image: BuiltImage, version: str) -> None:
        path = f"/v1/images/web/versions/{version}/tar"
        self._client.upload(path, image.path, sha256=image.sha256)

    def roll(self, image: BuiltImage, version: str) -> float:
        """Seconds from the rollout's first decision to its last, as its row has them."""
        self._publish(image, version)
        rollout = self._ended(version)
        assert rollout["state"] == "completed", rollout
        return _seconds_between(rollout["started_at"], rollout["ended_at"])

    def _ended(self, target: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def is_over() -> bool:
            rollouts = self._client.get("/v1/groups/web/rollouts")["items"]
            found[:] = [r for r in rollouts if r["target"] == target and r["ended_at"]]
            return bool(found)

        _wait(is_over)
        return found[0]

    def clear(self) -> None:
        self._client.delete("/v1/groups/web")
        _wait(lambda: not self._client.get("/v1/groups")["items"])


def _rollback_ratio(folder: Path, images: dict[str, BuiltImage]) -> tuple[float, str]:
    """One machine, upgraded and switched back in turn; each until its application answers."""
    root = folder / "one"
    root.mkdir()
    bridge = Bridge(name=ONE_BRIDGE, address=ONE_NETWORK)
    platform = NspawnPlatform(root, bridge=bridge)
    old, new = (
        OsImage(name="web", version=v, sha256=images[v].sha256, path=images[v].path)
        for v in (GOOD, NEXT)
    )
    platform.stage(old)
    platform.stage(new)
    spec = MachineSpec(name="one", uuid=str(uuid.uuid4()), image=old)
    platform.create(spec, key="create", fence=1)
    address = platform.observe(["one"])[0].address
    try:
        _until_answers(address)
        upgrades, rollbacks = [], []
        for number in range(TURNS):
            begun = time.monotonic()
            platform.replace_os_disk("one", new, {}, key=f"up/{number}", fence=1)
            _until_answers(address)
            upgrades.append(time.monotonic() - begun)
            begun = time.monotonic()
            platform.switch_back("one", key=f"back/{number}", fence=1)
            _until_answers(address)
            rollbacks.append(time.monotonic() - begun)
    finally:
        platform.delete("one", key="delete", fence=1)
        bridge.remove()
    up, back = statistics.median(upgrades), statistics.median(rollbacks)
    return back / up, f"medians of {TURNS}: back {back:.2f} s, upgrade {up:.2f} s"


def _until_answers(address: str) -> None:
    prober = NetworkProber()

    def answers() -> bool:
        result = asyncio.run(prober.probe("http", address, PORT, "/", 1.0))
        return result.status == 200

    _wait(answers, every_s=0.01)


def _wait(is_done: Callable[[], bool], *, every_s: float = 0.1) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_done():
        if time.monotonic() > deadline:
            raise TimeoutError("the bench waited too long for its machines")
        time.sleep(every_s)


def _seconds_between(begun: str, ended: str) -> float:
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds()


class _Bare:
    """The same work by a shell loop."""

    def __init__(self, folder: Path, image: Path) -> None:
        self._folder = folder
        self._image = image
        # Next to upkeep's own and with the same limits: on a busy host the kernel shares out time
        # by control group, and a machine outside of them would get more of it.
        like = MachineSpec(
            name="bare", uuid="", image=OsImage(name="web", version=GOOD, sha256="", path=image)
        )
        self._groups = [
            machine_groups(f"bare{n}", memory_mib=like.memory_mib, cpus=like.cpus)
            for n in range(MACHINES)
        ]

    def create(self) -> None:
        for number, groups in enumerate(self._groups):
            groups.prepare()
            machine = self._folder / f"m{number}"
            machine.mkdir(parents=True)
            (machine / "groups").write_text("".join(f"{file}\n" for file in groups.procs_files()))
        self._run("create", self._image, BARE_BRIDGE, BARE_PREFIX)

    def roll(self, image: Path) -> float:
        unpacked = self._folder / "images" / image.stem
        if not unpacked.exists():
            unpacked.mkdir(parents=True)
            subprocess.run(["tar", "-C", unpacked, "-xf", image], check=True)
        begun = time.monotonic()
        self._run("roll", image, BARE_BRIDGE, BARE_PREFIX, str(BATCH), str(INTERVAL_S))
        return time.monotonic() - begun

    def clear(self) -> None:
        self._run("clear")
        for groups in self._groups:
            groups.kill_all()
            groups.remove()
        subprocess.run(["ip", "link", "delete", BARE_BRIDGE], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, verb: str, *arguments: object) -> None:
        subprocess.run(
            [BARE_ROLL, verb, self._folder, str(MACHINES), *map(str, arguments)],
            check=True,
            timeout=WAIT_S,
        )
