"""Makes a small disk full, and makes room on it again."""

from pathlib import Path


def fill(folder: Path) -> None:
    """Until not a byte fits."""
    with (folder / "ballast").open("ab", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError:
                return


def make_room(folder: Path) -> None:
    (folder / "ballast").unlink()
