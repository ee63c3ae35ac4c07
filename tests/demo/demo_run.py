"""One run of `upkeep demo` in a process of its own, as a newcomer would start it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_demo(file: Path, *options: str, timeout_s: float) -> tuple[dict[str, Any], str]:
    """What it wrote to `file`, and what it said to people; it must end with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "upkeep", "demo", *options, "--exit", "--json", str(file)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, Any] = json.loads(file.read_text())
    return document, done.stderr
