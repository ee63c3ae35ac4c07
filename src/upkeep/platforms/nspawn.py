"""Machines as systemd-nspawn containers: a full systemd each, an OS disk that can be swapped.

A machine's OS disk is an overlay: the unpacked image below (shared, never written), an upper
layer of its own on top.  Replacing the OS disk is a new upper layer on another image; the old
one is kept as it was, and `switch_back` boots it again.  `/data` is a directory of its own.

    root/images/<sha256>/                 unpacked once per digest
    root/records/<name>.json              the journal: which disk is current, which is kept
    root/machines/<name>/data/            the data volume
    root/machines/<name>/disks/<id>/      upper, work, seed
    root/machines/<name>/runtime.json     written by the supervisor: pid, start time, boots

The truth about disks is the record, replaced atomically: a directory that it does not name is
rubbish of an interrupted call and is removed by the next.  The truth about power is the lock
that the supervisor holds from before it starts until the machine is gone.

Not decided here: when anything happens, and whether it was a good idea.
"""

import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from upkeep.platforms import nspawn_images
from upkeep.platforms.bridge import Bridge
from upkeep.platforms.commands import no_space, tool_missing
from upkeep.platforms.journal import (
    Call,
    MachineJournal,
    MachineRecord,
    check_name,
    held_lock,
    sync_directory,
    write_atomically,
)
from upkeep.platforms.nspawn_cgroup import MachineGroups, machine_groups
from upkeep.ports import (
    DriverError,
    DriverErrorKind,
    MachineSpec,
    MachineStatus,
    OsImage,
    Power,
)

SUPERVISOR = Path(__file__).with_name("nspawn_supervisor.py")
# systemd's own limit for one unit's stop is 90 s; a machine that needs longer than that hangs.
STOP_TIME_MAX_S = 90.0
# The supervisor kills after STOP_TIME_MAX_S; this is for the kernel to end the processes.
KILL_TIME_MAX_S = 10.0
# Two mounts and a clone take 0.1 s; the rest is for a host under load.
START_TIME_MAX_S = 30.0
# From the start of the supervisor to its first own record.
LAUNCH_TIME_MAX_S = 5.0
POLL_S = 0.01
# A host name's labels; a machine's name may hold what a host name may not.
HOST_LABEL_PATTERN = re.compile(r"[^a-z0-9-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One OS disk: an image and an upper layer on it, the directory `disks/<id>`."""

    id: str
    image_name: str
    version: str
    sha256: str
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NspawnFacts:
    uuid: str
    address: str
    memory_mib: int
    cpus: int
    current: Disk
    kept: Disk | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where one machine's things lie."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def disks(self) -> Path:
        return self.folder / "disks"

    @property
    def mount_point(self) -> Path:
        return self.folder / "root"

    @property
    def launch(self) -> Path:
        return self.folder / "launch.json"

    @property
    def runtime(self) -> Path:
        return self.folder / "runtime.json"

    @property
    def supervisor_lock(self) -> Path:
        return self.folder / "supervisor.lock"


class NspawnPlatform:
    """`upkeep.ports.Platform` over systemd-nspawn.  Needs root and Linux with overlayfs.

    Args:
        root: a directory on a local disk; everything of the driver is below it.
        bridge: belongs to this root alone.
        stop_time_max_s: how long an orderly stop may take before the machine is killed.
        reached: called with the name of each step once it is on disk; the crash tests end the
            process there.
    """

    def __init__(
        self,
        root: Path,
        *,
        bridge: Bridge | None = None,
        stop_time_max_s: float = STOP_TIME_MAX_S,
        reached: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._root = root.resolve()
        if set(str(self._root)) & set(":,\\"):
            raise ValueError(f"{root}: overlay and bind options cannot hold : , or \\ in a path")
        self._bridge = bridge or Bridge()
        self._stop_time_max_s = stop_time_max_s
        self._reached = reached
        self._journal = MachineJournal(self._root / "records", NspawnFacts, reached=reached)
        self._images = self._root / "images"
        self._images.mkdir(exist_ok=True)

    # -- the port ---------------------------------------------------------------------------

    def observe(self, names: Sequence[str]) -> Sequence[MachineStatus]:
        return tuple(self._observe_one(name) for name in names)

    def create(self, spec: MachineSpec, *, key: str, fence: int) -> None:
        """See the port.  A machine of the same uuid is there already: it is made to run."""
        if spec.network not in ("", self._bridge.name):
            raise DriverError(
                DriverErrorKind.FAILED,
                f"{spec.name}: no network {spec.network!r} here; use {self._bridge.name}",
                retryable=False,
            )
        with self._journal.call(spec.name, "create", key=key, fence=fence, uuid=spec.uuid) as call:
            if call.is_answered:
                return
            facts = call.record.facts
            if facts is None:
                with self._images_kept():
                    facts = self._make(spec, call)
            elif facts.uuid != spec.uuid:
                raise DriverError(
                    DriverErrorKind.FAILED,
                    f"{spec.name} exists with uuid {facts.uuid}; delete it or use another name",
                    retryable=False,
                )
            self._start(spec.name, facts)
            self._reached("create:started")

    def start(self, name: str, *, key: str, fence: int) -> None:
        with self._journal.call(name, "start", key=key, fence=fence) as call:
            if not call.is_answered:
                self._start(name, _facts(call.record))
                self._reached("start:started")

    def stop(self, name: str, *, key: str, fence: int) -> None:
        with self._journal.call(name, "stop", key=key, fence=fence) as call:
            if not call.is_answered:
                self._stop(name, _facts(call.record))
                self._reached("stop:stopped")

    def restart(self, name: str, *, key: str, fence: int) -> None:
        """See the port.  The boots are noted first, so that a repetition sees if it was done."""
        with self._journal.call(name, "restart", key=key, fence=fence) as call:
            if call.is_answered:
                return
            facts = _facts(call.record)
            boots = self._boots(name)
            if not call.step:
                call.write(facts, step=f"boots-before-{boots}")
                self._reached("restart:counted")
            if call.step == f"boots-before-{boots}":
                self._stop(name, facts)
                self._reached("restart:stopped")
            self._start(name, facts)
            self._reached("restart:started")

    def replace_os_disk(
        self,
        name: str,
        image: OsImage,
        seed: Mapping[str, bytes],
        *,
        model: str = "",
        key: str,
        fence: int,
    ) -> None:
        """See the port.

        1. Unpack the image and make the new disk while the machine runs; 2. stop; 3. one atomic
        write makes the new disk current and the old one kept; 4. start; 5. drop what is no longer
        named.  A repetition that finds 3 done goes on from 4.
        """
        with self._journal.call(name, "replace_os_disk", key=key, fence=fence) as call:
            if call.is_answered:
                return
            facts = _facts(call.record)
            if call.step != "switched":
                with self._images_kept():
                    nspawn_images.unpack(image, self._images)
                    self._reached("replace_os_disk:unpacked")
                    disk = self._make_disk(name, image, seed, facts.address, key=key, model=model)
                    self._reached("replace_os_disk:disk-made")
                    self._stop(name, facts)
                    self._reached("replace_os_disk:stopped")
                    facts = replace(facts, current=disk, kept=facts.current)
                    call.write(facts, step="switched")
            self._start(name, facts)
            self._reached("replace_os_disk:started")
            self._drop_rubbish(name, facts)

    def switch_back(self, name: str, *, key: str, fence: int) -> None:
        with self._journal.call(name, "switch_back", key=key, fence=fence) as call:
            if call.is_answered:
                return
            facts = _facts(call.record)
            if call.step != "switched":
                if facts.kept is None:
                    raise DriverError(
                        DriverErrorKind.NO_KEPT_DISK,
                        f"{name} keeps no earlier OS disk; replace its OS disk instead",
                        retryable=False,
                    )
                self._stop(name, facts)
                self._reached("switch_back:stopped")
                facts = replace(facts, current=facts.kept, kept=facts.current)
                call.write(facts, step="switched")
            self._start(name, facts)
            self._reached("switch_back:started")

    def stage(self, image: OsImage) -> None:
        """Unpack the image before a machine needs it; raises as `replace_os_disk` does."""
        nspawn_images.unpack(image, self._images)

    def delete(self, name: str, *, key: str, fence: int) -> None:
        with self._journal.call(name, "delete", key=key, fence=fence) as call:
            if call.is_answered:
                return
            if call.record.facts is not None:
                self._stop(name, call.record.facts)
                self._reached("delete:stopped")
                call.write(None, step="forgotten")
            if self._paths(name).folder.exists():
                shutil.rmtree(self._paths(name).folder)

    # -- beyond the port --------------------------------------------------------------------

    def names(self) -> Sequence[str]:
        """Every machine that was ever made here, also those deleted since."""
        return self._journal.names()

    def prune_images(self) -> list[str]:
        """Remove the unpacked images that no machine's disk stands on; gives their digests."""
        with held_lock(self._root / "images.lock", nspawn_images.UNPACK_TIME_MAX_S):
            records = [self._journal.read(name) for name in self._journal.names()]
            used = {
                disk.sha256
                for record in records
                if record.facts is not None
                for disk in (record.facts.current, record.facts.kept)
                if disk is not None
            }
            return nspawn_images.prune(self._images, used)

    def _images_kept(self) -> AbstractContextManager[int]:
        """No image is pruned between its unpacking and the record that names it."""
        return held_lock(
            self._root / "images.lock", nspawn_images.UNPACK_TIME_MAX_S, is_shared=True
        )

    # -- steps ------------------------------------------------------------------------------

    def _paths(self, name: str) -> Paths:
        check_name(name)
        return Paths(folder=self._root / "machines" / name)

    def _observe_one(self, name: str) -> MachineStatus:
        facts = self._journal.read(name).facts
        if facts is None:
            return MachineStatus(name=name, power=Power.ABSENT)
        return MachineStatus(
            name=name,
            power=Power.RUNNING if self._is_running(name) else Power.OFF,
            image_version=facts.current.version,
            kept_version=facts.kept.version if facts.kept else "",
            model=facts.current.model,
            kept_model=facts.kept.model if facts.kept else "",
            address=facts.address,
            boots=self._boots(name),
        )

    def _make(self, spec: MachineSpec, call: Call[NspawnFacts]) -> NspawnFacts:
        """A machine that is off: address, disk and empty data volume."""
        paths = self._paths(spec.name)
        if paths.folder.exists():
            shutil.rmtree(paths.folder)  # Left by a create or delete that was interrupted.
        nspawn_images.unpack(spec.image, self._images)
        self._reached("create:unpacked")
        paths.data.mkdir(parents=True)
        # One lock for all machines, so that no two are given one address.
        with held_lock(self._root / "addresses.lock", START_TIME_MAX_S):
            records = (self._journal.read(name) for name in self._journal.names())
            taken = {record.facts.address for record in records if record.facts is not None}
            address = self._bridge.free_address(taken)
            disk = self._make_disk(
                spec.name, spec.image, spec.seed, address, key="create", model=spec.model
            )
            self._reached("create:disk-made")
            facts = NspawnFacts(
                uuid=spec.uuid,
                address=address,
                memory_mib=spec.memory_mib,
                cpus=spec.cpus,
                current=disk,
            )
            call.write(facts, step="made", uuid=spec.uuid)
        return facts

    def _make_disk(
        self,
        name: str,
        image: OsImage,
        seed: Mapping[str, bytes],
        address: str,
        *,
        key: str,
        model: str,
    ) -> Disk:
        """An empty upper layer and its seed on disk, not yet in use by the record."""
        disk_id = hashlib.sha256(f"{key}/{image.sha256}".encode()).hexdigest()[:16]
        folder = self._paths(name).disks / disk_id
        if folder.exists():
            shutil.rmtree(folder)  # Left half-made by an interrupted call with this key.
        for part in ("upper", "work", "seed"):
            (folder / part).mkdir(parents=True)
        # The upper layer's directory is the machine's / and shows through as such.
        (folder / "upper").chmod(0o755)
        for file_name, content in {
            **seed,
            "network.json": self._bridge.network_json(address),
        }.items():
            check_name(file_name)
            write_atomically(folder / "seed" / file_name, content)
        sync_directory(folder)
        sync_directory(folder.parent)
        return Disk(
            id=disk_id,
            image_name=image.name,
            version=image.version,
            sha256=image.sha256,
            model=model,
        )

    def _drop_rubbish(self, name: str, facts: NspawnFacts) -> None:
        named = {facts.current.id} | ({facts.kept.id} if facts.kept else set())
        for folder in self._paths(name).disks.iterdir():
            if folder.name not in named:
                shutil.rmtree(folder)

    def _start(self, name: str, facts: NspawnFacts) -> None:
        """Start the supervisor and wait until the machine's PID 1 runs; running is success."""
        paths = self._paths(name)
        if self._is_running(name):
            return
        self._bridge.ensure(self._root)
        with held_lock(paths.supervisor_lock, LAUNCH_TIME_MAX_S) as lock_fd:
            groups = self._groups(facts)
            # The lock goes a moment before the processes do when a supervisor was killed.
            groups.kill_all()
            groups.prepare()
            paths.mount_point.mkdir(exist_ok=True)
            launch = self._launch(name, facts, groups, lock_fd)
            paths.launch.write_text(json.dumps(launch, indent=1))
            error = _run_supervisor(paths.launch, lock_fd)
        if "No space left on device" in error:
            raise no_space(f"{name}: {error}")
        if error:
            raise DriverError(DriverErrorKind.FAILED, f"{name}: {error}", retryable=True)

    def _launch(
        self, name: str, facts: NspawnFacts, groups: MachineGroups, lock_fd: int
    ) -> dict[str, object]:
        """All that the supervisor needs to know."""
        paths = self._paths(name)
        disk = paths.disks / facts.current.id
        lower = self._images / facts.current.sha256
        machine_id = self._machine_id(facts)
        return {
            "argv": [
                "systemd-nspawn",
                "--boot",
                "--quiet",
                "--register=no",
                "--keep-unit",
                "--console=pipe",
                "--link-journal=no",
                "--resolv-conf=off",
                "--timezone=off",
                f"--directory={paths.mount_point}",
                f"--machine={machine_id}",
                f"--hostname={HOST_LABEL_PATTERN.sub('-', name).strip('-')}",
                f"--uuid={facts.uuid}",
                f"--network-bridge={self._bridge.name}",
                f"--bind={paths.data}:/data",
                f"--bind-ro={disk / 'seed'}:/run/upkeep-seed",
            ],
            "overlay_options": (
                f"lowerdir={lower},upperdir={disk / 'upper'},workdir={disk / 'work'}"
            ),
            "root": str(paths.mount_point),
            "link": f"vb-{machine_id}",
            "runtime": str(paths.runtime),
            "console": str(paths.folder / "console.log"),
            "cgroup_procs": [str(file) for file in groups.procs_files()],
            "stop_time_max_s": self._stop_time_max_s,
            "lock_fd": lock_fd,
        }

    def _machine_id(self, facts: NspawnFacts) -> str:
        """Names the machine to nspawn; 12 characters, so that `vb-` + id fits in 15.

        nspawn cuts longer names, and machines with similar names would then fight for one
        interface.  A digest of root and uuid does not collide: 47 bits, a fleet of 1,000 on one
        host meets itself once in 10^8.
        """
        digest = hashlib.sha256(f"{self._root}\0{facts.uuid}".encode()).hexdigest()
        return f"u{digest[:11]}"

    def _groups(self, facts: NspawnFacts) -> MachineGroups:
        return machine_groups(self._machine_id(facts), memory_mib=facts.memory_mib, cpus=facts.cpus)

    def _is_running(self, name: str) -> bool:
        """True while somebody holds the supervisor's lock; asked with a shared lock, so that
        two who ask do not see each other."""
        try:
            descriptor = os.open(self._paths(name).supervisor_lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _boots(self, name: str) -> int:
        runtime = _read_runtime(self._paths(name).runtime)
        return runtime.get("boots", 0)

    def _stop(self, name: str, facts: NspawnFacts) -> None:
        """Ask the supervisor to stop the machine; kill it when that takes too long."""
        paths = self._paths(name)
        launch_deadline = time.monotonic() + LAUNCH_TIME_MAX_S
        while self._is_running(name):
            supervisor = _open_supervisor(paths.runtime)
            if supervisor is None:
                # It holds the lock and has not yet written who it is.
                if time.monotonic() > launch_deadline:
                    self._groups(facts).kill_all()
                if time.monotonic() > launch_deadline + KILL_TIME_MAX_S:
                    raise DriverError(
                        DriverErrorKind.TIMED_OUT,
                        f"{name}: {paths.supervisor_lock} is held by no known supervisor; "
                        "end the process that holds it",
                        retryable=True,
                    )
                time.sleep(POLL_S)
                continue
            try:
                signal.pidfd_send_signal(supervisor, signal.SIGTERM)
                if not _has_ended(supervisor, self._stop_time_max_s + KILL_TIME_MAX_S):
                    signal.pidfd_send_signal(supervisor, signal.SIGKILL)
                    _has_ended(supervisor, KILL_TIME_MAX_S)
            except ProcessLookupError:
                pass  # It ended by itself between the look and the signal.
            finally:
                os.close(supervisor)
        groups = self._groups(facts)
        groups.kill_all()
        groups.remove()


def _facts(record: MachineRecord[NspawnFacts]) -> NspawnFacts:
    if record.facts is None:
        raise DriverError(
            DriverErrorKind.NOT_FOUND, f"there is no machine {record.name} here", retryable=False
        )
    return record.facts


def _run_supervisor(launch: Path, lock_fd: int) -> str:
    """Start it and hear from it; returns what went wrong, or ""."""
    for command, package in (("systemd-nspawn", "systemd-container"), ("mount", "mount")):
        if shutil.which(command) is None:
            raise tool_missing(command, package)
    try:
        done = subprocess.run(
            (sys.executable, "-I", "-S", str(SUPERVISOR), str(launch)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_TIME_MAX_S,
            pass_fds=(lock_fd,),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"did not start within {START_TIME_MAX_S:g} s"
    try:
        return str(json.loads(done.stdout)["error"])
    except (ValueError, KeyError):
        return f"the supervisor ended with {done.returncode}: {done.stderr[-500:].strip()}"


def _read_runtime(path: Path) -> dict[str, int]:
    try:
        runtime: dict[str, int] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}  # Never started.
    return runtime


def _open_supervisor(runtime_path: Path) -> int | None:
    """A pidfd of the recorded supervisor; None when that process is gone.

    The start time is compared after the descriptor is open: from then on the number cannot be
    given to somebody else.
    """
    runtime = _read_runtime(runtime_path)
    if not runtime:
        return None
    pid = runtime["pid"]
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # A zombie that nobody collects has its old start time and is gone all the same.
        if int(fields[19]) == runtime["start_ticks"] and fields[0] not in "ZX":
            return descriptor
    os.close(descriptor)
    return None


def _has_ended(descriptor: int, wait_max_s: float) -> bool:
    """True once the process is dead, a zombie included."""
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(wait_max_s * 1000))
