"""A platform of files: machines that survive the server's death, with no hypervisor under them.

It keeps the drivers' own journal (`platforms/journal.py`: keys, fences, results), so what is
tested against it is what nspawn and libvirt do.  The record is the machine: a change and the key
that made it are one atomic write, so that a process killed beside it has done both or neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from upkeep.platforms.journal import MachineJournal
from upkeep.ports import (
    DriverError,
    DriverErrorKind,
    MachineSpec,
    MachineStatus,
    OsImage,
    Power,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    version: str
    kept: str = ""
    model: str = ""
    kept_model: str = ""
    boots: int = 1
    running: bool = True
    done: str = ""  # The keys of every change, in order, a space between them.


class FilePlatform:
    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        self._journal: MachineJournal[FileFacts] = MachineJournal(root / "records", FileFacts)

    def effects(self) -> list[str]:
        """The keys of all changes ever made to the machines that are there."""
        facts = [self._journal.read(name).facts for name in self._journal.names()]
        return [key for each in facts if each is not None for key in each.done.split()]

    def observe(self, names: Sequence[str]) -> Sequence[MachineStatus]:
        return [self._status(name) for name in names]

    def _status(self, name: str) -> MachineStatus:
        facts = self._journal.read(name).facts
        if facts is None:
            return MachineStatus(name=name, power=Power.ABSENT)
        return MachineStatus(
            name=name,
            power=Power.RUNNING if facts.running else Power.OFF,
            image_version=facts.version,
            kept_version=facts.kept,
            model=facts.model,
            kept_model=facts.kept_model,
            address="127.0.0.1",
            boots=facts.boots,
        )

    def create(self, spec: MachineSpec, *, key: str, fence: int) -> None:
        with self._journal.call(spec.name, "create", key=key, fence=fence) as call:
            if call.is_answered or call.step == "made":
                return
            facts = FileFacts(version=spec.image.version, model=spec.model, done=key)
            call.write(facts, step="made", uuid=spec.uuid)

    def start(self, name: str, *, key: str, fence: int) -> None:
        self._change(name, "start", key, fence, lambda f: replace(f, running=True))

    def stop(self, name: str, *, key: str, fence: int) -> None:
        self._change(name, "stop", key, fence, lambda f: replace(f, running=False))

    def restart(self, name: str, *, key: str, fence: int) -> None:
        self._change(name, "restart", key, fence, lambda f: replace(f, boots=f.boots + 1))

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
        self._change(
            name, "replace_os_disk", key, fence,
            lambda f: replace(
                f, version=image.version, kept=f.version, model=model, kept_model=f.model,
                boots=f.boots + 1,
            ),
        )  # fmt: skip

    def switch_back(self, name: str, *, key: str, fence: int) -> None:
        self._change(
            name, "switch_back", key, fence,
            lambda f: replace(
                f, version=f.kept, kept=f.version, model=f.kept_model, kept_model=f.model,
                boots=f.boots + 1,
            ),
        )  # fmt: skip

    def delete(self, name: str, *, key: str, fence: int) -> None:
        with self._journal.call(name, "delete", key=key, fence=fence) as call:
            if not call.is_answered and call.step != "gone":
                call.write(None, step="gone")

    def _change(self, name, verb, key, fence, change):  # type: ignore[no-untyped-def]
        with self._journal.call(name, verb, key=key, fence=fence) as call:
            if call.is_answered or call.step == "changed":
                return
            facts = call.record.facts
            if facts is None:
                raise DriverError(DriverErrorKind.NOT_FOUND, f"no machine {name}", retryable=False)
            call.write(replace(change(facts), done=f"{facts.done} {key}"), step="changed")
