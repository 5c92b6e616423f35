"""What an interval for the ratio of two step times decides, and what would decide it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from harness.ladder.step_ratio import (
    STALL,
    LogRatio,
    RatioInterval,
    Samples,
    mean_ratio,
    midmean_of_ratios,
    midmean_ratio,
    ratio_interval,
    t_quantile,
    winsorised_mean_ratio,
)

FEWEST_LAUNCHES = 3
"""Pairs of launches that decide anything. From two, an interval of 95 % is 12.7 standard errors to
either side, and the standard error itself rests on a single difference."""

MOST_LAUNCHES = 100
"""What would take more launches than this cannot be decided."""

POWER = 0.95
"""Probability with which a PASS says that it would have caught a slowdown."""

WINSORISED = f"winsorised mean (no window counted for more than {STALL} medians)"


class Decision(Enum):
    """What an interval says of a tolerance."""

    PASS = "pass"
    FAIL_SLOWER = "fail: slower"
    FAIL_FASTER = "fail: faster"
    INCONCLUSIVE = "inconclusive"


APART = (Decision.FAIL_SLOWER, Decision.FAIL_FASTER)
"""What an interval says that lies outside of the tolerance as a whole."""


@dataclass(frozen=True)
class EquivalenceResult:
    """What the samples of two trainers say of a tolerance.

    decision: on the whole
    located:  the ratio that it is about
    why:      what is missing, where it is INCONCLUSIVE
    """

    decision: Decision
    located: RatioInterval
    why: str = ""


def confidence_of_round(rounds: int) -> float:
    """Confidence of each interval of up to `rounds` rounds: 1 - 0.05/rounds (Bonferroni).

    Judging again until it passes is not a test.
    """
    return 1 - 0.05 / rounds


def locate(a: Samples, b: Samples, *, in_turns: bool, rounds: int = 1) -> RatioInterval:
    """The ratio of the step times, by the midmean; `in_turns` says that the windows were."""
    return _interval(a, b, midmean_of_ratios if in_turns else midmean_ratio, rounds)


def judge_samples(
    a: Samples, b: Samples, tolerance: float, *, in_turns: bool, rounds: int = 1
) -> EquivalenceResult:
    """Are the step times within `tolerance` of each other?

    Fewer than `FEWEST_LAUNCHES` decide nothing. The midmean is blind to what happens in fewer than
    one window in four. So it fails by itself, but passes only where the winsorised mean is shown to
    be within the tolerance too, and where no mean is shown to lie beyond it.
    """
    located = locate(a, b, in_turns=in_turns, rounds=rounds)
    if located.launches < FEWEST_LAUNCHES:
        return EquivalenceResult(Decision.INCONCLUSIVE, located, _too_few(located.launches))
    decision = equivalence(located, tolerance)
    if decision in APART:
        return EquivalenceResult(decision, located)
    mean, winsorised = (_interval(a, b, by, rounds) for by in (mean_ratio, winsorised_mean_ratio))
    for name, interval in (("mean", mean), (WINSORISED, winsorised)):
        beside = not located.low <= interval.ratio <= located.high  # else but decided sooner
        if beside and equivalence(interval, tolerance) in APART:
            why = f"but its {name} is {interval.ratio:.3g} × as long: some windows stall, but none "
            why += "by half in every launch of one side alone"
            return EquivalenceResult(Decision.INCONCLUSIVE, located, why)
    if decision is Decision.INCONCLUSIVE:
        return EquivalenceResult(decision, located, _ask(located, tolerance))
    if equivalence(winsorised, tolerance) is not Decision.PASS:
        why = f"but its {WINSORISED} may be {winsorised.low:.3f} to {winsorised.high:.3f} × as "
        why += "long: steps that are slow now and then are not excluded; "
        return EquivalenceResult(Decision.INCONCLUSIVE, located, why + _ask(winsorised, tolerance))
    return EquivalenceResult(decision, located)


def equivalence(interval: RatioInterval, tolerance: float) -> Decision:
    """Judge an interval against the region [1/(1 + tolerance), 1 + tolerance], limits included.

    PASS if the whole interval lies inside, FAIL if the whole of it lies outside, otherwise
    INCONCLUSIVE. Passing has to be shown as failing has: noise alone leads to neither. (Two
    one-sided tests: Schuirmann, J. Pharmacokinet. Biopharm. 1987. With a 95 % interval each of
    them is at 2.5 %.)
    """
    top = _upper_limit(tolerance)
    if interval.low > top:
        return Decision.FAIL_SLOWER
    if interval.high < 1 / top:
        return Decision.FAIL_FASTER
    if interval.low >= 1 / top and interval.high <= top:
        return Decision.PASS
    return Decision.INCONCLUSIVE


def smallest_detectable(interval: RatioInterval, tolerance: float) -> float:
    """The smallest slowdown that would have been FAIL_SLOWER with probability `POWER`.

    As a fraction: 0.031 is 3.1 %. With this noise the interval has the half width h on the log
    scale, which is t(confidence) standard errors, so a true slowdown s clears the limit with that
    probability if

        log(1 + s) = log(1 + tolerance) + h + h · t(2 POWER - 1) / t(confidence)

    the minimum detectable effect of Bloom (Evaluation Review 1995), counted from the limit instead
    of from zero. A speed-up is caught from 1/(1 + s) on.
    """
    top, freedom = _upper_limit(tolerance), interval.launches - 1
    errors = t_quantile(2 * POWER - 1, freedom) / t_quantile(interval.confidence, freedom)
    return top * math.exp(interval.half_width * (1 + errors)) - 1


def launches_needed(interval: RatioInterval, tolerance: float) -> int | None:
    """How many launches of either side, all in all, decide if ratio and scatter stay what they are.

    With n launches the half width is t(confidence, n - 1) · s / sqrt(n); it has to come down to the
    distance of the ratio from the nearer limit, on the log scale. What was made already, if that
    decides; None if more than `MOST_LAUNCHES` would be needed, so close does the ratio lie to a
    limit. One launch has no scatter to go by: then `FEWEST_LAUNCHES`.
    """
    if interval.launches < 2:
        return FEWEST_LAUNCHES
    limit, ratio = math.log(_upper_limit(tolerance)), math.log(interval.ratio)
    distance = min(abs(ratio - limit), abs(ratio + limit))
    n, confidence = interval.launches, interval.confidence
    scatter = interval.half_width / t_quantile(confidence, n - 1) * math.sqrt(n)
    for launches in range(max(n, FEWEST_LAUNCHES), MOST_LAUNCHES + 1):
        if t_quantile(confidence, launches - 1) * scatter <= distance * math.sqrt(launches):
            return launches
    return None


def _interval(a: Samples, b: Samples, by: LogRatio, rounds: int) -> RatioInterval:
    return ratio_interval(a, b, by, confidence=confidence_of_round(rounds))


def _too_few(launches: int) -> str:
    made = "one launch says" if launches == 1 else f"{launches} launches say"
    return (
        f"{made} too little of how launches differ, which is by 1 % on a quiet machine and by "
        f"14 % on a shared one; ask for timing.launches={FEWEST_LAUNCHES} at least"
    )


def _ask(interval: RatioInterval, tolerance: float) -> str:
    """What would decide an interval that is inconclusive."""
    needed = launches_needed(interval, tolerance)
    if needed is None:
        return f"more than {MOST_LAUNCHES} launches a side would not decide: try a quieter machine"
    # Undecided by rounding alone still asks for one.
    more = max(1, needed - interval.launches)
    launches = "one more launch" if more == 1 else f"{more} more launches"
    return f"about {launches} a side would decide (timing.launches={interval.launches + more})"


def _upper_limit(tolerance: float) -> float:
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"a tolerance is finite and positive, not {tolerance}")
    return 1 + tolerance
