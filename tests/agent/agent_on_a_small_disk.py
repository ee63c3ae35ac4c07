"""The agent with its state on a disk of 256 KiB: `agent_on_a_small_disk.py STATE [ARGUMENTS]`.

To be started in a mount namespace of its own, with which the disk goes away.
"""

import subprocess
import sys

from upkeep.agent.__main__ import main

state, *arguments = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", state], check=True)
sys.exit(main(["run", f"--state-dir={state}", *arguments]))
