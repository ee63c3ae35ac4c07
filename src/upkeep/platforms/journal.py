"""What a driver remembers of each machine: keys, fences, results and its own facts.

One JSON file per machine, replaced atomically (write, fsync, rename, fsync the directory), read
without a lock, written only under the machine's lock.  The lock is held for a whole call, so two
servers never work on one machine at once; the kernel drops it when its holder dies.

The rules of a call, in this order:
1. a fence lower than the highest stored for the machine is refused (FENCED);
2. a key that succeeded is answered at once, whatever its fence;
3. a key that failed is answered with the same error for the same fence; a higher fence is a new
   attempt and goes on from the step that was reached;
4. a key that was begun and never ended (the process died) goes on from the step it reached.

A deleted machine leaves a small record without facts, so that a late repetition of an old key
cannot bring it back.  Fences belong to one uuid: a new machine under an old name begins anew,
while the keys of the old one are still known.

    with journal.call("web-0", "stop", key="ro_7/m_3/stop/1", fence=2) as call:
        if not call.is_answered:
            ...                              # Work; may be repeated after a crash.
            call.write(facts, step="stopped")    # Atomic: facts and step together.
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from upkeep.platforms.commands import from_os_error
from upkeep.ports import DriverError, DriverErrorKind

# What may become a file name (DESIGN §13).
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
# Longer than any one call of a driver: whoever waits this long for the lock waits for a call
# that hangs.
LOCK_TIME_MAX_S = 600.0
LOCK_POLL_S = 0.05
# Keys kept per machine.  The engine retries one action at a time, so the last few would do; the
# rest covers late repetitions after long partitions.  64 records are about 10 KiB.
CALLS_KEPT_MAX = 64

Facts = TypeVar("Facts")


class CallState(StrEnum):
    BEGUN = "begun"  # Work may have been done in part.
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One keyed call: how far it came and how it ended."""

    key: str
    fence: int
    verb: str
    state: CallState = CallState.BEGUN
    step: str = ""  # The driver's own mark of what is done, written together with the facts.
    error_kind: DriverErrorKind | None = None
    error_detail: str = ""
    error_retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRecord(Generic[Facts]):
    """All that is known of one name.

    Attributes:
        uuid: of the machine the fence belongs to; empty before the first create.
        fence: the highest seen.
        facts: the driver's own; None when there is no such machine (never made, or deleted).
        calls: oldest first, at most `CALLS_KEPT_MAX`.
    """

    name: str
    uuid: str = ""
    fence: int = 0
    facts: Facts | None = None
    calls: tuple[CallRecord, ...] = ()

    def find_call(self, key: str) -> CallRecord | None:
        return next((call for call in self.calls if call.key == key), None)


class Call(Generic[Facts]):
    """One call in progress, with the machine's lock held.

    Attributes:
        is_answered: the key succeeded before: there is nothing to do.
        record: as last written.
    """

    def __init__(
        self, journal: "MachineJournal[Facts]", record: MachineRecord[Facts], key: str
    ) -> None:
        self._journal = journal
        self._key = key
        self.record = record
        self.is_answered = self._own.state is CallState.SUCCEEDED

    @property
    def _own(self) -> CallRecord:
        own = self.record.find_call(self._key)
        assert own is not None, "a call writes its own record before it works"
        return own

    @property
    def step(self) -> str:
        """The mark last written by this key, also in an earlier life; empty at first."""
        return self._own.step

    def write(self, facts: Facts | None, *, step: str, uuid: str | None = None) -> None:
        """Put facts and step down together: after a crash both are there, or neither."""
        own = replace(self._own, step=step)
        self._put(replace(self.record, facts=facts, uuid=uuid or self.record.uuid), own)
        self._journal.reached(f"{own.verb}:{step}")

    def finish(self) -> None:
        self._put(self.record, replace(self._own, state=CallState.SUCCEEDED))

    def fail(self, error: DriverError) -> None:
        own = replace(
            self._own,
            state=CallState.FAILED,
            error_kind=error.kind,
            error_detail=error.detail,
            error_retryable=error.retryable,
        )
        self._put(self.record, own)

    def _put(self, record: MachineRecord[Facts], own: CallRecord) -> None:
        calls = tuple(own if call.key == own.key else call for call in record.calls)
        self.record = replace(record, calls=calls)
        self._journal.put(self.record)


class MachineJournal(Generic[Facts]):
    """The records of one driver, one file per machine.

    Args:
        directory: made when absent; holds `<name>.json` and `<name>.lock`.
        facts_type: a frozen dataclass; what the driver knows of one machine.
        reached: called after each write with `<verb>:<state>` or `<verb>:<step>`; the crash
            tests end the process there.
    """

    def __init__(
        self,
        directory: Path,
        facts_type: type[Facts],
        *,
        reached: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._directory = directory
        self._decoder = msgspec.json.Decoder(MachineRecord[facts_type])  # type: ignore[valid-type]
        self.reached = reached
        directory.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> MachineRecord[Facts]:
        """The record now, without a lock; an empty one for a name never heard of."""
        check_name(name)
        try:
            data = (self._directory / f"{name}.json").read_bytes()
        except FileNotFoundError:
            return MachineRecord(name=name)
        record: MachineRecord[Facts] = self._decoder.decode(data)
        return record

    def names(self) -> list[str]:
        """Every name with a record, also deleted ones, in order."""
        return sorted(path.name.removesuffix(".json") for path in self._directory.glob("*.json"))

    def put(self, record: MachineRecord[Facts]) -> None:
        write_atomically(self._directory / f"{record.name}.json", msgspec.json.encode(record))

    @contextmanager
    def call(
        self, name: str, verb: str, *, key: str, fence: int, uuid: str = ""
    ) -> Iterator[Call[Facts]]:
        """Hold the machine for one call; records how it ends.

        Leaving the block normally records success; a `DriverError` (or an `OSError`, which
        becomes one) records failure and goes on to the caller.  Anything else, such as the end
        of the process, leaves the call begun.

        Args:
            uuid: given by create only; a uuid other than the stored one begins new fences when
                there is no machine under this name.

        Raises:
            DriverError: FENCED, the stored error of a failed key, or what the block raised.
        """
        check_name(name)
        with held_lock(self._directory / f"{name}.lock", LOCK_TIME_MAX_S):
            record = self._admit(self.read(name), verb, key=key, fence=fence, uuid=uuid)
            call = Call(self, record, key)
            if call.is_answered:
                yield call
                return
            try:
                self.put(record)
                self.reached(f"{verb}:begun")
                yield call
                call.finish()
                self.reached(f"{verb}:succeeded")
            except DriverError as error:
                _record_failure(call, error)
                raise
            except OSError as error:
                wrapped = from_os_error(error)
                _record_failure(call, wrapped)
                raise wrapped from error

    def _admit(
        self, record: MachineRecord[Facts], verb: str, *, key: str, fence: int, uuid: str
    ) -> MachineRecord[Facts]:
        """The record with this call in it, by the rules at the top of this module."""
        if record.facts is None and uuid and uuid != record.uuid:
            record = replace(record, uuid=uuid, fence=0)
        if fence < record.fence:
            raise DriverError(
                DriverErrorKind.FENCED,
                f"{record.name}: fence {fence} is older than {record.fence}; another server has "
                "taken this machine over, let it",
                retryable=False,
            )
        record = replace(record, fence=fence)
        known = record.find_call(key)
        if known is None:
            begun = CallRecord(key=key, fence=fence, verb=verb)
            return replace(record, calls=(*record.calls, begun)[-CALLS_KEPT_MAX:])
        if known.state is CallState.SUCCEEDED:
            return record
        if known.state is CallState.FAILED and known.fence == fence:
            assert known.error_kind is not None
            raise DriverError(known.error_kind, known.error_detail, retryable=known.error_retryable)
        again = CallRecord(key=key, fence=fence, verb=verb, step=known.step)
        return replace(
            record, calls=tuple(again if call.key == key else call for call in record.calls)
        )


def _record_failure(call: Call[Facts], error: DriverError) -> None:
    try:
        call.fail(error)
    except OSError:
        # The disk is full or gone: the call stays begun, which a repetition resumes just as well,
        # and the caller hears the first error, which says more.
        pass


def check_name(name: str) -> None:
    """Raises unless the name can be a file name on every platform."""
    if NAME_PATTERN.fullmatch(name) is None:
        raise DriverError(
            DriverErrorKind.FAILED,
            f"{name!r} is no machine or file name; use {NAME_PATTERN.pattern}",
            retryable=False,
        )


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file so that a crash leaves the old or the new content, never a mixture."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames and new names in it last over a power loss."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def held_lock(path: Path, wait_max_s: float, *, is_shared: bool = False) -> Iterator[int]:
    """Hold the file's lock; yields its descriptor.  TIMED_OUT when somebody keeps it."""
    mode = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + wait_max_s
        while True:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DriverError(
                        DriverErrorKind.TIMED_OUT,
                        f"{path} has been locked for {wait_max_s:g} s; another call hangs",
                        retryable=True,
                    ) from None
                time.sleep(LOCK_POLL_S)
        yield descriptor
    finally:
        os.close(descriptor)
