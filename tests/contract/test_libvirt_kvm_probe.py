"""Whether KVM works is asked of a guest, within a bound, and once."""

import time
from pathlib import Path

import pytest

from upkeep.platforms.kvm_probe import (
    BOOT_SECTOR,
    EMULATED_TIME_MAX_S,
    KVM_TIME_MAX_S,
    KVM_TIME_MIN_S,
    QEMU_SYSTEM,
    REAP_TIME_MAX_S,
    ProbeRun,
    kvm_works,
    run_boot_sector,
    time_allowed_to_kvm_s,
)


@pytest.mark.parametrize(
    ("ended_by_guest", "emulated_s", "allowed_s"),
    [
        (True, 0.05, KVM_TIME_MIN_S),
        (True, 0.14, KVM_TIME_MIN_S),
        (True, 0.4, 1.6),
        (True, 2.0, KVM_TIME_MAX_S),
        (False, 3.0, KVM_TIME_MAX_S),
    ],
)
def test_kvm_may_take_a_few_times_what_emulation_takes(
    ended_by_guest: bool, emulated_s: float, allowed_s: float
) -> None:
    emulated = ProbeRun(ended_by_guest=ended_by_guest, seconds=emulated_s)
    assert time_allowed_to_kvm_s(emulated) == pytest.approx(allowed_s)


def test_a_missing_qemu_is_a_no() -> None:
    assert kvm_works("qemu-that-nobody-has") is False


@pytest.mark.machines
def test_the_boot_sector_ends_an_emulated_guest_and_an_empty_one_does_not(tmp_path: Path) -> None:
    disk = tmp_path / "boot.img"
    disk.write_bytes(BOOT_SECTOR)
    run = run_boot_sector(QEMU_SYSTEM, disk, accel="tcg", time_max_s=30.0)
    assert run.ended_by_guest
    disk.write_bytes(bytes(510) + b"\x55\xaa")  # Boots, and never writes to the port.
    assert not run_boot_sector(QEMU_SYSTEM, disk, accel="tcg", time_max_s=1.0).ended_by_guest


@pytest.mark.machines
def test_the_answer_comes_within_its_bound_and_is_kept() -> None:
    kvm_works.cache_clear()
    started = time.monotonic()
    answer = kvm_works()
    bound_s = EMULATED_TIME_MAX_S + KVM_TIME_MAX_S + 2 * REAP_TIME_MAX_S
    assert time.monotonic() - started < bound_s
    asked_again = time.monotonic()
    assert kvm_works() is answer
    assert time.monotonic() - asked_again < 0.01
