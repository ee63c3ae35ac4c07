"""`upkeep image`: build a version, publish it, exclude a bad one."""

import hashlib
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from upkeep.cli.client import CHUNK_BYTES, Document, connect
from upkeep.cli.exit_codes import CommandFailed, ExitCode
from upkeep.cli.options import LIST_ITEMS_DEFAULT, After, Json, Limit, parse_name
from upkeep.cli.output import (
    Columns,
    note,
    print_answer,
    print_details,
    print_json,
    print_page,
    print_table,
    progress_bar,
    say,
    sentence,
    step_lines,
)
from upkeep.cli.quantities import show_moment, show_size

app = typer.Typer(no_args_is_help=True, help="Images: what machines run, in versions.")

Name = Annotated[str, typer.Argument(parser=parse_name, metavar="IMAGE", help="The image's name.")]
Version = Annotated[
    str, typer.Argument(parser=parse_name, metavar="VERSION", help="Such as 1.0.1.")
]
Region = Annotated[
    list[str] | None,
    typer.Option("--region", metavar="REGION", help="Only in this region; repeat."),
]


@app.command("build")
def build(
    name: Name,
    version: Version,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")],
    overlay: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory laid over the root file system."),
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", metavar="FORMAT", help="tar for nspawn, qcow2 for virtual machines."
        ),
    ] = "tar",
    package: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Debian package to install beside; repeat."),
    ] = None,
    agent: Annotated[
        bool, typer.Option("--agent/--no-agent", help="Put the upkeep agent into the image.")
    ] = True,
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where bare systems are kept.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build one version of an image, here, without a server.

    The first build takes about half a minute, the next ones a few seconds.

    upkeep image build web 1.0.1 --overlay ./web --format tar -o web-1.0.1.tar
    """
    if form not in ("tar", "qcow2"):
        raise typer.BadParameter(f"--format is tar or qcow2, not {form!r}")
    _check_output(out)
    built = _build(
        name,
        version,
        out,
        overlay=overlay,
        packages=tuple(package or ()),
        form="tar" if form == "tar" else "qcow2",
        with_agent=agent,
        cache=cache or default_cache(),
    )
    print_answer(
        f"Built {out}: {show_size(built['size'])}, SHA-256 {built['sha256']}.",
        built,
        as_json=as_json,
    )
    note(f"Publish it: upkeep image publish {name} {version} {out}")


@app.command("publish")
def publish(
    name: Name,
    version: Version,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .tar or a .qcow2.")],
    form: Annotated[
        str,
        typer.Option(
            "--format", metavar="FORMAT", help="tar or qcow2; otherwise by the file's name."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Publish a file as a version of an image; groups with auto upgrade then take it."""
    form = form or file.suffix.removeprefix(".")
    if form not in ("tar", "qcow2"):
        raise typer.BadParameter(f"say what {file} is: --format tar or --format qcow2")
    sha256, size = _digest(file)
    with connect() as client:
        with progress_bar(f"{name} {version}", total=size) as advance:
            answer = client.upload(
                f"/v1/images/{name}/versions/{version}/{form}",
                file,
                sha256=sha256,
                advance=advance,
            )
    print_answer(f"Published {name} {version} ({show_size(size)}).", answer, as_json=as_json)


@app.command("list")
def list_images(
    limit: Limit = LIST_ITEMS_DEFAULT, after: After = "", as_json: Json = False
) -> None:
    """List images."""
    with connect() as client:
        page = client.list("/v1/images", limit=limit, after=after)
    columns: Columns = {
        "IMAGE": "name",
        "LATEST": "latest",
        "CREATED": lambda i: show_moment(i["created_at"]),
    }
    print_page(columns, page, as_json=as_json)


@app.command("show")
def show(name: Name, as_json: Json = False) -> None:
    """Show an image and its versions."""
    with connect() as client:
        image = client.get(f"/v1/images/{name}")
    if as_json:
        print_json(image)
        return
    print_details({"name": image.get("name"), "latest": image.get("latest")})
    say("")
    print_table(
        {
            "VERSION": "version",
            "FORMAT": "format",
            "SIZE": lambda version: show_size(version.get("size") or 0),
            "EXCLUDED": lambda version: version["excluded_regions"] or version["excluded"],
            "FLOOR": "floor",
            "REGIONS": "regions",
            "PUBLISHED": lambda version: show_moment(version.get("published_at")),
            "SHA-256": "sha256",
        },
        image.get("versions") or (),
    )


@app.command("exclude")
def exclude(name: Name, version: Version, region: Region = None, as_json: Json = False) -> None:
    """Take a version out of use: no machine gets it any more, running rollouts of it stop."""
    answer = _set_excluded(name, version, region, excluded=True)
    print_answer(f"{name} {version} is excluded{_where(region)}.", answer, as_json=as_json)


@app.command("include")
def include(name: Name, version: Version, region: Region = None, as_json: Json = False) -> None:
    """Let a version that was excluded be used again."""
    answer = _set_excluded(name, version, region, excluded=False)
    print_answer(f"{name} {version} may be used again{_where(region)}.", answer, as_json=as_json)


@app.command("floor")
def floor(
    name: Name,
    version: Version,
    is_on: Annotated[bool, typer.Option("--on/--off", help="--off: it is one no more.")] = True,
    as_json: Json = False,
) -> None:
    """Make a version a floor: no machine goes past it without having run it."""
    with connect() as client:
        answer = client.patch(f"/v1/images/{name}/versions/{version}", {"floor": is_on})
    word = "is a floor" if is_on else "is no floor any more"
    print_answer(f"{name} {version} {word}.", answer, as_json=as_json)


@app.command("replicate")
def replicate(
    name: Name,
    version: Version,
    region: Annotated[
        list[str], typer.Option("--region", metavar="REGION", help="Region to bring it to; repeat.")
    ],
    as_json: Json = False,
) -> None:
    """Bring a version to regions; it counts as latest there once it is there."""
    with connect() as client:
        answer = client.post(f"/v1/images/{name}/versions/{version}/replicate", {"regions": region})
    print_answer(
        f"{name} {version} is being replicated to {', '.join(region)}.", answer, as_json=as_json
    )


def default_cache() -> Path:
    """Shared by all builds of this user; the system's own place for root."""
    if os.geteuid() == 0:
        return Path("/var/cache/upkeep")
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "upkeep"


def _build(
    name: str,
    version: str,
    out: Path,
    *,
    overlay: Path | None,
    packages: tuple[str, ...],
    form: Literal["tar", "qcow2"],
    with_agent: bool,
    cache: Path,
) -> Document:
    from upkeep.agent.pack import build_zipapp
    from upkeep.catalogue.build import build_image
    from upkeep.ports import DriverError

    try:
        cache.mkdir(parents=True, exist_ok=True)
        agent = build_zipapp(cache / "agent.pyz") if with_agent else None
        with step_lines(f"Building {name} {version}") as progress:
            built = build_image(
                name,
                version,
                out,
                overlay=overlay,
                packages=packages,
                agent=agent,
                format=form,
                cache=cache,
                progress=progress,
            )
    except DriverError as error:
        raise CommandFailed(
            ExitCode.FAILED, f"{out} was not built.", sentence(error.detail)
        ) from error
    except OSError as error:
        raise CommandFailed(
            ExitCode.FAILED,
            f"{out} was not built: {error}.",
            f"Look at the free space and the rights of {out.parent} and {cache}.",
        ) from error
    return {"path": str(built.path), "sha256": built.sha256, "size": built.size}


def _check_output(out: Path) -> None:
    """Found out before half a minute of work, not after it."""
    if not out.parent.is_dir():
        raise typer.BadParameter(f"the directory {out.parent} does not exist")
    if out.is_dir():
        raise typer.BadParameter(f"{out} is a directory; name a file")


def _digest(file: Path) -> tuple[str, int]:
    """SHA-256 and size; read with a bar, since gigabytes take seconds."""
    digest, size = hashlib.sha256(), 0
    try:
        with file.open("rb") as blob:
            with progress_bar(f"reading {file.name}", total=file.stat().st_size) as advance:
                while piece := blob.read(CHUNK_BYTES):
                    digest.update(piece)
                    size += len(piece)
                    advance(len(piece))
    except OSError as error:
        raise CommandFailed(
            ExitCode.FAILED,
            f"The file {file} cannot be read: {error.strerror}.",
            "Name a file that is there; `upkeep image build` makes one.",
        ) from error
    return digest.hexdigest(), size


def _set_excluded(
    name: str, version: str, regions: list[str] | None, *, excluded: bool
) -> Document:
    document: Document = {"excluded": excluded}
    if regions:
        document["regions"] = regions
    with connect() as client:
        return client.patch(f"/v1/images/{name}/versions/{version}", document)


def _where(regions: list[str] | None) -> str:
    return f" in {', '.join(regions)}" if regions else ""
