"""The agent: what runs on every machine.

Standard library only, Python 3.9 or newer, imports nothing of upkeep outside this package, so
that `pack.py` can make one file of it.  `docs/agent.md` is its manual, `docs/agent-protocol.md`
what it says to the server.
"""

from __future__ import annotations

VERSION = "0.1.0"  # Sent with every request; a test holds it equal to the project's.
