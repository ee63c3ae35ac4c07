"""Lays files over a root file system that is a tar, by appending to it.

The last entry of a name wins when a tar is unpacked, so a layer costs what it holds, not what
lies below.  Names follow the symbolic links of the system below (`lib/x` goes to `usr/lib/x`),
because unpacking a directory over the link `/lib` would destroy the system.  Directories that are
there already keep their owner and mode.  Everything is owned by root and has one fixed time, so
that the same files give the same digest in every checkout.

systemd units in `etc/systemd/system` with an [Install] section are enabled, as `systemctl
enable` would.
"""

import io
import os
import stat
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

UNIT_FOLDER = "etc/systemd/system"
UNIT_SUFFIXES = (".service", ".timer", ".socket", ".path", ".mount", ".target")
# 2020-01-01; a time of 0 makes tar warn of every file.
MTIME = 1_577_836_800
# A chain of links longer than the kernel follows (path_resolution(7)) is a loop.
LINKS_MAX = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class TarBase:
    """What is below: its directories, and its links by name.  Names have no leading `./`."""

    directories: frozenset[str]
    links: Mapping[str, str]

    @staticmethod
    def read(archive: tarfile.TarFile) -> "TarBase":
        members = archive.getmembers()
        return TarBase(
            directories=frozenset(_plain(m.name) for m in members if m.isdir()),
            links={_plain(m.name): m.linkname for m in members if m.issym()},
        )

    def resolve(self, name: str) -> str:
        """The name with every link among its parents followed."""
        parts = PurePosixPath(name).parts
        resolved = ""
        for index, part in enumerate(parts):
            resolved = f"{resolved}/{part}".lstrip("/")
            is_parent = index < len(parts) - 1
            for _ in range(LINKS_MAX):
                if not is_parent or resolved not in self.links:
                    break
                target = self.links[resolved]
                folder = "" if target.startswith("/") else os.path.dirname(resolved)
                resolved = os.path.normpath(f"/{folder}/{target}").lstrip("/")
        return resolved


class Layer:
    """Appends to an open archive."""

    def __init__(self, archive: tarfile.TarFile, base: TarBase) -> None:
        self._archive = archive
        self._base = base
        self._made: set[str] = set()

    def add_tree(self, tree: Path) -> None:
        """Everything in the directory, with modes; enables its units."""
        for folder, folder_names, file_names in os.walk(tree):
            folder_names.sort()
            for entry in sorted(file_names + folder_names):
                path = Path(folder, entry)
                name = path.relative_to(tree).as_posix()
                mode = path.lstat().st_mode
                if stat.S_ISLNK(mode):
                    self.add_link(name, os.readlink(path))
                elif stat.S_ISDIR(mode):
                    self.add_directory(name, stat.S_IMODE(mode))
                elif stat.S_ISREG(mode):
                    self.add_file(name, path.read_bytes(), stat.S_IMODE(mode))
                    if os.path.dirname(name) == UNIT_FOLDER and name.endswith(UNIT_SUFFIXES):
                        self._enable(path.name, path.read_text())

    def add_file(self, name: str, content: bytes, mode: int) -> None:
        info = self._entry(name, tarfile.REGTYPE, mode)
        info.size = len(content)
        self._archive.addfile(info, io.BytesIO(content))

    def add_unit(self, name: str, text: str) -> None:
        """A systemd unit, enabled if it says where."""
        self.add_file(f"{UNIT_FOLDER}/{name}", text.encode(), 0o644)
        self._enable(name, text)

    def add_link(self, name: str, target: str) -> None:
        info = self._entry(name, tarfile.SYMTYPE, 0o777)
        info.linkname = target
        self._archive.addfile(info)

    def add_directory(self, name: str, mode: int = 0o755) -> None:
        # Asked for a child, so that a link that stands for the directory is followed as well.
        resolved = os.path.dirname(self._base.resolve(f"{name}/child"))
        if resolved in self._base.directories or resolved in self._made:
            return
        self._made.add(resolved)
        self._archive.addfile(self._entry(resolved, tarfile.DIRTYPE, mode))

    def _entry(self, name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
        resolved = self._base.resolve(name)
        parent = os.path.dirname(resolved)
        if parent:
            self.add_directory(parent)
        info = tarfile.TarInfo(f"./{resolved}")
        info.type = kind
        info.mode = mode
        info.mtime = MTIME
        info.uname = info.gname = "root"
        return info

    def _enable(self, unit: str, text: str) -> None:
        for key, value in parse_install(text):
            for word in value.split():
                match key:
                    case "WantedBy":
                        link = f"{word}.wants/{unit}"
                    case "RequiredBy":
                        link = f"{word}.requires/{unit}"
                    case "Alias":
                        link = word
                    case _:
                        continue
                self.add_link(f"{UNIT_FOLDER}/{link}", f"/{UNIT_FOLDER}/{unit}")


def parse_install(text: str) -> list[tuple[str, str]]:
    """The settings of a unit's [Install] section, in order; a key may come twice."""
    settings = []
    section = ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == "[Install]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            settings.append((key.strip(), value.strip()))
    return settings


def _plain(name: str) -> str:
    return name.removeprefix("./").rstrip("/")
