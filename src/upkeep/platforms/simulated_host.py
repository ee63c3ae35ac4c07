"""`--platform simulated`: machines in this process that somebody outside can talk to.

Each has an address of its own in 127.0.0.0/8 and answers there over HTTP while it is on; a call
takes as long as it would on a fast hypervisor, a boot about half a second.  It needs neither root
nor any tool, so it is what a newcomer tries first.  The rules of the port are `simulated.py`'s.

The machines are gone when the server ends: this platform is for looking, not for keeping.
"""

import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

from upkeep.platforms.simulated import Call, Course, SimulatedMachine, SimulatedPlatform, Verb
from upkeep.platforms.simulated_guest import Disk, Guest, read_image
from upkeep.ports import MachineSpec, MachineStatus, OsImage, Power

BOOT_S = 0.5
CALL_S = {Verb.CREATE: 0.2, Verb.REPLACE_OS_DISK: 0.3, Verb.SWITCH_BACK: 0.2}
OTHER_CALL_S = 0.1
# Where an application listens that nobody has set a probe for.
PORT_DEFAULT = 8080


class SimulatedHost:
    """`upkeep.ports.Platform` on this machine's loopback addresses."""

    def __init__(self, *, boot_s: float = BOOT_S) -> None:
        self._boot_s = boot_s
        self._platform = SimulatedPlatform(courses=_course, watcher=self)
        self._lock = threading.Lock()
        self._addresses: dict[str, str] = {}
        self._disks: dict[tuple[str, str], Disk] = {}
        self._guests: dict[str, Guest] = {}

    # The port.

    def observe(self, names: Sequence[str]) -> Sequence[MachineStatus]:
        return [
            each if each.power is Power.ABSENT else replace(each, address=self._address(each.name))
            for each in self._platform.observe(names)
        ]

    def create(self, spec: MachineSpec, *, key: str, fence: int) -> None:
        self._disks[spec.name, spec.image.version] = read_image(spec.image.path)
        self._platform.create(spec, key=key, fence=fence)

    def start(self, name: str, *, key: str, fence: int) -> None:
        self._platform.start(name, key=key, fence=fence)

    def stop(self, name: str, *, key: str, fence: int) -> None:
        self._platform.stop(name, key=key, fence=fence)

    def restart(self, name: str, *, key: str, fence: int) -> None:
        self._platform.restart(name, key=key, fence=fence)

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
        self._disks[name, image.version] = read_image(image.path)
        self._platform.replace_os_disk(name, image, seed, model=model, key=key, fence=fence)

    def switch_back(self, name: str, *, key: str, fence: int) -> None:
        self._platform.switch_back(name, key=key, fence=fence)

    def delete(self, name: str, *, key: str, fence: int) -> None:
        self._platform.delete(name, key=key, fence=fence)

    def stage(self, image: OsImage) -> None:
        """There is nothing to copy; that the image can be read is found out here."""
        read_image(image.path)

    # `simulated.Watcher`.

    def began(self, machine: SimulatedMachine, call: Call) -> None:
        pass

    def changed(self, machine: SimulatedMachine, call: Call) -> None:
        """Off: nothing answers from this moment on.  On: a new boot begins."""
        name = machine.spec.name
        before = self._guests.pop(name, None)
        if before is not None:
            before.stop()
        if machine.power is Power.RUNNING:
            guest = Guest(
                name,
                self._disks[name, machine.image],
                machine.data,
                address=self._address(name),
                port=_port(machine.spec.seed),
                boot_s=self._boot_s,
            )
            self._guests[name] = guest
            guest.start()

    def ended(self, machine: SimulatedMachine, call: Call) -> None:
        pass

    def _address(self, name: str) -> str:
        """Its own for the life of this process; two servers of one host get other ones."""
        with self._lock:
            number = len(self._addresses) + 1
            network = 64 + os.getpid() % 128
            own = f"127.{network}.{number // 250}.{number % 250 + 1}"
            return self._addresses.setdefault(name, own)


def _course(verb: Verb, name: str, key: str, fence: int) -> Course:
    return Course(seconds=CALL_S.get(verb, OTHER_CALL_S))


def _port(seed: Mapping[str, bytes]) -> int:
    """The application listens where the group's probe looks."""
    return int(json.loads(seed.get("probe.json", b"{}")).get("port", PORT_DEFAULT))
