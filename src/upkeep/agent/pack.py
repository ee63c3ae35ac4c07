"""Makes the agent's one file, `agent.pyz`, from this package's sources.

Equal sources give equal bytes: names sorted, times fixed, nothing compressed (what zlib makes
differs between its versions).  This module itself stays out of the file.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

INTERPRETER = b"#!/usr/bin/env python3\n"
FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # The earliest a zip file can say.

# Must be readable by any Python that people may have, to say what is wrong with it.
MAIN = """\
import sys

if sys.version_info < (3, 9):
    sys.exit("the upkeep agent needs Python 3.9 or newer, this is %s" % sys.version.split()[0])
try:
    from upkeep.agent.__main__ import main
except ImportError as error:
    sys.exit(
        "this Python lacks a part of its standard library (%s): install the package python3,"
        " python3-minimal is not enough" % error
    )
sys.exit(main())
"""


def build_zipapp(out: Path) -> Path:
    """Writes `agent.pyz` to `out`, whole or not at all; returns `out`."""
    package = Path(__file__).parent
    members = {"__main__.py": MAIN.encode(), "upkeep/__init__.py": b""}
    for source in package.glob("*.py"):
        if source.name != Path(__file__).name:
            members[f"upkeep/agent/{source.name}"] = source.read_bytes()
    temporary = out.with_name(f"{out.name}.{os.getpid()}.new")
    try:
        with temporary.open("wb") as file:
            file.write(INTERPRETER)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name in sorted(members):
                    info = zipfile.ZipInfo(name, FIXED_TIME)
                    info.create_system = 3  # Unix, wherever it is built.
                    info.external_attr = 0o100644 << 16
                    archive.writestr(info, members[name])
        temporary.chmod(0o755)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return out
