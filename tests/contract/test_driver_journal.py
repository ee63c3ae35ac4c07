"""The rules of `upkeep.platforms.journal`, without a platform."""

import errno
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from upkeep.platforms.journal import CALLS_KEPT_MAX, MachineJournal, held_lock
from upkeep.ports import DriverError, DriverErrorKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    disk: str


@pytest.fixture
def journal(tmp_path: Path) -> MachineJournal[Facts]:
    return MachineJournal(tmp_path, Facts)


def make(
    journal: MachineJournal[Facts], *, key: str = "k0", fence: int = 1, uuid: str = "u"
) -> bool:
    """Create the machine; True when work was done."""
    with journal.call("m", "create", key=key, fence=fence, uuid=uuid) as call:
        if not call.is_answered:
            call.write(Facts(disk="a"), step="made", uuid=uuid)
        return not call.is_answered


def refused(call: Callable[[], object]) -> DriverError:
    with pytest.raises(DriverError) as caught:
        call()
    return caught.value


def test_facts_and_keys_outlive_the_process(journal: MachineJournal[Facts], tmp_path: Path) -> None:
    assert make(journal)
    again = MachineJournal(tmp_path, Facts)
    assert again.read("m").facts == Facts(disk="a")
    assert not make(again)


def test_an_older_fence_is_refused_even_for_a_known_key(journal: MachineJournal[Facts]) -> None:
    make(journal, fence=3)
    assert refused(lambda: make(journal, fence=2)).kind is DriverErrorKind.FENCED
    assert not make(journal, fence=4)


def test_fences_belong_to_the_uuid(journal: MachineJournal[Facts]) -> None:
    make(journal, fence=9)
    with journal.call("m", "delete", key="k1", fence=9) as call:
        call.write(None, step="forgotten")
    assert refused(lambda: make(journal, key="k2", fence=1)).kind is DriverErrorKind.FENCED
    assert make(journal, key="k3", fence=1, uuid="another")
    assert not make(journal, key="k0", fence=1), "a key of the old machine is still known"


def test_a_failure_is_answered_alike_and_a_higher_fence_tries_again(
    journal: MachineJournal[Facts],
) -> None:
    make(journal)
    tries = []

    def fail(fence: int) -> None:
        with journal.call("m", "stop", key="k1", fence=fence) as call:
            tries.append(call.step)
            call.write(Facts(disk="a"), step="asked")
            raise DriverError(DriverErrorKind.TIMED_OUT, "too slow", retryable=True)

    for fence in (1, 1, 2):
        error = refused(lambda fence=fence: fail(fence))  # type: ignore[misc]
        assert (error.kind, error.detail) == (DriverErrorKind.TIMED_OUT, "too slow")
        assert error.retryable
    assert tries == ["", "asked"], "fence 1 once; fence 2 goes on from the step reached"


def test_a_full_disk_inside_a_call_is_no_space(journal: MachineJournal[Facts]) -> None:
    def fill() -> None:
        with journal.call("m", "create", key="k", fence=1, uuid="u"):
            raise OSError(errno.ENOSPC, "No space left on device")

    assert refused(fill).kind is DriverErrorKind.NO_SPACE


@pytest.mark.parametrize("step", ["stop:begun", "stop:asked", "stop:succeeded"])
def test_a_killed_call_goes_on_from_its_last_step(tmp_path: Path, step: str) -> None:
    make(MachineJournal(tmp_path, Facts))

    def die_at(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def stop(journal: MachineJournal[Facts]) -> str:
        with journal.call("m", "stop", key="k1", fence=1) as call:
            if call.is_answered:
                return "answered"
            found = call.step
            call.write(Facts(disk="b"), step="asked")
            return found

    child = os.fork()
    if child == 0:
        try:
            stop(MachineJournal(tmp_path, Facts, reached=die_at))
        finally:
            os._exit(1)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    journal = MachineJournal(tmp_path, Facts)
    disk = {"stop:begun": "a"}.get(step, "b")
    assert journal.read("m").facts == Facts(disk=disk)
    answer = {"stop:begun": "", "stop:asked": "asked", "stop:succeeded": "answered"}[step]
    assert stop(journal) == answer
    assert journal.read("m").facts == Facts(disk="b")


def test_two_callers_never_work_on_one_machine_at_once(journal: MachineJournal[Facts]) -> None:
    make(journal)
    inside = 0
    most = 0

    def work(number: int) -> None:
        nonlocal inside, most
        with journal.call("m", "restart", key=f"k-{number}", fence=1):
            inside += 1
            most = max(most, inside)
            threading.Event().wait(0.01)
            inside -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert len(journal.read("m").calls) == 9


def test_a_lock_that_is_kept_times_out(tmp_path: Path) -> None:
    with held_lock(tmp_path / "lock", 1):
        error = refused(lambda: held_lock(tmp_path / "lock", 0).__enter__())
    assert (error.kind, error.retryable) == (DriverErrorKind.TIMED_OUT, True)


def test_old_keys_are_dropped_at_the_maximum(journal: MachineJournal[Facts]) -> None:
    make(journal)
    for number in range(CALLS_KEPT_MAX):
        with journal.call("m", "restart", key=f"k-{number}", fence=1):
            pass
    calls = journal.read("m").calls
    assert len(calls) == CALLS_KEPT_MAX
    assert calls[-1].key == f"k-{CALLS_KEPT_MAX - 1}"


@pytest.mark.parametrize("name", ["", "../m", "M", "a/b", ".m", "a" * 64])
def test_a_name_that_is_no_file_name_is_refused(journal: MachineJournal[Facts], name: str) -> None:
    assert refused(lambda: journal.read(name)).kind is DriverErrorKind.FAILED
