"""Are the libvirt daemons of this host up, and if nobody else starts them, start them.

Where systemd is PID 1 they are its business: this module then only says what to run.  Elsewhere
(a container, a small appliance) it starts `virtlogd` first, because libvirt refuses to start a
guest whose console log nobody keeps, and then `virtqemud` or, where that is not installed,
`libvirtd`.  All of them put themselves in the background in a session of their own, and so do the
guests: killing the server, or its process group, touches no guest.

Two servers may start them at once: the daemons lock their pid files, the second copy leaves, and
both servers find the socket.
"""

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import libvirt

from upkeep.ports import DriverError, DriverErrorKind

SYSTEM_URI = "qemu:///system"

LOG_DAEMON = "virtlogd"

HYPERVISOR_DAEMONS = ("virtqemud", "libvirtd")
"""The modular daemon first, then the one that holds all drivers; one of them is enough."""

STARTUP_TIME_MAX_S = 20.0
"""libvirtd answers after 0.1 s; the first start after an upgrade asks every QEMU binary what it
can do, which has been seen to take 5 s."""

POLL_INTERVAL_S = 0.1

SYSTEMD_IS_PID_1 = Path("/run/systemd/system")
"""systemd's own documented test, sd_booted(3)."""


def ensure_daemons(uri: str) -> None:
    """Return once the daemons behind `uri` answer, having started them where that is our part.

    Only the local system instance is ever started: a session instance is started by the libvirt
    client itself, and a remote one is not ours.

    Raises:
        DriverError: TOOL_MISSING when no daemon is installed; UNREACHABLE (retryable) when it is
            not ours to start or does not answer within STARTUP_TIME_MAX_S.
    """
    if uri != SYSTEM_URI or answers(uri):
        return
    if SYSTEMD_IS_PID_1.is_dir():
        raise DriverError(
            DriverErrorKind.UNREACHABLE,
            "libvirt does not answer: systemctl start virtlogd.socket libvirtd.service",
            retryable=True,
        )
    hypervisor_daemon = find_hypervisor_daemon()
    if shutil.which(LOG_DAEMON) is not None:
        start_daemon(LOG_DAEMON)
    start_daemon(hypervisor_daemon)
    if not wait_until(lambda: answers(uri), time_max_s=STARTUP_TIME_MAX_S):
        raise DriverError(
            DriverErrorKind.UNREACHABLE,
            f"{hypervisor_daemon} was started and does not answer after "
            f"{STARTUP_TIME_MAX_S:.0f} s: run it in the foreground and read what it says",
            retryable=True,
        )


def find_hypervisor_daemon() -> str:
    """The first installed daemon that can run QEMU guests."""
    for daemon in HYPERVISOR_DAEMONS:
        if shutil.which(daemon) is not None:
            return daemon
    raise DriverError(
        DriverErrorKind.TOOL_MISSING,
        f"none of {', '.join(HYPERVISOR_DAEMONS)} is installed: apt install libvirt-daemon-system",
        retryable=False,
    )


def start_daemon(daemon: str) -> None:
    """Start one daemon in the background; one that runs already is left as it is.

    Its exit code is not looked at: the second copy of a running daemon leaves with an error, and
    whether one answers is asked of the socket.
    """
    try:
        subprocess.run(
            [daemon, "--daemon"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            timeout=STARTUP_TIME_MAX_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DriverError(
            DriverErrorKind.UNREACHABLE,
            f"{daemon} --daemon did not put itself in the background: run it by hand",
            retryable=True,
        ) from error


def answers(uri: str) -> bool:
    """True when somebody at `uri` speaks libvirt."""
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError:
        return False
    connection.close()
    return True


def wait_until(condition: Callable[[], bool], *, time_max_s: float) -> bool:
    """True as soon as the condition holds; False when it never did in the time."""
    deadline = time.monotonic() + time_max_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True
