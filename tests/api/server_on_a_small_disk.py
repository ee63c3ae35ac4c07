"""The real server on a disk of a few MiB: `server_on_a_small_disk.py DIRECTORY PORT`.

To be started in a mount namespace of its own, with which the disk goes away.
"""

import subprocess
import sys
from pathlib import Path

from upkeep.server import main as server_main
from upkeep.server.settings import ServerSettings

DISK = "6m"


def main(state: Path, port: int) -> int:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", str(state)], check=True
    )
    server_main.log_to_stderr()
    return server_main.serve(
        ServerSettings(
            state_dir=str(state),
            listen=(f"127.0.0.1:{port}",),
            advertise=f"https://127.0.0.1:{port}",
            platforms=("agent_only",),
            allow_local_probes=True,
        )
    )


sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
