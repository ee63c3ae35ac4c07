"""The real server, `upkeep serve`, as a process of its own for the length of a bench."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from upkeep.cli.client import Client
from upkeep.cli.connection import Connection

# A server that begins with 100,000 machines reads them all before it serves.
READY_S = 120.0
# It ends its long polls and writes when it last heard of each machine.
STOP_S = 60.0
LOG_LINES_SHOWN = 15


class ServerFailed(Exception):
    """The server did not come up; the text has the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    port: int
    pid: int
    state: Path
    log: Path

    @property
    def ca(self) -> Path:
        return self.state / "ca" / "ca.pem"

    def client(self) -> Client:
        """As the admin, with the token that the first start leaves."""
        return Client(
            Connection(
                server=f"https://127.0.0.1:{self.port}",
                token=(self.state / "admin-token").read_text().strip(),
                ca_pem=self.ca.read_text(),
            )
        )

    def memory_kib(self, what: str = "VmRSS") -> int:
        """`VmRSS`: resident now; `VmHWM`: the most that ever was."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1])
        raise AssertionError(f"no {what} for process {self.pid}")

    def cpu_s(self) -> float:
        """Processor time used so far, by all its threads, in user and kernel mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running_server(
    folder: Path, *arguments: str, addresses: tuple[str, ...] = ("127.0.0.1",), core: int = -1
) -> Iterator[RunningServer]:
    """A server on a free port with its state in `folder/state`, stopped again at the end.

    Args:
        core: the only core that it may use, all its threads together; negative: any.
    """
    port = _free_port()
    state, log = folder / "state", folder / "server.log"
    command = [sys.executable, "-m", "upkeep", "serve", "--state-dir", str(state), *arguments]
    for address in addresses:
        command += ["--listen", f"{address}:{port}"]
    before = os.sched_getaffinity(0)
    with log.open("wb") as output:
        # A child inherits where its parent may run, so that no moment of it is elsewhere.
        if core >= 0:
            os.sched_setaffinity(0, {core})
        try:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        finally:
            os.sched_setaffinity(0, before)
    try:
        _wait_until_it_answers(process, state, port, log)
        yield RunningServer(port=port, pid=process.pid, state=state, log=log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(
    process: subprocess.Popen[bytes], state: Path, port: int, log: Path
) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailed(f"the server ended at once:\n{_end_of(log)}")
        if (state / "admin-token").exists() and _answers(port):
            return
        time.sleep(0.05)
    raise ServerFailed(f"the server was not ready within {READY_S:g} s:\n{_end_of(log)}")


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])
