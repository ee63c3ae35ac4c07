"""One server and one set of images for every module here: each brings its own group."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The platforms of the contract suite are those of these tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))

from tests.machines.real_fleet import RealFleet, real_fleet

# Counts its runs on the data volume, and ends when the test lets it, or after a minute.
DRAIN_HOOK = """\
#!/bin/sh
echo run >>/data/drained
for second in $(seq 600); do
    [ -e /data/drain-may-end ] && exit 0
    sleep 0.1
done
"""
# Ill to whoever asks from inside the machine, and well to everybody else.
ILL_INSIDE = """\
    def do_GET(self) -> None:
        if self.client_address[0] == "127.0.0.1" and Path("/data/ill-inside").exists():
            self.send_error(503)
            return
"""


def add_hooks(overlay: Path) -> None:
    hook = overlay / "etc/upkeep/drain"
    hook.parent.mkdir(parents=True, exist_ok=True)
    hook.write_text(DRAIN_HOOK)
    hook.chmod(0o755)
    app = overlay / "usr/lib/demo/app.py"
    source = app.read_text()
    begins = "    def do_GET(self) -> None:\n"
    assert source.count(begins) == 1
    app.write_text(source.replace(begins, ILL_INSIDE))


@pytest.fixture(scope="session")
def site() -> Iterator[RealFleet]:
    with real_fleet(prepare=add_hooks) as fleet:
        yield fleet
