"""The pure part of the libvirt driver: the domain, the boot count, the errors, the disk's start."""

import struct
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as Xml

import libvirt
import pytest

from upkeep.catalogue.build_vm import partition_table
from upkeep.platforms.libvirt import check_qemu
from upkeep.platforms.libvirt_console import BIOS_BANNER, count_resets, remove_log
from upkeep.platforms.libvirt_disks import import_image
from upkeep.platforms.libvirt_domain import Domain, mac_address, to_xml
from upkeep.platforms.libvirt_session import as_driver_error, connected
from upkeep.ports import DriverError, DriverErrorKind, OsImage

NOWHERE_URI = "qemu+unix:///system?socket=/nowhere"
UUID = "6f1f3c2e-0000-4000-8000-0000000ABCDE"
DOMAIN = Domain(
    name="web-0",
    uuid=UUID,
    memory_mib=512,
    cpus=1,
    kvm=False,
    bridge="upkeep0",
    os_disk=Path("/m/os-1.qcow2"),
    data_disk=Path("/m/data.qcow2"),
    seed_disk=Path("/m/os-1.iso"),
    console_log=Path("/m/console-1.log"),
)


def test_the_disks_are_where_the_guest_contract_says() -> None:
    disks = Xml.fromstring(to_xml(DOMAIN)).findall("./devices/disk")
    seen = [
        (disk.find("target").get("dev"), disk.find("source").get("file"))  # type: ignore[union-attr]
        for disk in disks
    ]
    assert seen == [("vda", "/m/os-1.qcow2"), ("vdb", "/m/data.qcow2"), ("vdc", "/m/os-1.iso")]
    assert [disk.find("readonly") is not None for disk in disks] == [False, False, True]


def test_emulation_bounds_its_translation_cache_and_kvm_has_none() -> None:
    emulated = Xml.fromstring(to_xml(DOMAIN))
    assert emulated.get("type") == "qemu"
    assert emulated.findtext("./features/tcg/tb-cache") == "96"
    real = Xml.fromstring(to_xml(replace(DOMAIN, kvm=True)))
    assert real.get("type") == "kvm"
    assert real.find("./features/tcg") is None


def test_what_is_in_a_path_cannot_become_xml() -> None:
    odd = replace(DOMAIN, os_disk=Path("/m/a'\"<b>&.qcow2"))
    source = Xml.fromstring(to_xml(odd)).find("./devices/disk/source")
    assert source is not None
    assert source.get("file") == "/m/a'\"<b>&.qcow2"


def test_the_mac_follows_from_the_uuid() -> None:
    assert mac_address(UUID) == "52:54:00:0a:bc:de"


def test_resets_are_the_banners_after_the_first_over_rotated_logs(tmp_path: Path) -> None:
    log = tmp_path / "console-1.log"
    assert count_resets(log) == 0
    log.write_bytes(BIOS_BANNER + b" 1.16)\nhello\n")
    assert count_resets(log) == 0
    Path(f"{log}.0").write_bytes((BIOS_BANNER + b" 1.16)\n") * 2)
    assert count_resets(log) == 2
    remove_log(log)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "kind", "retryable"),
    [
        ("internal error: x: No space left on device", DriverErrorKind.NO_SPACE, True),
        ("cannot set up guest memory: Cannot allocate memory", DriverErrorKind.NO_SPACE, True),
        ("Failed to connect socket to '/run/x'", DriverErrorKind.UNREACHABLE, True),
        ("Cannot check QEMU binary /usr/bin/x: No such file", DriverErrorKind.TOOL_MISSING, False),
        ("something else", DriverErrorKind.FAILED, False),
    ],
)
def test_libvirts_words_become_a_closed_kind(
    words: str, kind: DriverErrorKind, retryable: bool
) -> None:
    error = as_driver_error(libvirt.libvirtError(words))
    assert (error.kind, error.retryable) == (kind, retryable)
    assert words in error.detail


def test_a_libvirt_that_does_not_answer_is_worth_another_try() -> None:
    with pytest.raises(DriverError) as caught, connected(NOWHERE_URI):
        pass
    assert (caught.value.kind, caught.value.retryable) == (DriverErrorKind.UNREACHABLE, True)


def test_a_host_without_qemu_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DriverError) as caught:
        check_qemu()
    assert caught.value.kind is DriverErrorKind.TOOL_MISSING
    assert "qemu-system-x86" in caught.value.detail


def test_an_image_whose_digest_is_a_path_is_refused(tmp_path: Path) -> None:
    image = OsImage(name="x", version="1.0.0", sha256="../../etc/passwd", path=tmp_path / "x")
    with pytest.raises(DriverError) as caught:
        import_image(image, tmp_path)
    assert caught.value.kind is DriverErrorKind.BAD_IMAGE


def test_the_partition_begins_at_one_mebibyte_and_is_active() -> None:
    table = partition_table(1000)
    assert len(table) == 66
    assert table.endswith(b"\x55\xaa")
    active, _, kind, _, start, sectors = struct.unpack("<B3sB3sII", table[:16])
    assert (active, kind, start, sectors) == (0x80, 0x83, 2048, 1000)
