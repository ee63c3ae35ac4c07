"""`python -m upkeep.sim`: see command.py."""

import sys

from upkeep.sim.command import main

sys.exit(main())
