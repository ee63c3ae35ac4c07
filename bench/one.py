"""Runs one bench in this process and prints its figures as JSON: `python -m bench.one plan`."""

import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module

from bench.figure import Figure
from bench.registry import BENCHES


def main(name: str) -> None:
    # As after Ctrl-C: servers, machines and bridges are taken down on the way out.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # Only the figures go to stdout, whatever a bench or its children print.
    figures_to = os.dup(1)
    os.dup2(2, 1)
    measure: Callable[[], list[Figure]] = import_module(f"bench.{name}").measure
    figures = measure()
    assert [figure.name for figure in figures] == list(BENCHES[name]), "see bench/registry.py"
    with os.fdopen(figures_to, "w") as stream:
        json.dump([figure.to_json() for figure in figures], stream)


if __name__ == "__main__":
    main(sys.argv[1])
