"""What the engine asks of the world, as Protocols of at most eight methods each.

Everything that can lie, wait or fail stands behind one of these: the clock, a hypervisor, a
probe.  A driver translates and nothing more: no policy, no schedule, no retry.  The same
contract suite (`tests/contract/`) runs on every implementation of a port, real or simulated.

Platform calls are *keyed and fenced*.  `key` names the request: a driver stores it beside the
machine with the result, and a repeated key is answered with that result without doing the work
again.  `fence` rises with each attempt: a driver refuses a call whose fence is lower than the
highest it has stored for that machine (`DriverErrorKind.FENCED`), so that a server that was
thought dead cannot touch a machine that somebody else is working on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Wall time for schedules, monotonic time for measuring."""

    def now(self) -> datetime:
        """The wall clock: aware, UTC.  It may step."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean something."""
        ...


class Ids(Protocol):
    """Names for new rows; the only place an id is drawn."""

    def new(self, prefix: str) -> str:
        """A fresh id such as `ro_01hx…`: prefix, underscore, lower-case letters and digits."""
        ...


class Power(StrEnum):
    RUNNING = "running"
    OFF = "off"
    ABSENT = "absent"  # The platform knows no such machine.
    UNKNOWN = "unknown"  # The platform could not be asked.


@dataclass(frozen=True, slots=True, kw_only=True)
class OsImage:
    """One image version as a driver needs it.

    Attributes:
        version: such as `1.0.1`; the guest shows it in `/etc/upkeep/image.json`.
        sha256: of the file at `path`, lower-case hex; verified by the caller before use, and by
            the driver when it unpacks.
        path: the stored blob: a `.tar` of the root file system for nspawn, a `.qcow2` for libvirt.
    """

    name: str
    version: str
    sha256: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstBootScript:
    """A script that runs once on each new OS disk, after those it names."""

    name: str
    content: bytes
    provision_after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """All a driver needs to make a machine; frozen when the machine is created.

    Attributes:
        name: `[a-z0-9][a-z0-9._-]{0,62}`; also the guest's host name.
        uuid: the fixed hardware identity; survives every replacement of the OS disk.
        seed: files laid read-only into the guest at `/run/upkeep-seed` at every boot, see
            docs/guest.md: `upkeep.json`, `user-data`, `scripts.json`.
        network: platform-specific attachment (a bridge's or a libvirt network's name); empty
            means the platform's own default.
        model: the name of what the seed says of the machine's purpose.
    """

    name: str
    uuid: str
    image: OsImage
    memory_mib: int = 512
    cpus: int = 1
    network: str = ""
    seed: Mapping[str, bytes] = field(default_factory=dict)
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineStatus:
    """What the platform says of one machine, now.

    Attributes:
        image_version: on the OS disk in use; empty when absent.
        kept_version: on the previous OS disk, which `switch_back` would boot; empty without one.
        model, kept_model: with which these two disks were made, as the driver was told then.
        address: IPv4 as the server reaches it; empty while unknown.
        boots: how often the platform has started it; rises with each start, also by itself.
    """

    name: str
    power: Power
    image_version: str = ""
    kept_version: str = ""
    model: str = ""
    kept_model: str = ""
    address: str = ""
    boots: int = 0


class DriverErrorKind(StrEnum):
    """Why a driver could not do it; a metric label, so the list is closed."""

    FENCED = "fenced"  # A newer attempt has been here.
    NOT_FOUND = "not_found"  # No such machine on this platform.
    NO_KEPT_DISK = "no_kept_disk"  # switch_back without a kept OS disk.
    BAD_IMAGE = "bad_image"  # Missing file, wrong digest, unreadable.
    NO_SPACE = "no_space"  # A disk or a memory limit is full.
    TOOL_MISSING = "tool_missing"  # A command the driver needs is not installed.
    UNREACHABLE = "unreachable"  # The hypervisor does not answer.
    TIMED_OUT = "timed_out"  # Started, and not finished within the driver's own maximum.
    FAILED = "failed"  # The hypervisor said no; its words are in `detail`.


class DriverError(Exception):
    """The world said no.

    Attributes:
        kind: closed, small, for machines.
        retryable: the same call may succeed later with nothing changed by a person.
        detail: for people: what happened and what to do about it.
    """

    def __init__(self, kind: DriverErrorKind, detail: str, *, retryable: bool) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.retryable = retryable
        self.detail = detail


# The platform of machines whose power upkeep does not hold: only their agents act on them.
AGENT_ONLY = "agent_only"


class Platform(Protocol):
    """Machines as one hypervisor sees them.  Calls block until done; no policy lives here."""

    def observe(self, names: Sequence[str]) -> Sequence[MachineStatus]:
        """The status of each named machine, in the order asked; ABSENT for an unknown name."""
        ...

    def create(self, spec: MachineSpec, *, key: str, fence: int) -> None:
        """Make the machine with an empty data volume and start it."""
        ...

    def start(self, name: str, *, key: str, fence: int) -> None: ...

    def stop(self, name: str, *, key: str, fence: int) -> None:
        """Orderly, then by force after the driver's own maximum."""
        ...

    def restart(self, name: str, *, key: str, fence: int) -> None: ...

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
        """Stop, put a fresh OS disk of `image` in, keep the old one, start.

        Data volume, name, uuid and address stay.  A previously kept disk is dropped, so at most
        one is kept.  Interrupted half-way and called again, it ends in the same place.
        """
        ...

    def switch_back(self, name: str, *, key: str, fence: int) -> None:
        """Stop, boot the kept OS disk again; the disk that was in use becomes the kept one."""
        ...

    def delete(self, name: str, *, key: str, fence: int) -> None:
        """Stop and remove the machine with all its disks; done already is success."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """One look at one machine's application from outside.

    Attributes:
        answered: a connection was made and, for http(s), a full answer came in time.
        status: HTTP status; 0 for tcp or when nothing answered.
        body: at most 8 KiB of the answer, for the rich health document.
        detail: one line for people: "connection refused", "503 Service Unavailable".
    """

    answered: bool
    status: int = 0
    body: bytes = b""
    detail: str = ""


class Prober(Protocol):
    """Health seen from outside the machine."""

    async def probe(
        self, protocol: str, address: str, port: int, path: str, timeout_s: float
    ) -> ProbeResult:
        """One look, by `tcp`, `http` or `https`; never raises: what went wrong is in the result."""
        ...


class Notifier(Protocol):
    """Tells people: one line per outcome; must not block and must not raise."""

    def notify(self, subject: str, text: str) -> None: ...
