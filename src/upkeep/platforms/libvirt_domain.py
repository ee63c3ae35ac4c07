"""What does libvirt have to be told about one machine: the domain's XML, as a pure function.

Decides the virtual hardware, and why each part is there; makes nothing and asks nobody.  The
driver (`libvirt.py`) defines the domain anew before each start, so a change here reaches every
machine at its next start and the disks in use are always those of its record.
"""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

TRANSLATION_CACHE_MIB = 96
"""QEMU's default under emulation is up to 1 GiB a guest; with 96 MiB a 512 MiB guest keeps to
about 430 MiB and boots no slower (measured)."""

MAC_PREFIX = "52:54:00"
"""QEMU's and libvirt's own prefix for virtual interfaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One machine's hardware.

    Attributes:
        name: the domain's name, with the driver's prefix.
        kvm: False emulates, which is 10-30 times slower and always works.
        bridge: the host's Linux bridge that the interface joins.
    """

    name: str
    uuid: str
    memory_mib: int
    cpus: int
    kvm: bool
    bridge: str
    os_disk: Path
    data_disk: Path
    seed_disk: Path
    console_log: Path


def mac_address(uuid: str) -> str:
    """A stable MAC for a machine: the last three bytes of its uuid after QEMU's prefix.

    Two machines of one bridge get the same one with a chance of 1 in 16.7 million.
    """
    tail = uuid.replace("-", "").lower()[-6:]
    return ":".join((MAC_PREFIX, tail[0:2], tail[2:4], tail[4:6]))


def to_xml(domain: Domain) -> str:
    """The domain's XML."""
    root = Xml.Element("domain", type="kvm" if domain.kvm else "qemu")
    add(root, "name", domain.name)
    add(root, "uuid", domain.uuid)
    add(root, "memory", str(domain.memory_mib), unit="MiB")
    add(root, "vcpu", str(domain.cpus))
    # The disk's own boot loader runs, not a kernel that the host picked out of the image: only so
    # does a kernel that was patched inside the machine run after the next reboot.
    system = add(root, "os")
    add(system, "type", "hvm", arch="x86_64", machine="pc")
    add(system, "boot", dev="hd")
    # The firmware's banner on the console counts the boots (libvirt_console.py).
    add(system, "bios", useserial="yes")
    features = add(root, "features")
    add(features, "acpi")
    add(features, "apic")
    if not domain.kvm:
        add(add(features, "tcg"), "tb-cache", str(TRANSLATION_CACHE_MIB), unit="MiB")
    add(root, "cpu", mode="host-passthrough" if domain.kvm else "maximum")
    add(root, "clock", offset="utc")
    add(root, "on_poweroff", "destroy")
    add(root, "on_reboot", "restart")
    add(root, "on_crash", "restart")
    add_devices(root, domain)
    return Xml.tostring(root, encoding="unicode")


def add_devices(root: Xml.Element, domain: Domain) -> None:
    """Disks in the order that the guest contract fixes, one interface, a console, entropy."""
    devices = add(root, "devices")
    add_disk(devices, domain.os_disk, kind="qcow2", target="vda")
    add_disk(devices, domain.data_disk, kind="qcow2", target="vdb")
    # As a virtio disk and not as a CD-ROM: Debian's cloud kernel has no AHCI driver.
    add_disk(devices, domain.seed_disk, kind="raw", target="vdc", read_only=True)
    interface = add(devices, "interface", type="bridge")
    add(interface, "mac", address=mac_address(domain.uuid))
    add(interface, "source", bridge=domain.bridge)
    add(interface, "model", type="virtio")
    # No network boot: its firmware asks for a key press at each boot and nothing here uses it.
    add(interface, "rom", enabled="no")
    serial = add(devices, "serial", type="file")
    add(serial, "source", path=str(domain.console_log), append="on")
    add(serial, "target", type="isa-serial", port="0")
    add(add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
    # Without these two lines libvirt adds a USB controller and a balloon that nobody uses, and
    # each costs an emulated guest part of a second at boot.
    add(devices, "controller", type="usb", model="none")
    add(devices, "memballoon", model="none")


def add_disk(
    devices: Xml.Element, path: Path, *, kind: str, target: str, read_only: bool = False
) -> None:
    """One virtio disk."""
    disk = add(devices, "disk", type="file", device="disk")
    add(disk, "driver", name="qemu", type=kind)
    add(disk, "source", file=str(path))
    add(disk, "target", dev=target, bus="virtio")
    if read_only:
        add(disk, "readonly")


def add(parent: Xml.Element, tag: str, text: str = "", **attributes: str) -> Xml.Element:
    """Append one element and return it; the XML library escapes what is in it."""
    element = Xml.SubElement(parent, tag, attributes)
    if text:
        element.text = text
    return element
