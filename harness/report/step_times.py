"""Step times of one run as a report shows them: the median, and how well its windows tell it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.record.evidence import Record

CONFIDENCE = 0.95
"""Of the interval around a median."""


@dataclass(frozen=True)
class MedianInterval:
    """The median of some samples, with a confidence interval.

    low, high: its limits; None where there are too few samples for any
    samples:   their number
    """

    median: float
    low: float | None
    high: float | None
    samples: int


def median_interval(samples: Sequence[float]) -> MedianInterval:
    """The median with an interval between two order statistics, free of any distribution.

    Of n samples, the k-th smallest and the k-th largest have the median between them but for twice
    the probability that fewer than k of n fair coins show heads (David and Nagaraja, "Order
    statistics", 3rd ed., 7.1). It holds for windows that are independent of each other.

    Raises ValueError where there is no sample.

    >>> median_interval([1, 2, 3, 4, 5, 6])
    MedianInterval(median=3.5, low=1, high=6, samples=6)
    """
    ordered = sorted(samples)
    count = len(ordered)
    outside, k = 0.0, 0
    while k < count // 2:
        outside += math.comb(count, k) / 2**count
        if 2 * outside > 1 - CONFIDENCE:
            break
        k += 1
    low, high = (ordered[k - 1], ordered[count - k]) if k else (None, None)
    return MedianInterval(statistics.median(ordered), low, high, count)


def step_times(record: Record) -> MedianInterval | None:
    """Seconds a step of a run's steady windows; None where it has none."""
    samples = [window.seconds / window.steps for window in record.steady_windows]
    good = [seconds for seconds in samples if math.isfinite(seconds) and seconds > 0]
    return median_interval(good) if good else None
