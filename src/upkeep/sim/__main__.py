"""`python -m upkeep.sim --seeds 1..50`: the same as `upkeep simulate`."""

import sys

from upkeep.sim.command import main

if __name__ == "__main__":
    sys.exit(main())
