"""Runs every bench, prints each figure, and writes them all as JSON.

python -m bench --json bench.json [NAME ...]
"""

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from bench.figure import Figure

# In order of cost; each module has `measure() -> list[Figure]`.
BENCHES = ("plan", "tick", "checkins", "roll")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(BENCHES)}; all by default")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    figures: list[Figure] = []
    for name in arguments.names or BENCHES:
        if name not in BENCHES:
            parser.error(f"there is no bench {name!r}; there are {', '.join(BENCHES)}")
        measure: Callable[[], list[Figure]] = import_module(f"bench.{name}").measure
        for figure in measure():
            sign = "≤" if figure.bound == "at_most" else "≥"
            verdict = "holds" if figure.holds else "DOES NOT HOLD"
            print(
                f"{figure.name:32} {figure.value:12.3f} {figure.unit:8} "
                f"{sign} {figure.budget:g}  {verdict}",
                flush=True,
            )
            figures.append(figure)
    if arguments.json:
        arguments.json.write_text(json.dumps([f.to_json() for f in figures], indent=2) + "\n")
    return 0


sys.exit(main())
