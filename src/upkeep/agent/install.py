"""`agent.pyz install`: puts the agent on this machine; what the pasted line runs.

Every step may be repeated: a second run replaces the file and the unit and keeps the identity.
"""

from __future__ import annotations

import errno
import os
import sys
import zipfile
from pathlib import Path

from . import durable, enrol, identity, process
from .identity import Identity
from .machine import Paths
from .seed import Enrolment

AGENT_PATH = Path("usr/lib/upkeep/agent.pyz")
UNIT_NAME = "upkeep-agent.service"
UNIT_PATH = Path("etc/systemd/system") / UNIT_NAME
SYSTEMCTL_TIMEOUT_S = 60.0

# The one unit of the agent; `catalogue/build.py` bakes it into images as well.  What it names and a
# machine does not have (a seed, a data volume, our network unit) holds nothing up.  No UMask:
# first-boot scripts and drain hooks would inherit it, and the agent's own files have their modes.
UNIT = """\
[Unit]
Description=upkeep agent: keeps this machine up to date
Documentation=man:systemd.service(5)
After=network.target local-fs.target upkeep-network.service
RequiresMountsFor=/var/lib/upkeep /run/upkeep-seed /data
# The agent is the way back in: never give up on it.
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/env python3 /usr/lib/upkeep/agent.pyz run
Restart=always
RestartSec=2
# A drain hook or a first-boot script that is cut short is begun again by the next start.
TimeoutStopSec=10

[Install]
WantedBy=multi-user.target
"""


class InstallError(Exception):
    """The agent could not be put in place; the words say what to do."""


def install(paths: Paths, wanted: Enrolment, *, prefix: Path = Path("/")) -> list[str]:
    """Copies the agent, writes the unit, enrols and starts; returns a line per step.

    Files first, then the token, which works once: a full disk must not cost one.

    Raises:
        InstallError: the files cannot be written or the service not be started.
        enrol.EnrolError, transport.Unreachable: as `enrol.enrol`.
    """
    try:
        target = _place(prefix / AGENT_PATH)
        unit = prefix / UNIT_PATH
        unit.parent.mkdir(parents=True, exist_ok=True)
        durable.write_whole(unit, UNIT.encode())
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        todo = "make room there and run the same line again" if is_full else "run this as root"
        raise InstallError(f"{error}; {todo}") from error
    known, words = _enrol_or_keep(paths, wanted)
    lines = [f"agent: {target}", f"unit: {unit}", f"{words}: {known.machine} is {known.machine_id}"]
    return [*lines, _start(prefix)]


def _place(target: Path) -> Path:
    """Copies the running zipapp, or makes it when this runs from the sources."""
    target.parent.mkdir(parents=True, exist_ok=True)
    running = Path(sys.argv[0])
    if running.is_file() and zipfile.is_zipfile(running):
        if not (target.exists() and os.path.samefile(running, target)):
            durable.write_whole(target, running.read_bytes(), mode=0o755)
        return target
    from .pack import build_zipapp  # Not in the zipapp, and not needed there.

    return build_zipapp(target)


def _enrol_or_keep(paths: Paths, wanted: Enrolment) -> tuple[Identity, str]:
    """Enrols; a used token is no error on a machine that is enrolled at this server."""
    try:
        return enrol.enrol(paths, wanted), "enrolled"
    except enrol.EnrolError as error:
        known = identity.load(paths.state)
        if error.kind != "token_used" or known is None or known.server != wanted.server.rstrip("/"):
            raise
        return known, "enrolled before"


def _start(prefix: Path) -> str:
    if prefix != Path("/") or not Path("/run/systemd/system").is_dir():
        return "systemd does not run here: start `agent.pyz run` by whatever starts services"
    for arguments in (
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", UNIT_NAME],
        ["systemctl", "restart", UNIT_NAME],
    ):
        finished = process.run(arguments, timeout_s=SYSTEMCTL_TIMEOUT_S)
        if not finished.succeeded:
            raise InstallError(f"`{' '.join(arguments)}`: {finished.words}")
    return f"started: {UNIT_NAME}; see `systemctl status {UNIT_NAME}`"
