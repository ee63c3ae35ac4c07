"""Builds OS images that keep the contract of docs/guest.md.

An image is a bare Debian root file system, then layers laid over it: the files every guest has
(`guest/base`), the agent, the caller's overlay, and `/etc/upkeep/image.json`.  The bare system is
built once by mmdebstrap and cached under the digest of what went into it; a layer is appended to
a copy of that tar.  So the first image takes half a minute and the next one a few seconds, and
the same inputs over the same bare system give the same digest.

The cache does not notice that Debian has newer packages: remove it to get them.

Not done here: publishing and signing (the catalogue), how a disk is made of a root (`build_vm.py`).

    built = build_image("web", "1.0.1", Path("web.tar"), overlay=Path("web-1.0.1"),
                        packages=(), agent=Path("agent.pyz"), format="tar",
                        cache=Path("build/cache"), progress=print)
"""

import fcntl
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from upkeep.agent.install import AGENT_PATH, UNIT, UNIT_NAME
from upkeep.catalogue import build_vm
from upkeep.catalogue.layer import Layer, TarBase
from upkeep.platforms.commands import run_command, tool_missing
from upkeep.ports import DriverError, DriverErrorKind

SUITE = "bookworm"
# Raised when the way the bare system is built changes, so that no old cache is used.
RECIPE = 1
GUEST_FILES = Path(__file__).with_name("guest")
# What the agent and the guest's own units need; python3, not python3-minimal, for http.server.
BASE_PACKAGES = ("dbus", "iproute2", "openssl", "python3", "systemd", "systemd-sysv")
# Unread in a machine that nobody logs in to; 60 MB.
EXCLUDED_PATHS = (
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/doc/*",
    "/usr/share/info/*",
)
# mmdebstrap copies these from the host; in an image they are wrong (docs/guest.md).
HOST_FILES = ("etc/hostname", "etc/resolv.conf", "etc/machine-id")
# They wait for a person, do again what the platform has done, or change packages on their own.
MASKED_UNITS = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "container-getty@.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-machine-id-commit.service",
    "systemd-network-generator.service",
)
COPY_BYTES = 1024 * 1024
# Unpacking a big image on a slow disk.
DISK_STEP_TIME_MAX_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """Attributes:
    sha256: of the file, lower-case hex.
    size: in bytes.
    """

    path: Path
    sha256: str
    size: int


def build_image(
    name: str,
    version: str,
    out: Path,
    *,
    overlay: Path | None,
    packages: Sequence[str],
    agent: Path | None,
    format: Literal["tar", "qcow2"],
    cache: Path,
    progress: Callable[[str], None],
) -> BuiltImage:
    """Build one version of an image; `out` appears complete or not at all.

    Args:
        overlay: a directory laid over the root file system, with its modes, owned by root; units
            in its etc/systemd/system that have an [Install] section are enabled.
        packages: Debian packages beside `BASE_PACKAGES`.
        agent: the agent's zipapp; without it no agent is baked in.
        cache: a directory for bare root file systems, shared by all builds.
        progress: called with one line for people at each step.

    Raises:
        DriverError: TOOL_MISSING, BAD_IMAGE (an input is missing), or FAILED with the words of
            the command that failed.
    """
    if overlay is not None and not overlay.is_dir():
        raise _bad_input(f"the overlay {overlay} is no directory")
    if agent is not None and not agent.is_file():
        raise _bad_input(f"the agent {agent} is no file; build it first")
    wanted = packages if format == "tar" else (*packages, *build_vm.VM_PACKAGES)
    bare = build_rootfs(wanted, cache=cache, progress=progress)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        tar = Path(scratch) / "root.tar"
        compose_tar(bare, tar, name, version, overlay=overlay, agent=agent, progress=progress)
        fresh = tar
        if format == "qcow2":
            progress(f"{name} {version}: making a disk of it")
            fresh = Path(scratch) / "disk.qcow2"
            _make_disk(tar, Path(scratch) / "root", fresh)
        fresh.replace(out)
    return measure(out)


def _make_disk(tar: Path, root: Path, disk: Path) -> None:
    root.mkdir()
    run_command(
        (
            *("tar", "--extract", f"--file={tar}", f"--directory={root}", "--numeric-owner"),
            *("--preserve-permissions", "--same-owner", "--xattrs", "--xattrs-include=*"),
        ),
        package="tar",
        timeout_s=DISK_STEP_TIME_MAX_S,
    )
    build_vm.lay_vm_files(root)
    build_vm.assemble_disk(root, disk)


def build_rootfs(packages: Sequence[str], *, cache: Path, progress: Callable[[str], None]) -> Path:
    """The tar of a bare root file system with `BASE_PACKAGES` and these; from the cache if there.

    Do not write to it: others share it.
    """
    wanted = sorted({*BASE_PACKAGES, *packages})
    sources = read_apt_sources()
    inputs = json.dumps([RECIPE, SUITE, wanted, sources, EXCLUDED_PATHS, HOST_FILES])
    digest = hashlib.sha256(inputs.encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    tar = cache / f"rootfs-{digest}.tar"
    with _locked(tar.with_suffix(".lock")):
        if tar.exists():
            progress(f"bare root file system: from the cache ({tar.name})")
            return tar
        progress("bare root file system: building (about half a minute)")
        sources_file = cache / f"rootfs-{digest}.sources"
        sources_file.write_text(sources)
        fresh = tar.with_name(f".{digest}.new.tar")
        _run_mmdebstrap(wanted, sources_file, fresh, progress)
        fresh.replace(tar)
    return tar


def compose_tar(
    bare: Path,
    out: Path,
    name: str,
    version: str,
    *,
    overlay: Path | None,
    agent: Path | None,
    progress: Callable[[str], None],
) -> None:
    """Write `out`: the bare system with the layers of one image version over it."""
    progress(f"{name} {version}: laying files over the bare system")
    shutil.copyfile(bare, out)
    with tarfile.open(out, "a", format=tarfile.PAX_FORMAT) as archive:
        layer = Layer(archive, TarBase.read(archive))
        layer.add_tree(GUEST_FILES / "base")
        layer.add_link(
            "etc/systemd/system/default.target", "/usr/lib/systemd/system/multi-user.target"
        )
        for unit in MASKED_UNITS:
            layer.add_link(f"etc/systemd/system/{unit}", "/dev/null")
        # Empty, not absent: absent means "first boot", which enables every unit Debian presets.
        layer.add_file("etc/machine-id", b"", 0o444)
        layer.add_directory("data")
        layer.add_link("var/lib/upkeep", "/data/upkeep")
        if agent is not None:
            layer.add_unit(UNIT_NAME, UNIT)
            layer.add_file(AGENT_PATH.as_posix(), agent.read_bytes(), 0o755)
        if overlay is not None:
            layer.add_tree(overlay)
        document = json.dumps({"name": name, "version": version})
        layer.add_file("etc/upkeep/image.json", document.encode() + b"\n", 0o644)


def read_apt_sources() -> str:
    """This machine's own Debian sources for `SUITE`, so that its mirror is used in the image.

    Other parties' sources on this machine are no business of the image and are left out.
    """
    stanzas = []
    for file in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        for stanza in file.read_text().split("\n\n"):
            lines = [line for line in stanza.splitlines() if not line.startswith("#")]
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
            suites = fields.get("Suites", "").split()
            if suites and all(suite.split("-")[0].split("/")[0] == SUITE for suite in suites):
                stanzas.append("\n".join(lines))
    if not stanzas:
        stanzas.append(
            f"Types: deb\nURIs: http://deb.debian.org/debian\nSuites: {SUITE} {SUITE}-updates\n"
            "Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg"
        )
    return "\n\n".join(stanzas) + "\n"


def _run_mmdebstrap(
    packages: Sequence[str], sources: Path, out: Path, progress: Callable[[str], None]
) -> None:
    argv = [
        "mmdebstrap",
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join(packages)}",
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={path}" for path in EXCLUDED_PATHS),
        # mmdebstrap's own verb for "run in the root": the names are constants of this module.
        f'--customize-hook=chroot "$1" rm -f {" ".join("/" + name for name in HOST_FILES)}',
        SUITE,
        str(out),
        str(sources),
    ]
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise tool_missing("mmdebstrap", "mmdebstrap") from error
    words: list[str] = []
    assert process.stderr is not None
    for line in process.stderr:
        words = [*words, line.strip()][-10:]
        if line.startswith("I: "):
            progress(f"bare root file system: {line[3:].strip()}")
    if process.wait() != 0:
        out.unlink(missing_ok=True)
        raise DriverError(
            DriverErrorKind.FAILED,
            f"mmdebstrap ended with {process.returncode}: {' / '.join(words)}",
            retryable=True,
        )


def measure(path: Path) -> BuiltImage:
    """A finished file as publishing it wants it described."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(COPY_BYTES):
            digest.update(chunk)
    return BuiltImage(path=path, sha256=digest.hexdigest(), size=path.stat().st_size)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One build of one bare system at a time; the second finds it in the cache."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _bad_input(detail: str) -> DriverError:
    return DriverError(DriverErrorKind.BAD_IMAGE, detail, retryable=False)
