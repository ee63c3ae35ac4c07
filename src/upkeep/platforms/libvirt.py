"""Virtual machines under libvirt: QEMU with KVM where it works, emulated where it does not.

Translates the port's calls into domains and disk files, and nothing more.  Under `root`:

    pool/<sha256>.qcow2          each image once, verified when it was copied
    machines/<name>/             os-<n>.qcow2 (an overlay on its image), os-<n>.iso (its seed),
                                 data.qcow2, console-<n>.log
    records/<name>.json          the journal's record: keys, fences, facts

The OS disk is an empty overlay on the image, so that replacing it costs a stop, a small file and
a boot; the old overlay stays and is what `switch_back` boots.  The record is the truth: a domain
is defined anew from it before each start.

Invariants:
- a domain never runs while its record is being switched to another OS disk;
- each step finds out by itself whether it was done, so that a call that was cut off anywhere ends
  in the same place when it is made again;
- guests belong to libvirt's own daemons; nothing here holds them, so the end of this process
  touches no guest.

Disks are made by this host's own tools: `uri` is a libvirt on this host.
"""

import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import libvirt

from upkeep.platforms.bridge import Bridge
from upkeep.platforms.commands import tool_missing
from upkeep.platforms.journal import Call, MachineJournal, MachineRecord, held_lock
from upkeep.platforms.kvm_probe import QEMU_SYSTEM, kvm_works
from upkeep.platforms.libvirt_console import count_resets, remove_log
from upkeep.platforms.libvirt_daemons import SYSTEM_URI, wait_until
from upkeep.platforms.libvirt_disks import (
    import_image,
    make_data_disk,
    make_overlay,
    make_passable_directory,
    make_seed_disk,
)
from upkeep.platforms.libvirt_domain import Domain, to_xml
from upkeep.platforms.libvirt_session import connected
from upkeep.ports import DriverError, DriverErrorKind, MachineSpec, MachineStatus, OsImage, Power

# systemd gives each service 90 s to stop; a guest that needs longer would not have ended.
STOP_TIME_MAX_S = 100.0
# A guest that is still booting does not hear the power button, so it is pressed again.
POWER_BUTTON_INTERVAL_S = 2.0
# An emulated guest is ended by force within a second; QEMU itself gets 15 s from libvirt.
DESTROY_TIME_MAX_S = 30.0
# Waiting for another call that looks for a free address.
ADDRESS_LOCK_TIME_MAX_S = 30.0
DATA_DISK_MIB = 1024
# Longer than any call: a pool's copy that nobody asked for in this time is in nobody's hands.
IMAGE_UNUSED_TIME_MIN_S = 3600.0
# A host name's labels; a machine's name may hold what a host name may not.
HOST_LABEL_PATTERN = re.compile(r"[^a-z0-9-]+")

ACTIVE_ONLY = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
# What else libvirt may have kept of a domain and would refuse to forget by itself.
UNDEFINE_ALL = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)

SWITCHED = "switched"  # The record names the new OS disk.
STOPPED = "stopped"
STARTING = "starting"  # The start is counted.
FORGOTTEN = "forgotten"


@dataclass(frozen=True, slots=True, kw_only=True)
class OsDisk:
    """One OS disk of one machine, an overlay on the image's copy, and the seed it boots with."""

    number: int
    image_version: str
    image_sha256: str
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LibvirtFacts:
    """What the driver knows of one machine.

    Attributes:
        starts: how often this driver started it; also numbers the console's logs.
        resets: boots from inside, of all starts before the current one.
    """

    uuid: str
    memory_mib: int
    cpus: int
    address: str
    os_disk: OsDisk
    kept_disk: OsDisk | None = None
    starts: int = 0
    resets: int = 0


class LibvirtPlatform:
    """`upkeep.ports.Platform` on a libvirt of this host.

    Args:
        root: of all files; readable by others down to here (QEMU has a user of its own).
        uri: `qemu:///system`; `qemu:///session` cannot join a bridge without a set-uid helper.
        bridge: made when it is missing.
        prefix: put before each machine's name to make the domain's, so that one libvirt may
            serve two roots.
        kvm: None asks `kvm_works`.
        stop_time_max_s: how long an orderly stop may take before it becomes a hard one.
        reached: see MachineJournal.
    """

    def __init__(
        self,
        root: Path,
        *,
        uri: str = SYSTEM_URI,
        bridge: Bridge | None = None,
        prefix: str = "",
        kvm: bool | None = None,
        data_disk_mib: int = DATA_DISK_MIB,
        stop_time_max_s: float = STOP_TIME_MAX_S,
        reached: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._root = root.resolve()
        self._uri = uri
        self._bridge = bridge or Bridge()
        self._prefix = prefix
        self._kvm = kvm
        self._data_disk_mib = data_disk_mib
        self._stop_time_max_s = stop_time_max_s
        self._reached = reached
        for directory in (self._root, self._root / "pool", self._root / "machines"):
            make_passable_directory(directory)
        self._journal = MachineJournal(self._root / "records", LibvirtFacts, reached=reached)

    # The port.

    def observe(self, names: Sequence[str]) -> Sequence[MachineStatus]:
        records = [self._journal.read(name) for name in names]
        try:
            with connected(self._uri) as connection:
                active = {domain.name() for domain in connection.listAllDomains(ACTIVE_ONLY)}
        except DriverError:
            return [self._status(record, Power.UNKNOWN) for record in records]
        return [
            self._status(
                record,
                Power.RUNNING if self._prefix + record.name in active else Power.OFF,
            )
            for record in records
        ]

    def create(self, spec: MachineSpec, *, key: str, fence: int) -> None:
        """See the port.  A machine of the same uuid is there already: it is made to run."""
        with self._journal.call(spec.name, "create", key=key, fence=fence, uuid=spec.uuid) as call:
            if call.is_answered:
                return
            facts = call.record.facts
            if facts is None:
                self._make_files(spec, call)
            elif facts.uuid != spec.uuid:
                raise DriverError(
                    DriverErrorKind.FAILED,
                    f"{spec.name} exists with uuid {facts.uuid}; delete it or use another name",
                    retryable=False,
                )
            self._ensure_running(call, "create")

    def start(self, name: str, *, key: str, fence: int) -> None:
        with self._journal.call(name, "start", key=key, fence=fence) as call:
            if not call.is_answered:
                known_facts(call)
                self._ensure_running(call, "start")

    def stop(self, name: str, *, key: str, fence: int) -> None:
        with self._journal.call(name, "stop", key=key, fence=fence) as call:
            if not call.is_answered:
                known_facts(call)
                self._ensure_stopped(name)

    def restart(self, name: str, *, key: str, fence: int) -> None:
        with self._journal.call(name, "restart", key=key, fence=fence) as call:
            if call.is_answered:
                return
            facts = known_facts(call)
            if not call.step:
                self._ensure_stopped(name)
                call.write(facts, step=STOPPED)
                self._reached("restart:stopped")
            self._ensure_running(call, "restart")

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
        with self._journal.call(name, "replace_os_disk", key=key, fence=fence) as call:
            if call.is_answered:
                return
            facts = known_facts(call)
            if not call.step:
                # What takes long is done while the machine still runs.
                number = max(disk.number for disk in disks_of(facts)) + 1
                disk = self._make_os_disk(
                    name, image, seed, facts.address, number=number, model=model
                )
                self._reached("replace_os_disk:made")
                self._ensure_stopped(name)
                self._reached("replace_os_disk:stopped")
                switched = replace(facts, os_disk=disk, kept_disk=facts.os_disk)
                call.write(switched, step=SWITCHED)
                self._reached("replace_os_disk:switched")
            self._drop_unused_disks(call)
            self._ensure_running(call, "replace_os_disk")

    def switch_back(self, name: str, *, key: str, fence: int) -> None:
        with self._journal.call(name, "switch_back", key=key, fence=fence) as call:
            if call.is_answered:
                return
            facts = known_facts(call)
            if not call.step:
                if facts.kept_disk is None:
                    raise DriverError(
                        DriverErrorKind.NO_KEPT_DISK,
                        f"{name} has no kept OS disk; replace its OS disk by the older image",
                        retryable=False,
                    )
                self._ensure_stopped(name)
                self._reached("switch_back:stopped")
                switched = replace(facts, os_disk=facts.kept_disk, kept_disk=facts.os_disk)
                call.write(switched, step=SWITCHED)
                self._reached("switch_back:switched")
            self._ensure_running(call, "switch_back")

    def delete(self, name: str, *, key: str, fence: int) -> None:
        with self._journal.call(name, "delete", key=key, fence=fence) as call:
            if call.is_answered:
                return
            if call.record.facts is not None:
                self._ensure_stopped(name)
                with connected(self._uri) as connection:
                    domain = self._find_domain(connection, name)
                    if domain is not None:
                        domain.undefineFlags(UNDEFINE_ALL)
                self._reached("delete:undefined")
                call.write(None, step=FORGOTTEN)
                self._reached("delete:forgotten")
            if self._directory(name).exists():
                shutil.rmtree(self._directory(name))

    def stage(self, image: OsImage) -> None:
        """Copy the image into the pool before a machine needs it."""
        import_image(image, self._root / "pool")

    def names(self) -> Sequence[str]:
        """Every machine that was ever made here, also those deleted since."""
        return self._journal.names()

    def prune_images(self, *, unused_for_s: float = IMAGE_UNUSED_TIME_MIN_S) -> Sequence[str]:
        """Remove the pool's copies of images that no machine's disk needs; gives their digests.

        A copy that was asked for within `unused_for_s` stays: a call that has not yet written
        its record may be about to use it.
        """
        records = [self._journal.read(name) for name in self._journal.names()]
        needed = {
            disk.image_sha256
            for record in records
            if record.facts is not None
            for disk in disks_of(record.facts)
        }
        old = time.time() - unused_for_s
        unused = [
            copy
            for copy in (self._root / "pool").glob("*.qcow2")
            if copy.stem not in needed and copy.stat().st_mtime <= old
        ]
        for copy in unused:
            copy.unlink()
        return sorted(copy.stem for copy in unused)

    # Files.

    def _make_files(self, spec: MachineSpec, call: Call[LibvirtFacts]) -> None:
        """All that a new machine needs; only then its record exists."""
        if spec.network not in ("", self._bridge.name):
            raise DriverError(
                DriverErrorKind.FAILED,
                f"{spec.name}: network {spec.network!r} is not this platform's bridge "
                f"{self._bridge.name!r}; leave it empty or configure a platform for it",
                retryable=False,
            )
        directory = self._directory(spec.name)
        if directory.exists():
            shutil.rmtree(directory)  # Left by a create or delete that was interrupted.
        make_passable_directory(directory)
        make_data_disk(directory / "data.qcow2", size_mib=self._data_disk_mib)
        import_image(spec.image, self._root / "pool")  # Long, so not under the lock below.
        # One lock for all machines, so that no two are given one address.
        with held_lock(self._root / "addresses.lock", ADDRESS_LOCK_TIME_MAX_S):
            address = self._bridge.free_address(self._taken_addresses())
            disk = self._make_os_disk(
                spec.name, spec.image, spec.seed, address, number=1, model=spec.model
            )
            facts = LibvirtFacts(
                uuid=spec.uuid,
                memory_mib=spec.memory_mib,
                cpus=spec.cpus,
                address=address,
                os_disk=disk,
            )
            call.write(facts, step="made", uuid=spec.uuid)
        self._reached("create:made")

    def _taken_addresses(self) -> set[str]:
        facts = (self._journal.read(name).facts for name in self._journal.names())
        return {fact.address for fact in facts if fact is not None}

    def _make_os_disk(
        self,
        name: str,
        image: OsImage,
        seed: Mapping[str, bytes],
        address: str,
        *,
        number: int,
        model: str,
    ) -> OsDisk:
        """A fresh OS disk and its seed, not yet in use by the record.

        Into the seed goes what a virtual machine cannot be given from outside: address and name.
        """
        disk = OsDisk(
            number=number,
            image_version=image.version,
            image_sha256=image.sha256,
            model=model,
        )
        backing = import_image(image, self._root / "pool")
        make_overlay(self._disk_path(name, disk), backing)
        files = {
            **seed,
            "network.json": self._bridge.network_json(address),
            "hostname": HOST_LABEL_PATTERN.sub("-", name).strip("-").encode(),
        }
        make_seed_disk(self._seed_path(name, disk), files)
        return disk

    def _drop_unused_disks(self, call: Call[LibvirtFacts]) -> None:
        """Remove each OS disk that the record no longer names, also one left by a crash."""
        name, facts = call.record.name, known_facts(call)
        in_use = {
            path
            for disk in disks_of(facts)
            for path in (self._disk_path(name, disk), self._seed_path(name, disk))
        }
        for path in self._directory(name).glob("os-*"):
            if path not in in_use:
                path.unlink()

    def _directory(self, name: str) -> Path:
        return self._root / "machines" / name

    def _disk_path(self, name: str, disk: OsDisk) -> Path:
        return self._directory(name) / f"os-{disk.number}.qcow2"

    def _seed_path(self, name: str, disk: OsDisk) -> Path:
        return self._directory(name) / f"os-{disk.number}.iso"

    def _console_log(self, name: str, facts: LibvirtFacts) -> Path:
        return self._directory(name) / f"console-{facts.starts}.log"

    # Domains.

    def _status(self, record: MachineRecord[LibvirtFacts], power: Power) -> MachineStatus:
        facts = record.facts
        if facts is None:
            return MachineStatus(name=record.name, power=Power.ABSENT)
        return MachineStatus(
            name=record.name,
            power=power,
            image_version=facts.os_disk.image_version,
            kept_version=facts.kept_disk.image_version if facts.kept_disk else "",
            model=facts.os_disk.model,
            kept_model=facts.kept_disk.model if facts.kept_disk else "",
            address=facts.address,
            boots=facts.starts + facts.resets + count_resets(self._console_log(record.name, facts)),
        )

    def _ensure_running(self, call: Call[LibvirtFacts], verb: str) -> None:
        """Start the machine from its record, unless it runs from it already."""
        name = call.record.name
        check_qemu()
        self._bridge.ensure(self._root)
        with connected(self._uri) as connection:
            domain = self._find_domain(connection, name)
            if domain is not None and domain.isActive():
                if self._runs_from(domain) == self._disk_path(name, known_facts(call).os_disk):
                    return
                # The host came up again in the middle of a switch and started the old disk.
                self._ensure_stopped(name)
            if call.step != STARTING:
                self._count_start(call, verb)
            domain = connection.defineXML(to_xml(self._domain(name, known_facts(call))))
            domain.create()
            domain.setAutostart(1)  # The machine comes back with its host.
        self._reached(f"{verb}:started")

    def _count_start(self, call: Call[LibvirtFacts], verb: str) -> None:
        """Put one more start down, and what the console's log of the last one tells of resets."""
        name, facts = call.record.name, known_facts(call)
        log = self._console_log(name, facts)
        counted = replace(facts, starts=facts.starts + 1, resets=facts.resets + count_resets(log))
        call.write(counted, step=STARTING)
        self._reached(f"{verb}:starting")
        # One older log is left to read for whoever asks why the last start ended.
        remove_log(self._console_log(name, replace(facts, starts=facts.starts - 1)))

    def _domain(self, name: str, facts: LibvirtFacts) -> Domain:
        directory = self._directory(name)
        return Domain(
            name=self._prefix + name,
            uuid=facts.uuid,
            memory_mib=facts.memory_mib,
            cpus=facts.cpus,
            kvm=kvm_works() if self._kvm is None else self._kvm,
            bridge=self._bridge.name,
            os_disk=self._disk_path(name, facts.os_disk),
            data_disk=directory / "data.qcow2",
            seed_disk=self._seed_path(name, facts.os_disk),
            console_log=self._console_log(name, facts),
        )

    def _ensure_stopped(self, name: str) -> None:
        """Press the power button until the guest is off; pull the plug after the maximum."""
        with connected(self._uri) as connection:
            domain = self._find_domain(connection, name)
            if domain is None:
                return
            domain.setAutostart(0)
            deadline = time.monotonic() + self._stop_time_max_s
            while domain.isActive() and time.monotonic() < deadline:
                ignoring_off(domain.shutdown)
                pause_s = min(POWER_BUTTON_INTERVAL_S, max(0.0, deadline - time.monotonic()))
                wait_until(lambda: not domain.isActive(), time_max_s=pause_s)
            if domain.isActive():
                ignoring_off(domain.destroy)
            if not wait_until(lambda: not domain.isActive(), time_max_s=DESTROY_TIME_MAX_S):
                raise DriverError(
                    DriverErrorKind.TIMED_OUT,
                    f"{name} did not go off by force: look at its qemu process on the host",
                    retryable=True,
                )

    def _find_domain(self, connection: Any, name: str) -> Any | None:
        try:
            return connection.lookupByName(self._prefix + name)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def _runs_from(self, domain: Any) -> Path:
        """The OS disk of a running domain."""
        source = Xml.fromstring(domain.XMLDesc()).find("./devices/disk/source")
        return Path(source.get("file", "")) if source is not None else Path()


def known_facts(call: Call[LibvirtFacts]) -> LibvirtFacts:
    """The machine's facts as last written."""
    if call.record.facts is None:
        raise DriverError(
            DriverErrorKind.NOT_FOUND, f"there is no machine {call.record.name}", retryable=False
        )
    return call.record.facts


def check_qemu() -> None:
    """Raise TOOL_MISSING where no QEMU is installed: libvirt says that in many different words."""
    if shutil.which(QEMU_SYSTEM) is None:
        raise tool_missing(QEMU_SYSTEM, "qemu-system-x86")


def disks_of(facts: LibvirtFacts) -> tuple[OsDisk, ...]:
    """The OS disks that a machine needs: the one in use, then the kept one."""
    return (facts.os_disk,) if facts.kept_disk is None else (facts.os_disk, facts.kept_disk)


def ignoring_off(call: Callable[[], object]) -> None:
    """Make a call on a domain that may go off by itself in this moment."""
    try:
        call()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise
