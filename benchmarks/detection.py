"""Is a slowdown of 3 % caught, and an equal pair never called slower?

`python benchmarks/detection.py [--trials N] [--share 0.03] [KEY=VALUE]...` runs an engine against
itself, windows in turns. Each trial is two such pairs, launched anew: one of equals, and one whose
second side is slowed down by that share of the time that the equals took. Prints each decision,
then both tables. A launch of a pair takes `timing.windows` × 2 × seconds per step, and the time to
start.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from harness.config.compose import load
from harness.config.settings import SeededFault
from harness.ladder.rungs.step_time import judge_launches
from harness.ladder.timed import Launches, by_host
from harness.report.progress import ConsoleReporter
from harness.run.plan import planner
from harness.run.timing import time_in_turns

QUIET = ConsoleReporter(Console(quiet=True))


def median_step(launches: Launches) -> float:
    """Median seconds per step of all windows of both sides."""
    timed = by_host(launches)
    return statistics.median(t for side in (timed.a, timed.b) for launch in side for t in launch)


def main() -> None:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.03)
    parser.add_argument("--engine", default="hf")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    engines = f"engines=[{options.engine},{options.engine}]"
    settings = load([engines, "tolerance.step_time=0.015", *options.overrides])
    sides = (planner(options.engine, QUIET.note),) * 2
    most = settings.timing.launches * settings.timing.rounds
    tables: dict[float, Counter[str]] = {0.0: Counter(), options.share: Counter()}
    for trial in range(options.trials):
        equals: Launches = ()
        for share, table in tables.items():
            faults: Sequence[SeededFault] = ()
            if share:
                seconds = share * median_step(equals)
                faults = [SeededFault("slowdown", {"seconds": round(seconds, 6)})]
            launches = time_in_turns(sides, settings, QUIET, faults, first_launch=trial * most)
            equals = equals or launches
            result = judge_launches(launches, settings.tolerance, settings.timing.rounds)
            table[result.result.value] += 1
            print(
                f"trial {trial + 1}, {share:.0%} slower, a step takes "
                f"{median_step(launches) * 1e3:.1f} ms: {result.result.value}: "
                f"{result.explanation}",
                flush=True,
            )
    for share, table in tables.items():
        print(f"{share:.0%} slower: {dict(table)} of {options.trials} trials", flush=True)


if __name__ == "__main__":
    main()
