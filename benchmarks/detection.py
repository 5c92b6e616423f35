"""Is a slowdown of 3 % caught, and an equal pair never called slower?

`python benchmarks/detection.py [--trials N] [--share 0.03] [KEY=VALUE]...` runs an engine against
itself, windows in turns, N times with a slowdown seeded into one side and N times without, and
prints each decision. 20 trials of each take a long time: windows × seconds per step × 80.
"""

from __future__ import annotations

import argparse
from collections import Counter

from rich.console import Console

from harness.ladder.comparison import Comparison
from harness.ladder.speed import step_time
from harness.measuring import time_in_turns
from harness.report.progress import ConsoleReporter
from harness.settings import load

QUIET = ConsoleReporter(Console(quiet=True))


def main() -> None:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.03)
    parser.add_argument("--engine", default="hf")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    names = (options.engine, options.engine)
    for share in (options.share, 0.0):
        results: Counter[str] = Counter()
        for trial in range(options.trials):
            settings = load(
                [
                    f"engines=[{names[0]},{names[1]}]",
                    "tolerance.step_time=0.015",
                    *options.overrides,
                ]
            )
            seeded = [{"name": "slowdown", "arguments": {"share": share}}] if share else []
            pairs = time_in_turns(names, settings, QUIET, faults=seeded, first_launch=trial)
            a, b = pairs[0]
            comparison = Comparison(
                a, b, settings.tolerance, timing=pairs, looks=settings.timing.looks
            )
            result = step_time(comparison)
            results[result.result.value] += 1
            print(f"slowdown {share:.0%}, trial {trial + 1}: {result.result.value}: "
                  f"{result.explanation}", flush=True)  # fmt: skip
        print(f"slowdown {share:.0%}: {dict(results)} of {options.trials} trials", flush=True)


if __name__ == "__main__":
    main()
