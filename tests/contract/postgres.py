"""A PostgreSQL of the tests' own: a cluster in a temporary directory, on a socket, as `postgres`.

Debian's package starts nothing here; its binaries are used as they are.
"""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

BINARIES = Path("/usr/lib/postgresql")

# Sorted as people sort (`_` before digits), as on most servers, and not by code point: whoever
# leaves an order to the database finds out here.
LANGUAGE = ("--encoding=UTF8", "--locale-provider=icu", "--icu-locale=en-US")


def find_binaries() -> Path:
    """The newest installed server's directory of programs."""
    found = sorted(BINARIES.glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    if not found:
        raise RuntimeError("PostgreSQL is missing: run `make setup` (Debian's package postgresql)")
    return found[-1].parent


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """A running server's SQLAlchemy URL, for as long as the block lasts."""
    binaries = find_binaries()
    folder = Path(tempfile.mkdtemp(prefix="upkeep-postgres-"))
    shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"
    as_postgres = ["runuser", "-u", "postgres", "--"]
    try:
        subprocess.run(
            [*as_postgres, binaries / "initdb", "-D", data, "--auth=trust", "--no-sync",
             *LANGUAGE],
            check=True, capture_output=True, cwd="/",
        )  # fmt: skip
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        control = [*as_postgres, binaries / "pg_ctl", "-D", data, "-w"]
        subprocess.run(
            [*control, "-l", folder / "log", "-o", options, "start"],
            check=True, capture_output=True, cwd="/",
        )  # fmt: skip
        try:
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True,
                           cwd="/")  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
