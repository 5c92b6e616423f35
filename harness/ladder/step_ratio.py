"""How many times as long as the other's does one trainer's step take? Estimates and intervals.

A sample is one number per timing window: seconds per optimizer step. Samples come as pairs of
launches, one of either trainer, each with its windows. All functions are pure.

*On the log scale*, so that b/a and a/b are judged alike: swapping the trainers inverts the ratio
and its interval.

*A launch is one observation.* Two launches of one trainer differ, by 1 % on a quiet CPU mesh, for
reasons that hold as long as the process lives: where its memory lies, on which cores its threads
run. No number of windows within one launch shows that. So each pair of launches gives one log
ratio, and the interval is Student's over these (Georges, Buytaert and Eeckhout, OOPSLA 2007;
Kalibera and Jones, ISMM 2013). Whatever correlates the windows of a launch, noise that lasts
included, is inside the one number that the launch gives, and cannot make the interval too narrow.

*In pairs.* Launch i of a and launch i of b are neighbours in time, and where both are alive at once
and work in turns so are their windows: what both saw cancels in their ratio (Fleming and Wallace,
CACM 1986).

*Within a launch, by the midmean*, the mean of the middle half. It ignores spikes in up to a quarter
of the windows on either side, and needs fewer windows than the median where the noise is normal
(efficiency 0.84 against 0.64: Rosenberger and Gasko in Hoaglin, Mosteller and Tukey, "Understanding
robust and exploratory data analysis", 1983). What happens in fewer than one window in four it does
not see; `mean_ratio` does, and `harness.ladder.equivalence` passes nothing without it.

benchmarks/coverage.py simulates how often the intervals hold the true ratio; docs/findings/
step-time.md has the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

Samples = Sequence[Sequence[float]]
"""Seconds per step: a sequence of windows for each launch."""

LogRatio = Callable[[Sequence[float], Sequence[float]], float]
"""The log of one launch's ratio, time of b over time of a, from the windows of both."""

STALL = 1.5
"""A window that takes more than this many times the median window of its launch is a stall."""


@dataclass(frozen=True)
class RatioInterval:
    """The ratio of the step times of b and a, with a confidence interval for it.

    ratio:      time of b / time of a: 1.03 says that b is 3 % slower
    low, high:  limits of the two-sided interval, symmetric about ratio on the log scale
    confidence: of the interval, such as 0.95
    launches:   pairs of launches that it rests on
    """

    ratio: float
    low: float
    high: float
    confidence: float
    launches: int

    @property
    def half_width(self) -> float:
        """Half of its width on the log scale."""
        return math.log(self.high / self.ratio)


def ratio_interval(
    a: Samples, b: Samples, log_ratio: LogRatio, *, confidence: float = 0.95
) -> RatioInterval:
    """Time of b / time of a, and how well the launches tell it: log ratio ± t · s / sqrt(launches).

    log_ratio: how a pair of launches gives its ratio

    One launch gives the ratio with an interval from 0 to infinity: it says nothing of how launches
    differ. Raises ValueError where a sample is missing, not finite or not positive, or where the
    launches are not in pairs.

    >>> ratio_interval([[1.0], [1.0]], [[1.02], [1.04]], midmean_ratio).launches
    2
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    check_samples("a", a)
    check_samples("b", b)
    if len(a) != len(b):
        raise ValueError(f"launches come in pairs, not {len(a)} of a and {len(b)} of b")
    logs = [log_ratio(x, y) for x, y in zip(a, b, strict=True)]
    located, half = fmean(logs), math.inf
    if len(logs) > 1:
        half = t_quantile(confidence, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return RatioInterval(
        math.exp(located), _exp(located - half), _exp(located + half), confidence, len(logs)
    )


def midmean_ratio(x: Sequence[float], y: Sequence[float]) -> float:
    """Log ratio of the midmeans of windows that were not run in turns."""
    return midmean([math.log(w) for w in y]) - midmean([math.log(w) for w in x])


def midmean_of_ratios(x: Sequence[float], y: Sequence[float]) -> float:
    """Midmean of the log ratios of windows in turns: window j of both are neighbours in time.

    Raises ValueError where they are not in pairs: leave a window out on both sides or on none.
    """
    return midmean([math.log(q / p) for p, q in zip(x, y, strict=True)])


def mean_ratio(x: Sequence[float], y: Sequence[float]) -> float:
    """Log ratio of the plain means, outliers included."""
    return math.log(fmean(y) / fmean(x))


def winsorised_mean_ratio(x: Sequence[float], y: Sequence[float]) -> float:
    """Log ratio of the means, where no window counts for more than `STALL` medians of its launch.

    A trainer that is slow in every tenth step is slower all the same, and a midmean does not see
    it. A plain mean does, until one spike of the machine makes it say nothing (Tukey, 1962).
    """
    means = []
    for windows in (x, y):
        most = STALL * median(windows)
        means.append(fmean(min(w, most) for w in windows))
    return math.log(means[1] / means[0])


def midmean(values: Sequence[float]) -> float:
    """The mean of the middle half; a value on its edge counts with the part that lies inside.

    >>> midmean([1, 2, 4, 90])
    3.0
    """
    cut, outside = divmod(len(values), 4)
    inner = sorted(values)[cut : len(values) - cut]
    total = math.fsum(inner) - outside / 4 * (inner[0] + inner[-1])
    return total / (len(values) / 2)


def t_quantile(confidence: float, freedom: int) -> float:
    """The t that Student's |T| of `freedom` (≥ 1) degrees of freedom exceeds in 1 - confidence.

    >>> round(t_quantile(0.95, 2), 4)
    4.3027
    """
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        if _within(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """P(|T| ≤ sqrt(freedom) · tan(angle)), as a finite sum.

    Abramowitz and Stegun, "Handbook of mathematical functions", 26.7.3 and 26.7.4.
    """
    cosine = math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= (k - 1) / k * cosine * cosine
    within = math.sin(angle) * total
    return 2 / math.pi * (angle + within) if odd else within


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def check_samples(name: str, launches: Samples) -> None:
    """Raise ValueError, counting launches and windows from 0, for a sample that is no time."""
    if not launches:
        raise ValueError(f"{name} has no launches")
    for i, windows in enumerate(launches):
        if not windows:
            raise ValueError(f"launch {i} of {name} has no windows")
        for j, seconds in enumerate(windows):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(
                    f"window {j} of launch {i} of {name} is {seconds}: step times are finite and "
                    "positive"
                )
