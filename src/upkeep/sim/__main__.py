"""`python -m upkeep.sim --seeds 1..50`: the same as `upkeep simulate`."""

import argparse
import sys

from upkeep.sim.command import SeedsError, parse_seeds, simulate


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="upkeep simulate", description=__doc__)
    parser.add_argument("--seeds", "--seed", default="1..50", help="one (7) or many (1..50)")
    parser.add_argument("--machines", type=int, help="fixed number of machines in each world")
    parser.add_argument("--days", type=int, help="fixed number of days with faults")
    parser.add_argument("--bad-versions", action="store_true", help="measure blame")
    parser.add_argument("--processes", type=int, default=0, help="0: one for each core")
    parser.add_argument("--no-table", action="store_true", help="leave the table of faults out")
    parser.add_argument("--verbose", action="store_true", help="a line for each world")
    given = parser.parse_args(arguments)
    try:
        seeds = parse_seeds(given.seeds)
    except SeedsError as error:
        parser.error(str(error))
    return simulate(
        seeds=seeds,
        machines=given.machines,
        days=given.days,
        bad_versions=given.bad_versions,
        processes=given.processes,
        table=not given.no_table,
        verbose=given.verbose,
    )


if __name__ == "__main__":
    sys.exit(main())
