"""Where one more value of a series is expected, and when that has to move: by evidence alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.ladder.step_ratio import t_quantile

CONFIDENCE = 0.99
"""Of a bound: one run in a hundred that is like those before it is beyond."""

FEWEST = 3
"""Runs from which on their spread tells anything: a bound rests on as many, and moves by as many
that are beyond it on the same side, one after the other."""

ROUNDING = 1e-9
"""Relative: what a logarithm and back takes from equal numbers, whose bound has no width."""


@dataclass(frozen=True)
class Bound:
    """The interval in which one more run of this kind is expected.

    runs: how many it rests on
    """

    low: float
    high: float
    runs: int

    def side(self, value: float) -> int:
        """-1 for a value below it, 1 for one above it, 0 within."""
        if value < self.low * (1 - ROUNDING):
            return -1
        return 1 if value > self.high * (1 + ROUNDING) else 0


@dataclass(frozen=True)
class Judged:
    """One value of a series against the bound of those before.

    bound: None where these are too few
    side:  of the bound; 0 where there is none
    moves: the bound is anew from here on: this many runs in a row, this one the last, were beyond
           it on one side; 0 where it stays
    """

    value: float
    bound: Bound | None
    side: int = 0
    moves: int = 0


def bound(values: Sequence[float]) -> Bound | None:
    """Where one more value is expected, by Student's prediction interval of their logarithms.

    mean ± t · s · sqrt(1 + 1/n) (Hahn and Meeker, "Statistical intervals", 4.4). None for fewer
    than `FEWEST` values. They are positive.
    """
    if len(values) < FEWEST:
        return None
    logs = [math.log(value) for value in values]
    half = t_quantile(CONFIDENCE, len(logs) - 1) * statistics.stdev(logs)
    half *= math.sqrt(1 + 1 / len(logs))
    middle = statistics.fmean(logs)
    return Bound(math.exp(middle - half), math.exp(middle + half), len(values))


def judged(values: Iterable[float | None]) -> list[Judged | None]:
    """Each value of a series in the order of time; None for one that is missing.

    A value that is beyond the bound does not widen it. Once `FEWEST` in a row are beyond on one
    side, that is where the runs are now: the bound rests on them from then on.

    >>> [j and j.side for j in judged([2.0, 2.0, 2.0, 3.0, 2.0, None, 3.0, 3.0, 3.0, 3.0])]
    [0, 0, 0, 1, 0, None, 1, 1, 1, 0]
    """
    found: list[Judged | None] = []
    within: list[float] = []
    beyond: list[float] = []
    last = 0
    for value in values:
        if value is None or not (math.isfinite(value) and value > 0):
            found.append(None)
            continue
        known = bound(within)
        side = 0 if known is None else known.side(value)
        beyond = [*(beyond if side == last else []), value] if side else []
        last = side
        moves = len(beyond) if len(beyond) == FEWEST else 0
        found.append(Judged(value, known, side, moves))
        if moves:
            within, beyond, last = beyond, [], 0
        elif not side:
            within.append(value)
    return found
