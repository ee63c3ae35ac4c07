"""Makes a bootable virtual disk of a root file system, with neither loop device nor mount.

The disk is a qcow2 with one partition: GRUB in the gap before it, ext4 in it, made from a
directory by `mke2fs -d`.  The boot loader reads `/vmlinuz` and `/initrd.img` of that partition,
the links that Debian's kernel packages keep on the newest kernel, so a kernel patched inside the
machine runs after its next reboot; nothing of the boot loader needs to be installed in the image.

What goes in on top of a container's root file system: the mounts of docs/guest.md, the name
from the seed, and silence from everything that would wait for hardware that is not there.

Not decided here: what the root file system holds (`build.py`) and where the image goes.
"""

import os
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path

from upkeep.platforms.commands import run_command, tool_missing

# What a bootable machine needs beyond a container: a kernel with virtio (and live patching), its
# initrd, and dbus with logind, without which nobody hears the power button.
VM_PACKAGES = (
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "zstd",
    "udev",
    "dbus",
    "libpam-systemd",
)

ROOT_LABEL = "upkeep-root"
DISK_MIB = 2048
JOURNAL_MIB = 16

SECTOR_BYTES = 512
# The first partition begins at 1 MiB, as every partitioning tool has it; GRUB's core image
# (140 KiB) lies in the gap before it.
PARTITION_START_SECTOR = 2048
# The code of GRUB's boot sector; behind it lie the disk's id and the partition table.
BOOT_CODE_BYTES = 440
PARTITION_TABLE_OFFSET = 446
LINUX_PARTITION = 0x83
ACTIVE_PARTITION = 0x80
# "Beyond the 1024th cylinder": the fields for cylinder, head and sector, which nothing reads.
NO_CYLINDER = b"\xfe\xff\xff"

# A big image on a slow disk.
BUILD_COMMAND_TIME_MAX_S = 900.0

GRUB_DIRECTORY = Path("/usr/lib/grub/i386-pc")
GRUB_MODULES = ("biosdisk", "part_msdos", "ext2", "linux", "normal", "serial", "terminal")

GRUB_CONFIG = f"""\
serial --unit=0 --speed=115200
terminal_output serial
set root=(hd0,msdos1)
linux /vmlinuz root=LABEL={ROOT_LABEL} rw console=ttyS0 quiet panic=10 net.ifnames=0
initrd /initrd.img
boot
"""

# `nofail`: a machine whose data disk is broken comes up without it and says so; it does not sit
# in an emergency shell that nobody sees.
FSTAB = f"""\
LABEL={ROOT_LABEL} / ext4 defaults 0 1
LABEL=upkeep-data /data ext4 nofail,x-systemd.before=local-fs.target 0 2
LABEL=UPKEEPSEED /run/upkeep-seed iso9660 ro,nofail,x-systemd.before=local-fs.target 0 0
"""

# A container is told its name by its platform; a virtual machine reads it from its seed.
HOST_NAME_UNIT = """\
[Unit]
Description=Host name from the seed
DefaultDependencies=no
RequiresMountsFor=/run/upkeep-seed
ConditionPathExists=/run/upkeep-seed/hostname
Before=sysinit.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/cp /run/upkeep-seed/hostname /proc/sys/kernel/hostname

[Install]
WantedBy=sysinit.target
"""

# The modules of the initrd: what it takes to reach the root file system on QEMU, instead of all
# that any machine may have (5 MB for 13 MB, half a second of every emulated boot).
INITRD_SETTINGS = "MODULES=list\nCOMPRESS=zstd\n"
INITRD_MODULES = "virtio_pci\nvirtio_blk\nvirtio_scsi\nsd_mod\n"

VM_FILES: Mapping[str, str] = {
    "etc/fstab": FSTAB,
    "etc/initramfs-tools/conf.d/upkeep": INITRD_SETTINGS,
    "etc/initramfs-tools/modules": INITRD_MODULES,
    "etc/systemd/system/upkeep-vm-hostname.service": HOST_NAME_UNIT,
}

# Beside those that `build.py` masks: they wait for hardware or write to a console nobody reads.
MASKED_UNITS = (
    "e2scrub_reap.service",
    "getty.target",
    "serial-getty@.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pcrphase.service",
    "systemd-repart.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
)


def lay_vm_files(root: Path) -> None:
    """Turn a container's root file system, unpacked at `root`, into a virtual machine's."""
    for name, content in VM_FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    units = root / "etc/systemd/system"
    for unit in MASKED_UNITS:
        replace_link(units / unit, "/dev/null")
    wanted = units / "sysinit.target.wants"
    wanted.mkdir(exist_ok=True)
    replace_link(wanted / "upkeep-vm-hostname.service", "../upkeep-vm-hostname.service")
    (root / "data").mkdir(exist_ok=True)
    run_build_command(["chroot", str(root), "update-initramfs", "-u"], package="coreutils")


def replace_link(path: Path, target: str) -> None:
    """Make a symbolic link in place of whatever file or link is there."""
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def assemble_disk(root: Path, destination: Path, *, size_mib: int = DISK_MIB) -> None:
    """Make the qcow2 `destination` of the directory `root`, which has kernel and initrd in it.

    Raises:
        DriverError: TOOL_MISSING, NO_SPACE, or FAILED with a tool's own words.
    """
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix="vm-") as scratch:
        raw = Path(scratch) / "disk.raw"
        with raw.open("wb") as file:
            file.truncate(size_mib * 1024 * 1024)
        partition_kib = size_mib * 1024 - PARTITION_START_SECTOR * SECTOR_BYTES // 1024
        offset = PARTITION_START_SECTOR * SECTOR_BYTES
        # Not lazy: the guest would otherwise write its inode tables in its first minutes.
        options = f"offset={offset},lazy_itable_init=0,lazy_journal_init=0"
        run_build_command(
            [
                *("mke2fs", "-q", "-F", "-t", "ext4", "-L", ROOT_LABEL, "-E", options),
                *("-J", f"size={JOURNAL_MIB}", "-d", str(root), str(raw), f"{partition_kib}k"),
            ],
            package="e2fsprogs",
        )
        install_boot_loader(raw, Path(scratch))
        partial = Path(scratch) / "disk.qcow2"
        run_build_command(
            [
                *("qemu-img", "convert", "-f", "raw", "-O", "qcow2"),
                *("-c", "-o", "compression_type=zstd", str(raw), str(partial)),
            ],
            package="qemu-utils",
        )
        partial.rename(destination)


def install_boot_loader(raw: Path, scratch: Path) -> None:
    """Write GRUB and a partition table into the disk's first MiB.

    GRUB's boot sector loads the core image from sector 1 on unless told otherwise, and
    `grub-mkimage` puts the core's own length into it, so two copies are an installation.
    Source: GRUB manual 2.06, "Images" (boot.img, core.img) and grub-core/boot/i386/pc/boot.S.
    """
    boot_image = GRUB_DIRECTORY / "boot.img"
    if not boot_image.exists():
        raise tool_missing(str(boot_image), "grub-pc-bin")
    config = scratch / "grub.cfg"
    config.write_text(GRUB_CONFIG)
    core_image = scratch / "core.img"
    run_build_command(
        [
            *("grub-mkimage", "--format=i386-pc", "--prefix=(hd0,msdos1)/boot/grub"),
            *(f"--config={config}", f"--output={core_image}", *GRUB_MODULES),
        ],
        package="grub-common",
    )
    core = core_image.read_bytes()
    assert len(core) <= (PARTITION_START_SECTOR - 1) * SECTOR_BYTES
    sectors = raw.stat().st_size // SECTOR_BYTES - PARTITION_START_SECTOR
    with raw.open("r+b") as disk:
        disk.write(boot_image.read_bytes()[:BOOT_CODE_BYTES])
        disk.seek(PARTITION_TABLE_OFFSET)
        disk.write(partition_table(sectors))
        disk.seek(SECTOR_BYTES)
        disk.write(core)
        disk.flush()
        os.fsync(disk.fileno())


def partition_table(sectors: int) -> bytes:
    """The last 66 bytes of a master boot record with one active Linux partition."""
    first = struct.pack(
        "<B3sB3sII",
        ACTIVE_PARTITION,
        NO_CYLINDER,
        LINUX_PARTITION,
        NO_CYLINDER,
        PARTITION_START_SECTOR,
        sectors,
    )
    return first + bytes(3 * len(first)) + b"\x55\xaa"


def run_build_command(arguments: list[str], *, package: str) -> str:
    """A command that may take as long as a big image on a slow disk does."""
    return run_command(arguments, package=package, timeout_s=BUILD_COMMAND_TIME_MAX_S)
