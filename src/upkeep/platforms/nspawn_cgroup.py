"""The control groups of one nspawn machine: apart from the server's and from each other.

The machine's processes leave the server's groups, so that stopping the server's service does not
stop machines, and each machine has its own, because systemd inside believes that it owns the
group it finds itself in.  Limits of memory and CPU are set where the host has the controllers.

Works on cgroup v2 and on the hybrid layout (v1 controllers, v2 under `unified`).
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from upkeep.ports import DriverError, DriverErrorKind

PARENT = "upkeep.machines"
CPU_PERIOD_US = 100_000
# Killing is at once but for processes in uninterruptible sleep on a slow disk.
EMPTY_TIME_MAX_S = 10.0
EMPTY_POLL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineGroups:
    """Attributes:
    paths: one directory per hierarchy that the machine is placed in.
    limits: files to write and what, one limit each.
    """

    paths: tuple[Path, ...]
    limits: tuple[tuple[Path, str], ...]

    def prepare(self) -> None:
        """Make the groups and set the limits; done already is success."""
        for path in self.paths:
            path.mkdir(parents=True, exist_ok=True)
        for file, value in self.limits:
            _enable_controller(file)
            # Best effort by decision: a kernel without the controller still runs machines, and
            # the limit is a courtesy to the neighbours, not a promise to the owner.
            with contextlib.suppress(OSError):
                file.write_text(value)

    def procs_files(self) -> tuple[Path, ...]:
        """Where a process writes its pid to join."""
        return tuple(path / "cgroup.procs" for path in self.paths)

    def kill_all(self) -> None:
        """End every process in the groups and wait until none is left.

        Raises:
            DriverError: TIMED_OUT, when the kernel cannot end one.
        """
        deadline = time.monotonic() + EMPTY_TIME_MAX_S
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise DriverError(
                    DriverErrorKind.TIMED_OUT,
                    f"processes {sorted(pids)[:5]} cannot be killed; look at the host's disks",
                    retryable=True,
                )
            time.sleep(EMPTY_POLL_S)

    def pids(self) -> set[int]:
        """Every process in the groups and below."""
        found: set[int] = set()
        for path in self.paths:
            for folder, _, _ in os.walk(path):
                with contextlib.suppress(OSError):
                    found.update(
                        int(pid) for pid in Path(folder, "cgroup.procs").read_text().split()
                    )
        return found

    def remove(self) -> None:
        """Take the empty groups away; what is in use or gone stays as it is."""
        for path in self.paths:
            for folder, _, _ in os.walk(path, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


def machine_groups(
    machine_id: str, *, memory_mib: int, cpus: int, root: Path = Path("/sys/fs/cgroup")
) -> MachineGroups:
    """Which groups a machine gets on this host."""
    memory_bytes = memory_mib * 1024 * 1024
    if (root / "cgroup.controllers").exists():
        group = root / PARENT / machine_id
        limits = (
            (group / "memory.max", str(memory_bytes)),
            (group / "cpu.max", f"{cpus * CPU_PERIOD_US} {CPU_PERIOD_US}"),
        )
        return MachineGroups(paths=(group,), limits=limits)
    trees = [root / name for name in ("systemd", "unified") if (root / name).is_dir()]
    paths = [tree / PARENT / machine_id for tree in trees]
    v1_limits: list[tuple[Path, str]] = []
    own = _own_v1_groups()
    # In the controllers of v1 the machine goes below where the server is, so that a limit that
    # somebody has put on the server as a whole goes on covering its machines.
    if (memory := root / "memory" / own.get("memory", "")).is_dir():
        paths.append(memory / PARENT / machine_id)
        v1_limits.append((paths[-1] / "memory.limit_in_bytes", str(memory_bytes)))
    if (cpu := root / "cpu" / own.get("cpu", "")).is_dir():
        paths.append(cpu / PARENT / machine_id)
        v1_limits.append((paths[-1] / "cpu.cfs_quota_us", str(cpus * CPU_PERIOD_US)))
    return MachineGroups(paths=tuple(paths), limits=tuple(v1_limits))


def _own_v1_groups() -> dict[str, str]:
    """This process's group by controller, from lines such as `4:memory:/a/b`."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path.strip("/")
    return groups


def _enable_controller(file: Path) -> None:
    """On v2 a controller works only where every parent hands it down."""
    controller = file.name.split(".")[0]
    top = file.parent.parent.parent
    if not (top / "cgroup.subtree_control").exists():
        return
    for folder in (top, top / PARENT):
        with contextlib.suppress(OSError):
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
