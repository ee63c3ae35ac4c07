"""A virtual machine that boots in seconds under emulation, for the contract suite.

Debian's cloud kernel, GRUB and the disk layout are those of a built image (`build_vm.py`), the
hardware is what the driver makes; only the userland is a 40-line script over busybox
(`tiny/init`), because systemd takes 16 s of an emulated boot and is not what the suite asks
about.  `test_libvirt_debian.py` boots the real image.
"""

import base64
import hashlib
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from upkeep.catalogue.build import build_rootfs
from upkeep.catalogue.build_vm import VM_PACKAGES, assemble_disk
from upkeep.ports import MachineStatus, OsImage

TINY = Path(__file__).with_name("tiny")
BUILD = Path(__file__).parents[2] / "build"
DISK_MIB = 96
# Short: a first packet sent to a machine that is not up yet is repeated after 1 s, then after 2 s
# more; a new connection finds it up sooner.  An answer takes 0.05 s.
REQUEST_TIME_MAX_S = 0.5
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "evdev", "button", "isofs")

DIRECTORIES = (
    *("bin", "data", "dev", "etc", "etc/acpi", "etc/acpi/PWRF", "modules", "os", "proc"),
    *("seed", "sys", "www", "www/cgi-bin"),
)
SCRIPTS = {
    "init": "init",
    "etc/acpi/PWRF/00000080": "power-button",
    "www/cgi-bin/look": "look",
    "www/cgi-bin/act": "act",
}


def make_image(version: str) -> OsImage:
    """A tiny image that says it has this version."""
    folder = BUILD / "contract"
    folder.mkdir(parents=True, exist_ok=True)
    disk = folder / f"tiny-{version}.qcow2"
    packages = ("busybox-static", *VM_PACKAGES)
    rootfs = build_rootfs(packages, cache=BUILD / "cache", progress=print)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, tarfile.open(rootfs) as archive:
        root = Path(scratch)
        (root / "etc").mkdir()
        (root / "etc/version").write_text(version)
        files = RootFiles(archive)
        (root / "vmlinuz").write_bytes(files.read(files.kernel()))
        (root / "initrd.img").write_bytes(initrd(files))
        assemble_disk(root, disk, size_mib=DISK_MIB)
    digest = hashlib.sha256(disk.read_bytes()).hexdigest()
    return OsImage(name="tiny", version=version, sha256=digest, path=disk)


class RootFiles:
    """A root file system that is a tar: its kernel, its modules, its busybox."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._members = {member.name.removeprefix("./"): member for member in archive}

    def read(self, name: str) -> bytes:
        file = self._archive.extractfile(self._members[name])
        assert file is not None
        return file.read()

    def find(self, prefix: str, end: str) -> str:
        return next(n for n in sorted(self._members) if n.startswith(prefix) and n.endswith(end))

    def kernel(self) -> str:
        return self.find("boot/vmlinuz-", "")

    def modules(self) -> Iterator[str]:
        """The wanted modules' paths, each after those it needs."""
        index = self.find("usr/lib/modules/", "/modules.dep")
        needs = {}
        for line in self.read(index).decode().splitlines():
            module, _, needed = line.partition(":")
            needs[module] = needed.split()
        by_name = {Path(path).stem: path for path in needs}
        given = set()
        for name in MODULES:
            # modules.dep lists what is needed last first.
            for path in (*reversed(needs[by_name[name]]), by_name[name]):
                if path not in given:
                    given.add(path)
                    yield f"{index.removesuffix('modules.dep')}{path}"


def initrd(files: RootFiles) -> bytes:
    """The userland as a cpio archive."""
    archive = b"".join(cpio_entry(name, 0o040755, b"") for name in DIRECTORIES)
    archive += cpio_entry("bin/busybox", 0o100755, files.read("usr/bin/busybox"))
    for name, source in SCRIPTS.items():
        archive += cpio_entry(name, 0o100755, (TINY / source).read_bytes())
    order = ""
    for path in files.modules():
        archive += cpio_entry(f"modules/{Path(path).name}", 0o100644, files.read(path))
        order += f"{Path(path).name}\n"
    archive += cpio_entry("modules/order", 0o100644, order.encode())
    return archive + cpio_entry("TRAILER!!!", 0, b"")


def cpio_entry(name: str, mode: int, content: bytes) -> bytes:
    """One file in "newc" form (Linux, Documentation/driver-api/early-userspace/buffer-format)."""
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return padded(header) + padded(content)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def look(status: MachineStatus) -> Mapping[str, Any] | None:
    """What the guest says of itself, in the form that the contract suite asks for."""
    text = ask(status, "look")
    if text is None or not text.endswith("end -\n"):
        return None
    seen: dict[str, Any] = {"touched": False, "seed": {}}
    for line in text.splitlines()[:-1]:
        fact, value, *rest = line.split(" ")
        match fact:
            case "seed":
                seen["seed"][value] = base64.b64decode(rest[0] if rest else "").decode()
            case "starts":
                seen[fact] = int(value)
            case "uuid":
                seen[fact] = value.replace("-", "").lower()
            case "touched":
                seen[fact] = True
            case _:
                seen[fact] = value
    return seen


def ask(status: MachineStatus, what: str) -> str | None:
    """The guest's answer; None while it gives none."""
    url = f"http://{status.address}:8080/cgi-bin/{what}"
    try:
        with urllib.request.urlopen(url, timeout=REQUEST_TIME_MAX_S) as answer:
            text: str = answer.read().decode()
    except OSError:
        return None
    return text
