"""An interval for the ratio of two step times, and what it decides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist


@dataclass(frozen=True)
class RatioInterval:
    """The ratio of the step times of b and a, with a confidence interval for it.

    ratio:      time of b / time of a: 1.03 says that b is 3 % slower
    low, high:  limits of the two-sided interval, symmetric about ratio on the log scale
    confidence: of the interval, such as 0.95
    windows_a, windows_b: windows that were used
    repeats:    of the side with fewer. With one repeat the interval knows nothing of how launches
                of the same trainer differ from each other.
    """

    ratio: float
    low: float
    high: float
    confidence: float
    windows_a: int
    windows_b: int
    repeats: int


class Decision(Enum):
    """What an interval says of a tolerance."""

    PASS = "pass"
    FAIL_SLOWER = "fail: slower"
    FAIL_FASTER = "fail: faster"
    INCONCLUSIVE = "inconclusive"


def equivalence(interval: RatioInterval, tolerance: float) -> Decision:
    """Judge an interval against the region [1/(1 + tolerance), 1 + tolerance], limits included.

    PASS if the whole interval lies inside, FAIL if the whole of it lies outside, otherwise
    INCONCLUSIVE. Passing has to be shown as failing has: noise alone leads to neither. (Two
    one-sided tests: Schuirmann, J. Pharmacokinet. Biopharm. 1987. With a 95 % interval each of
    them is at 2.5 %.)

    Whoever looks again after more windows, up to k times, gives each interval the confidence
    1 - 0.05/k (Bonferroni): looking until it passes is not a test.
    """
    top = _upper_limit(tolerance)
    if interval.low > top:
        return Decision.FAIL_SLOWER
    if interval.high < 1 / top:
        return Decision.FAIL_FASTER
    if interval.low >= 1 / top and interval.high <= top:
        return Decision.PASS
    return Decision.INCONCLUSIVE


def smallest_detectable(interval: RatioInterval, tolerance: float, *, power: float = 0.95) -> float:
    """The smallest slowdown that would have been FAIL_SLOWER with probability `power`.

    As a fraction: 0.031 is 3.1 %. With this noise the interval has the half width h on the log
    scale, so a true slowdown s clears the limit with that probability if

        log(1 + s) = log(1 + tolerance) + h + z(power) · h / z((1 + confidence)/2)

    the minimum detectable effect of Bloom (Evaluation Review 1995), counted from the limit instead
    of from zero. A speed-up is caught from 1/(1 + s) on.
    """
    top = _upper_limit(tolerance)
    if not 0 < power < 1:
        raise ValueError(f"power must be between 0 and 1, not {power}")
    z = NormalDist().inv_cdf
    half = _log_half_width(interval)
    return top * math.exp(half * (1 + z(power) / z((1 + interval.confidence) / 2))) - 1


def windows_needed(
    interval: RatioInterval, tolerance: float, *, at_most: int = 1_000_000
) -> int | None:
    """How many more windows a side would decide, if ratio and scatter stay what they are.

    The half width h shrinks as 1/sqrt(windows). The n windows so far (of the side with fewer) have
    to become n · (h/d)², where d is the distance of the ratio from the nearer limit on the log
    scale. The new windows are to come in repeats like those so far. 0 if it is decided already;
    None if the ratio sits so close to a limit that more than `at_most` windows would be needed:
    that cannot be decided.
    """
    if equivalence(interval, tolerance) is not Decision.INCONCLUSIVE:
        return 0
    limit, ratio = math.log(_upper_limit(tolerance)), math.log(interval.ratio)
    distance = min(abs(ratio - limit), abs(ratio + limit))
    half = _log_half_width(interval)
    windows = min(interval.windows_a, interval.windows_b)
    # Compared as a product, so that a distance of zero is never divided by.
    if half * math.sqrt(windows) > distance * math.sqrt(windows + at_most):
        return None
    # Undecided by rounding alone still asks for one.
    return max(1, math.ceil(windows * (half / distance) ** 2) - windows)


def _log_half_width(interval: RatioInterval) -> float:
    return math.log(interval.high / interval.low) / 2


def _upper_limit(tolerance: float) -> float:
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"a tolerance is finite and positive, not {tolerance}")
    return 1 + tolerance
