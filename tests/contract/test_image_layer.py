"""What a layer over a root file system becomes when the tar is unpacked."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from upkeep.agent.install import AGENT_PATH, UNIT, UNIT_NAME
from upkeep.catalogue.build import build_image, compose_tar, read_apt_sources
from upkeep.catalogue.layer import Layer, TarBase, parse_install
from upkeep.ports import DriverError, DriverErrorKind


def bare_tar(path: Path) -> None:
    """A root with what matters: a link for a directory, a sticky directory, a file."""
    with tarfile.open(path, "w") as archive:
        for name, mode in (("usr", 0o755), ("usr/lib", 0o755), ("etc", 0o755), ("tmp", 0o1777)):
            info = tarfile.TarInfo(f"./{name}")
            info.type, info.mode = tarfile.DIRTYPE, mode
            archive.addfile(info)
        link = tarfile.TarInfo("./lib")
        link.type, link.linkname = tarfile.SYMTYPE, "usr/lib"
        archive.addfile(link)
        info = tarfile.TarInfo("./etc/motd")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"old"))


def lay(tmp_path: Path, overlay: Path) -> Path:
    """Unpack the bare root with the overlay over it; gives the root."""
    tar = tmp_path / "root.tar"
    bare_tar(tar)
    with tarfile.open(tar, "a") as archive:
        Layer(archive, TarBase.read(archive)).add_tree(overlay)
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(("tar", "-xpf", str(tar), "-C", str(root)), check=True)
    return root


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    overlay = tmp_path / "overlay"
    (overlay / "etc/systemd/system").mkdir(parents=True)
    return overlay


def test_files_replace_what_is_below_and_keep_their_modes(tmp_path: Path, overlay: Path) -> None:
    (overlay / "etc/motd").write_text("new")
    script = overlay / "etc/run"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o750)
    root = lay(tmp_path, overlay)
    assert (root / "etc/motd").read_text() == "new"
    assert (root / "etc/run").stat().st_mode & 0o7777 == 0o750


def test_a_directory_over_a_link_follows_the_link(tmp_path: Path, overlay: Path) -> None:
    (overlay / "lib/mine").mkdir(parents=True)
    (overlay / "lib/mine/file").write_text("x")
    root = lay(tmp_path, overlay)
    assert (root / "lib").is_symlink()
    assert (root / "usr/lib/mine/file").read_text() == "x"


def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path, overlay: Path) -> None:
    (overlay / "tmp").mkdir(mode=0o755)
    (overlay / "tmp/file").write_text("x")
    assert lay(tmp_path, overlay).joinpath("tmp").stat().st_mode & 0o7777 == 0o1777


def test_units_with_an_install_section_are_enabled(tmp_path: Path, overlay: Path) -> None:
    units = overlay / "etc/systemd/system"
    install = (
        "[Install]\nWantedBy=multi-user.target a.target\nRequiredBy=b.target\nAlias=c.service\n"
    )
    (units / "web.service").write_text(f"[Service]\nExecStart=/bin/true\n\n{install}")
    (units / "helper.service").write_text("[Service]\nExecStart=/bin/true\n")
    root = lay(tmp_path, overlay) / "etc/systemd/system"
    links = ("multi-user.target.wants", "a.target.wants", "b.target.requires")
    for folder in links:
        assert [path.name for path in (root / folder).iterdir()] == ["web.service"]
        assert str((root / folder / "web.service").readlink()) == "/etc/systemd/system/web.service"
    assert (root / "c.service").is_symlink()


def test_parse_install_reads_only_that_section() -> None:
    install = "[Install]\n# WantedBy=no\nWantedBy=a b\nWantedBy = c\n"
    text = f"[Unit]\nWantedBy=no\n{install}[Service]\nx=y\n"
    assert parse_install(text) == [("WantedBy", "a b"), ("WantedBy", "c")]


def test_the_same_files_give_the_same_bytes(tmp_path: Path, overlay: Path) -> None:
    (overlay / "etc/motd").write_text("new")
    tars = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        lay(tmp_path / folder, overlay)
        tars.append((tmp_path / folder / "root.tar").read_bytes())
        (overlay / "etc/motd").touch()
    assert tars[0] == tars[1]


def test_other_parties_sources_stay_out() -> None:
    for line in read_apt_sources().splitlines():
        if line.startswith("Suites:"):
            assert all(suite.startswith("bookworm") for suite in line.split()[1:])


@pytest.mark.parametrize("missing", ["overlay", "agent"])
def test_a_missing_input_is_told_before_anything_is_built(tmp_path: Path, missing: str) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(DriverError) as caught:
        build_image(
            "web",
            "1.0.0",
            tmp_path / "web.tar",
            overlay=nowhere if missing == "overlay" else None,
            packages=(),
            agent=nowhere if missing == "agent" else None,
            format="tar",
            cache=tmp_path / "cache",
            progress=print,
        )
    assert caught.value.kind is DriverErrorKind.BAD_IMAGE
    assert str(nowhere) in caught.value.detail
    assert not (tmp_path / "cache").exists()


@pytest.mark.machines
def test_a_built_image_keeps_the_guest_contract(tmp_path: Path) -> None:
    """docs/guest.md, read from the tar; the agent here is any file."""
    agent = tmp_path / "agent.pyz"
    agent.write_bytes(b"agent")
    built = build_image(
        "web",
        "1.0.1",
        tmp_path / "web.tar",
        overlay=None,
        packages=(),
        agent=agent,
        format="tar",
        cache=Path(__file__).parents[2] / "build/cache",
        progress=print,
    )
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(("tar", "-xpf", str(built.path), "-C", str(root)), check=True)
    assert (root / "etc/upkeep/image.json").read_text() == '{"name": "web", "version": "1.0.1"}\n'
    assert (root / "usr/lib/upkeep/agent.pyz").read_bytes() == b"agent"
    assert str((root / "var/lib/upkeep").readlink()) == "/data/upkeep"
    wants = root / "etc/systemd/system/multi-user.target.wants"
    assert {"upkeep-agent.service", "upkeep-network.service"} <= {p.name for p in wants.iterdir()}
    assert (root / "etc/machine-id").read_bytes() == b""
    assert not (root / "etc/hostname").exists()
    assert (root / "sbin").is_symlink(), "the merged /usr is whole"


def test_an_image_has_the_unit_that_an_installed_agent_has(tmp_path: Path) -> None:
    bare, agent, out = tmp_path / "bare.tar", tmp_path / "agent.pyz", tmp_path / "web.tar"
    tarfile.open(bare, "w").close()
    agent.write_bytes(b"agent")
    compose_tar(bare, out, "web", "1.0.1", overlay=None, agent=agent, progress=lambda line: None)
    unit = f"./etc/systemd/system/{UNIT_NAME}"
    with tarfile.open(out) as archive:
        assert archive.extractfile(unit).read().decode() == UNIT
        link = archive.getmember(f"./etc/systemd/system/multi-user.target.wants/{UNIT_NAME}")
        assert link.linkname == f"/etc/systemd/system/{UNIT_NAME}"
        assert archive.getmember(f"./{AGENT_PATH}").mode == 0o755
