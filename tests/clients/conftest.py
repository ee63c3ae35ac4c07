"""Azure's own clients, each in an environment of its own, made from a lock with digests.

An environment is kept in the cache directory under its lock's digest, so it is made once a machine.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from upkeep.demo.stage import CACHE

ROOT = Path(__file__).parents[2]
# The platforms of the contract suite are those of these tests.
sys.path.insert(0, str(ROOT / "tests" / "contract"))


def client_python(lock: str) -> Path:
    """The Python that has what the lock names."""
    file = ROOT / "requirements" / lock
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    folder = CACHE / "clients" / f"{file.stem}-{digest}"
    ready = folder / "ready"
    if not ready.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [
                str(folder / "bin/python"), "-m", "pip", "install", "--quiet",
                "--disable-pip-version-check", "--require-hashes", "-r", str(file),
            ],
            check=True,
            env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
        ready.touch()
    return folder / "bin/python"


@pytest.fixture(scope="module", params=["client-compute.lock", "client-compute-2020.lock"])
def compute_python(request: pytest.FixtureRequest) -> Path:
    """The newest SDK, and the last one of May 2020: another login, other operations and errors."""
    return client_python(request.param)
