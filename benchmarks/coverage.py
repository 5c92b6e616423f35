"""How often do the intervals of step times hold the true ratio, and what do they decide?

`python benchmarks/coverage.py [--trials 2000] [--workers 1]` simulates launches of two trainers and
judges them as the rung does, for one and for five rounds, and prints a table in Markdown: the share
of PASS, FAIL and INCONCLUSIVE, and of intervals that hold the true ratio. `--defaults` prints the
one from which the defaults of `timing.launches` and `timing.rounds` follow. Nothing is launched.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from harness.ladder.equivalence import APART, Decision, judge_samples

TOLERANCE = 0.015
WINDOWS = 50
"""The default of `timing.windows`."""
LAUNCH = 0.01
"""Standard deviation of the ratio of two equal launches: measured on a quiet CPU mesh."""
WINDOW = 0.03
"""Standard deviation of one window's time."""
RHO = 0.8
"""Correlation of neighbouring windows of noise that lasts."""
SPIKES = 0.03
"""Share of windows, on either side, that take two to ten times as long."""


@dataclass(frozen=True)
class Cell:
    """What one cell of the table simulates.

    launches: of either side in each round
    apart:    by how much b is slower
    noise:    of windows: "none", "white", "lasting" or "spikes"
    rounds:   rounds at most, each of as many launches more
    scatter:  standard deviation of the ratio of two equal launches
    """

    launches: int
    apart: float
    noise: str
    rounds: int
    tolerance: float = TOLERANCE
    scatter: float = LAUNCH


@dataclass(frozen=True)
class Shares:
    """What came of the trials of a cell, as shares; the mean number of launches that were made."""

    passed: float
    failed: float
    inconclusive: float
    covered: float
    launches: float


def side(rng: np.random.Generator, cell: Cell, level: float) -> list[list[float]]:
    """All launches of one side, whose time is `level` on the log scale."""
    shape = cell.launches * cell.rounds, WINDOWS
    wander = rng.normal(0, 0 if cell.noise == "none" else WINDOW, shape)
    if cell.noise == "lasting":  # an AR(1) process of the same standard deviation
        for i in range(1, WINDOWS):
            wander[:, i] = RHO * wander[:, i - 1] + math.sqrt(1 - RHO**2) * wander[:, i]
    seconds = np.exp(level + rng.normal(0, cell.scatter / math.sqrt(2), (shape[0], 1)) + wander)
    if cell.noise == "spikes":
        seconds *= np.where(rng.random(shape) < SPIKES, rng.uniform(2, 10, shape), 1)
    launches: list[list[float]] = seconds.tolist()
    return launches


def trial(rng: np.random.Generator, cell: Cell) -> tuple[Decision, bool, int]:
    """What one comparison came to, whether its last interval holds the truth, and its launches."""
    a, b = side(rng, cell, 0.0), side(rng, cell, math.log1p(cell.apart))
    for made in range(cell.launches, len(a) + 1, cell.launches):
        judged = judge_samples(
            a[:made], b[:made], cell.tolerance, in_turns=True, rounds=cell.rounds
        )
        if judged.decision is not Decision.INCONCLUSIVE:
            break
    located = judged.located
    return judged.decision, located.low <= 1 + cell.apart <= located.high, located.launches


def simulate(cell: Cell, trials: int) -> Shares:
    """All trials of a cell; the same cell gives the same numbers."""
    rng = np.random.default_rng([cell.launches, round(1000 * cell.apart), cell.rounds])
    found = [trial(rng, cell) for _ in range(trials)]
    decisions = [decision for decision, _, _ in found]
    return Shares(
        decisions.count(Decision.PASS) / trials,
        sum(decision in APART for decision in decisions) / trials,
        decisions.count(Decision.INCONCLUSIVE) / trials,
        statistics.fmean(held for _, held, _ in found),
        statistics.fmean(made for _, _, made in found),
    )


def row(cell: Cell, shares: Shares) -> str:
    """One line of the table."""
    truth = f"{cell.apart:.0%} slower" if cell.apart else "equal"
    numbers = (shares.passed, shares.failed, shares.inconclusive, shares.covered)
    cells = [cell.launches, cell.rounds, cell.noise, truth, *(f"{100 * n:.1f} %" for n in numbers)]
    return "| " + " | ".join(map(str, [*cells, f"{shares.launches:.1f}"])) + " |"


def print_shares(trials: int, workers: int) -> None:
    """Print what comes of each number of launches and rounds under each noise."""
    cells = [
        Cell(launches, apart, noise, rounds)
        for rounds, launches, noise, apart in itertools.product(
            (1, 5), (1, 3, 5, 8), ("white", "lasting", "spikes"), (0.0, 0.03)
        )
    ]
    print("| launches | rounds | noise | truth | PASS | FAIL | INCONCLUSIVE | covered | made |")
    print("| --- " * 9 + "|")
    with ProcessPoolExecutor(workers) as pool:
        results = pool.map(simulate, cells, itertools.repeat(trials))
        for cell, shares in zip(cells, results, strict=True):
            print(row(cell, shares), flush=True)


def print_defaults(trials: int) -> None:
    """Print the share of equal pairs that PASS by launches and rounds, and the launches made."""
    given = [(0.03, 0.003), (0.03, 0.006), (0.03, 0.01), (0.015, 0.006), (0.015, 0.01)]
    heads = (f"{tolerance:.1%} of launches that differ by {by:.1%}" for tolerance, by in given)
    print(f"| launches × rounds | {' | '.join(heads)} |")
    print("| --- " * (len(given) + 1) + "|")
    for launches, rounds in ((3, 1), (5, 1), (8, 1), (3, 2), (3, 5)):
        found = [simulate(Cell(launches, 0.0, "none", rounds, *of), trials) for of in given]
        shown = " | ".join(f"{shares.passed:.1%} ({shares.launches:.1f})" for shares in found)
        print(f"| {launches} × {rounds} | {shown} |", flush=True)


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--defaults", action="store_true")
    options = parser.parse_args()
    if options.defaults:
        print_defaults(options.trials)
    else:
        print_shares(options.trials, options.workers)


if __name__ == "__main__":
    main()
