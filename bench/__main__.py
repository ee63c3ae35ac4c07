"""Runs the benches, one after another, and writes their figures as JSON.

    python -m bench --json bench.json      all of them, about ten minutes, as root
    python -m bench --only plan            one bench, or one figure by its name

What is happening goes to stderr, the figures to stdout.  Exit code 1: something could not be
measured.  A budget that does not hold is in the figure's `holds`, and fails only with --strict: on
a machine that others use a single time says little.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.registry import BENCHES, benches_named

ROOT = Path(__file__).parents[1]


def run(name: str) -> list[dict[str, Any]]:
    """One bench in a process of its own, so that none finds the memory of another.

    Raises:
        subprocess.CalledProcessError: it failed; its words are on stderr.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.one", name],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures: list[dict[str, Any]] = json.loads(done.stdout)
    return figures


def line(figure: dict[str, Any]) -> str:
    sign = "≤" if figure["bound"] == "at_most" else "≥"
    verdict = "holds" if figure["holds"] else "DOES NOT HOLD"
    return (
        f"{figure['name']:28} {figure['value']:12,.3f} {figure['unit']:6} "
        f"{sign} {figure['budget']:<8g} {verdict}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument(
        "--only", metavar="NAME", action="append", default=[],
        help=f"a bench or a figure; repeat.  Benches: {', '.join(BENCHES)}",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="fail if a budget does not hold")
    given = parser.parse_args(arguments)
    try:
        names = benches_named(given.only)
    except KeyError as error:
        parser.error(str(error.args[0]))
    figures: list[dict[str, Any]] = []
    failed = []
    for name in names:
        begun = time.monotonic()
        print(f"bench {name} ...", file=sys.stderr, flush=True)
        try:
            found = run(name)
        except subprocess.CalledProcessError:
            failed.append(name)
            print(f"bench {name} could not be run, see above", file=sys.stderr, flush=True)
            continue
        figures += found
        for figure in found:
            print(line(figure), flush=True)
        took = time.monotonic() - begun
        print(f"bench {name} took {took:.0f} s", file=sys.stderr, flush=True)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    missed = [figure["name"] for figure in figures if not figure["holds"]]
    if missed:
        print(f"over budget: {', '.join(missed)}", file=sys.stderr)
    return 1 if failed or (missed and given.strict) else 0


if __name__ == "__main__":
    sys.exit(main())
