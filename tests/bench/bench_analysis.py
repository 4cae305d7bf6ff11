"""How often a method rolls back a good release, and how soon a bad one: Tidegate and others, on simulated rollouts.

    python tests/bench/bench_analysis.py --grid public [--replicates 400] [--jobs 2] [--sizes S M]
                                      [--scenarios mod "err x2"] [--only null|fault] [--only-tidegate] [--json FILE]

`--grid` is public, validation, bluegreen, or the path of a TOML file (docs/simulation.md). Prints the tables and a summary
line for each method; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded: each cell has a process of its own

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import other_methods
from tidegate.errors import TidegateError
from tidegate.simulation import compare, grids


def options() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="public")
    parser.add_argument("--replicates", type=int)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--sizes", nargs="+", default=[])
    parser.add_argument("--scenarios", nargs="+", default=[])
    parser.add_argument("--only", choices=["null", "fault"])
    parser.add_argument("--only-tidegate", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the cells to this file")
    return parser.parse_args()


def main() -> int:
    """Run and print."""
    chosen = options()
    run_options = compare.RunOptions(
        replicates=chosen.replicates,
        jobs=chosen.jobs,
        only=chosen.only,
        sizes=frozenset(chosen.sizes),
        scenarios=frozenset(chosen.scenarios),
    )
    begun = time.monotonic()
    try:
        result = compare.compare(
            grids.load_grid(chosen.grid),
            run_options,
            lambda text: print(text, file=sys.stderr),
            {} if chosen.only_tidegate else other_methods.METHODS,
            {} if chosen.only_tidegate else other_methods.SWITCH_METHODS,
        )
    except TidegateError as error:
        raise SystemExit(error.message) from error
    print(f"{result.text()}\n\n({time.monotonic() - begun:.0f} s)")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(result.rows(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
