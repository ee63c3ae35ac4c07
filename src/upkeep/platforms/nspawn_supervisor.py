"""Keeps one nspawn machine running; started by the nspawn driver, outlives it.

This is a program of its own, stdlib only: `python3 -I -S nspawn_supervisor.py LAUNCH_JSON`.  It
leaves the session and the control group of the server, so that stopping or killing the server
never touches a machine, and makes itself PID 1 of a new PID namespace: when it dies, however it
dies, the kernel ends the whole machine with it, and its mounts go with its mount namespace.  So
there is nothing to clean up after `kill -9` and no half-alive machine to adopt.

It starts systemd-nspawn, starts it again when the machine asked for a reboot (exit code 133),
counts the boots, and keeps the tail of the console.  SIGTERM stops the machine in order, then by
force.  It decides nothing else.

Its first process prints one JSON line, `{"error": ""}` once PID 1 of the machine runs, and ends.
Invariant: the lock on the descriptor given as `lock_fd` is held from before this program starts
until the machine is gone.
"""

import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

# sched.h; Python 3.11 has no os.unshare.
CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
# nspawn's way to say "reboot" with --keep-unit (systemd's EXIT_FORCE_RESTART).
EXIT_REBOOT = 133
# systemd's "power off now, in order" (systemd(1), Signals).
SIGNAL_POWER_OFF = signal.SIGRTMIN + 4
# The signal is lost while PID 1 has no handler for it yet, so it is repeated.
POWER_OFF_REPEAT_S = 0.5
# A machine whose boots last less than this reboots in a loop; it is slowed to one per this time.
BOOT_LEAST_S = 2.0
LEADER_TIME_MAX_S = 20.0
LEADER_POLL_S = 0.01
# Two files of this size are kept; enough for several boots' messages.
CONSOLE_BYTES_MAX = 256 * 1024


def main() -> int:
    launch: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    os.setsid()
    os.chdir("/")
    for procs in launch["cgroup_procs"]:
        Path(procs).write_text(str(os.getpid()))
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS | CLONE_NEWPID) != 0:
        return report(sys.stdout, f"unshare: {os.strerror(ctypes.get_errno())}; are you root?")
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        supervise(launch, writer)
        os._exit(0)
    os.close(writer)
    os.close(launch["lock_fd"])  # The child has it; this process must not prolong it.
    with os.fdopen(reader) as pipe:
        line = pipe.readline()
    if not line:
        return report(sys.stdout, "the supervisor died before the machine was up")
    sys.stdout.write(line)
    return 0


def report(stream: IO[str], error: str) -> int:
    stream.write(json.dumps({"error": error}) + "\n")
    stream.flush()
    return 1 if error else 0


def supervise(launch: dict[str, Any], writer: int) -> None:
    """PID 1 of the new namespace: runs until the machine is off."""
    pipe = os.fdopen(writer, "w")
    detached = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(detached, descriptor)
    try:
        # Through the host's /proc, still mounted here: the numbers that the driver sees.
        identity = read_identity()
        prepare_mounts(launch)
        machine = Machine(launch, identity)
        error = machine.boot()
    except (OSError, subprocess.SubprocessError) as failure:
        error = str(failure)
    report(pipe, error)
    pipe.close()
    if not error:
        machine.run_until_off()


def read_identity() -> dict[str, int]:
    """This process's pid on the host and its start time in clock ticks since boot."""
    pid = int(os.readlink("/proc/self"))
    # Fields after the command, which may hold spaces: state is field 3, start time field 22.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {"pid": pid, "start_ticks": int(fields[19])}


def prepare_mounts(launch: dict[str, Any]) -> None:
    """The private view: own /proc, own nspawn state, and the machine's root."""
    for arguments in (
        ("--make-rprivate", "/"),
        ("-t", "proc", "proc", "/proc"),
        ("-t", "tmpfs", "-o", "mode=755,size=1m", "tmpfs", "/run/systemd/nspawn"),
        ("-t", "overlay", "-o", launch["overlay_options"], "overlay", launch["root"]),
    ):
        if arguments[-1] == "/run/systemd/nspawn":
            os.makedirs(arguments[-1], exist_ok=True)
        done = subprocess.run(("mount", *arguments), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise OSError(f"mount {' '.join(arguments)}: {done.stderr.strip()}")


class Machine:
    """One machine over its boots."""

    def __init__(self, launch: dict[str, Any], identity: dict[str, int]) -> None:
        self._launch = launch
        self._identity = identity
        self._runtime = Path(launch["runtime"])
        self._console = Path(launch["console"])
        self._process: subprocess.Popen[bytes] | None = None
        self._booted_at = 0.0
        self._leader = 0
        self._is_stopping = False
        self._selector = selectors.DefaultSelector()
        wake_reader, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(wake_reader, selectors.EVENT_READ)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        # Only now: whoever reads who we are may send SIGTERM, which is ignored without a handler.
        self._write_runtime(read_boots(self._runtime))

    def _on_stop(self, number: int, frame: object) -> None:
        self._is_stopping = True

    def boot(self) -> str:
        """Start nspawn and wait for the machine's PID 1; returns what went wrong, or ""."""
        self._drop_stale_link()
        self._booted_at = time.monotonic()
        self._process = subprocess.Popen(
            self._launch["argv"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        deadline = self._booted_at + LEADER_TIME_MAX_S
        while self._process.poll() is None:
            leader = find_leader(self._process.pid)
            if leader:
                self._leader = leader
                self._write_runtime(read_boots(self._runtime) + 1)
                return ""
            if time.monotonic() > deadline:
                return f"the machine's PID 1 did not start within {LEADER_TIME_MAX_S:g} s"
            time.sleep(LEADER_POLL_S)
        self._read_console()
        words = self._console.read_text(errors="replace")[-500:] if self._console.exists() else ""
        return f"systemd-nspawn ended with {self._process.returncode}: {words.strip()}"

    def _drop_stale_link(self) -> None:
        """After a kill the kernel takes the old interface away in its own time; make sure."""
        if Path("/sys/class/net", self._launch["link"]).exists():
            subprocess.run(
                ("ip", "link", "delete", "dev", self._launch["link"]),
                capture_output=True,
                check=False,
            )

    def _write_runtime(self, boots: int) -> None:
        fresh = self._runtime.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump({**self._identity, "boots": boots}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._runtime)

    def run_until_off(self) -> None:
        while True:
            code = self._run_once()
            if self._is_stopping or code != EXIT_REBOOT:
                return
            time.sleep(max(0.0, self._booted_at + BOOT_LEAST_S - time.monotonic()))
            if self._is_stopping or self.boot():
                return

    def _run_once(self) -> int:
        """Until nspawn ends; gives its exit code."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        force_at: float | None = None
        while (code := process.poll()) is None:
            if self._is_stopping:
                force_at = force_at or time.monotonic() + self._launch["stop_time_max_s"]
                if time.monotonic() > force_at:
                    process.kill()
                elif self._leader:
                    send(self._leader, SIGNAL_POWER_OFF)
            ready = self._selector.select(POWER_OFF_REPEAT_S if self._is_stopping else None)
            for item, _ in ready:
                if item.fileobj is process.stdout:
                    self._read_console()
                else:
                    os.read(item.fd, 512)
        self._read_console()
        if process.stdout in self._selector.get_map():
            self._selector.unregister(process.stdout)
        process.stdout.close()
        return code

    def _read_console(self) -> None:
        """Move what nspawn printed to the console file, keeping only the newest part."""
        assert self._process is not None
        assert self._process.stdout is not None
        data = self._process.stdout.read(65536)
        if data == b"" and self._process.stdout in self._selector.get_map():
            self._selector.unregister(self._process.stdout)  # Else a closed pipe is always ready.
        if not data:
            return
        try:
            if self._console.exists() and self._console.stat().st_size > CONSOLE_BYTES_MAX:
                self._console.replace(self._console.with_suffix(".old"))
            with self._console.open("ab") as file:
                file.write(data)
        except OSError:
            # A full disk must not end the machine for the sake of its console's log.
            pass


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # It has just ended: what was wanted.


def find_leader(nspawn: int) -> int:
    """The machine's PID 1 as seen here; 0 while there is none.

    It is the child of nspawn that lives in a PID namespace below ours, where it is number 1:
    `NSpid: 7 1`.
    """
    children = Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()
    for child in children:
        try:
            status = Path(f"/proc/{child}/status").read_text()
        except OSError:
            continue  # It ended between the two looks.
        for line in status.splitlines():
            if line.startswith("NSpid:") and line.split()[2:] == ["1"]:
                return int(child)
    return 0


def read_boots(runtime: Path) -> int:
    try:
        boots = json.loads(runtime.read_text())["boots"]
    except (OSError, ValueError, KeyError):
        return 0  # Never booted.
    return int(boots)


if __name__ == "__main__":
    sys.exit(main())
