"""What an interval of a ratio decides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.ladder.intervals import (
    Decision,
    RatioInterval,
    equivalence,
    smallest_detectable,
    windows_needed,
)
from harness.ladder.resampling import ratio_interval

Runs = list[NDArray[np.float64]]


reproducible = settings(derandomize=True, database=None, max_examples=40, deadline=None)


times = st.floats(min_value=1e-4, max_value=1e3)


repeats = st.lists(st.lists(times, min_size=2, max_size=6), min_size=1, max_size=4)


def machine(
    seed: int, *, repeats: int, windows: int, slowdown: float = 0.0, launch: float = 0.0
) -> tuple[Runs, Runs]:
    """Two trainers in turns (A B B A ...) on a shared machine; b is slower by `slowdown`.

    Noise: 7 % a window, 5 % of windows stalled by half as long again on average, and a level that
    differs by 14 % between repeats, wanders and drifts within them. `launch` is what launches of
    the same trainer differ by.
    """
    rng = np.random.default_rng(seed)
    a, b = [], []
    for _ in range(repeats):
        n = 2 * windows
        wander = np.cumsum(rng.normal(0, 0.005, n)) + np.linspace(0, rng.normal(0, 0.1), n)
        stalls = np.where(rng.random(n) < 0.05, 1 + rng.exponential(0.5, n), 1)
        seconds = 0.1 * np.exp(rng.normal(0, 0.14) + wander + rng.normal(0, 0.07, n)) * stalls
        turns = np.resize([False, True, True, False], n)
        a.append(seconds[~turns])
        b.append(seconds[turns] * (1 + slowdown) * math.exp(rng.normal(0, launch)))
    return a, b


def interval(
    low: float, high: float, windows: int = 100, confidence: float = 0.95
) -> RatioInterval:
    return RatioInterval(math.sqrt(low * high), low, high, confidence, windows, windows, 1)


class TestDecision:
    @pytest.mark.parametrize(
        ("low", "high", "decision"),
        [
            (0.995, 1.005, Decision.PASS),
            (1 / 1.01, 1.01, Decision.PASS),  # the limits belong to the tolerance
            (1.01, 1.01, Decision.PASS),
            (1.005, 1.02, Decision.INCONCLUSIVE),
            (0.98, 1.02, Decision.INCONCLUSIVE),  # across all of it: no evidence is not a PASS
            (0.98, 0.995, Decision.INCONCLUSIVE),
            (1.01, 1.05, Decision.INCONCLUSIVE),
            (1.0101, 1.05, Decision.FAIL_SLOWER),
            (0.95, 0.99, Decision.FAIL_FASTER),  # 0.99 < 1/1.01
            (0.95, 1 / 1.01, Decision.INCONCLUSIVE),
        ],
    )
    def test_each_side_of_each_limit(self, low: float, high: float, decision: Decision) -> None:
        assert equivalence(interval(low, high), 0.01) is decision

    @reproducible
    @given(st.floats(0.5, 2), st.floats(0, 0.5), st.floats(1e-3, 0.5))
    def test_swapping_the_engines_swaps_the_verdict(
        self, ratio: float, half: float, tolerance: float
    ) -> None:
        low, high = ratio * math.exp(-half), ratio * math.exp(half)
        swap = {
            Decision.FAIL_SLOWER: Decision.FAIL_FASTER,
            Decision.FAIL_FASTER: Decision.FAIL_SLOWER,
        }
        decision = equivalence(interval(low, high), tolerance)
        assert equivalence(interval(1 / high, 1 / low), tolerance) is swap.get(decision, decision)
        if decision is Decision.PASS:
            assert abs(math.log(ratio)) + half <= math.log1p(tolerance) * (1 + 1e-9)

    def test_a_pass_says_what_it_would_have_caught(self) -> None:
        """Half width h: limit · exp(h · (1 + 1.645/1.960))."""
        i = interval(math.exp(-0.005), math.exp(0.005))
        expected = 1.01 * math.exp(0.005 * (1 + 1.644854 / 1.959964)) - 1
        assert smallest_detectable(i, 0.01) == pytest.approx(expected, rel=1e-6)
        # The change that would have been caught every second time moves the interval to the limit.
        assert smallest_detectable(i, 0.01, power=0.5) == pytest.approx(1.01 * math.exp(0.005) - 1)
        assert smallest_detectable(interval(1, 1), 0.01) == pytest.approx(0.01)

    def test_the_smallest_detectable_change_is_detected(self) -> None:
        """In 19 of 20 of the trials in which a slowdown of that size is injected."""
        caught = 0
        for seed in range(40):
            a, b = machine(seed, repeats=1, windows=100)
            noise = ratio_interval(a, b, paired=True, resamples=200)
            slow = [r * (1 + smallest_detectable(noise, 0.01)) for r in b]
            seen = ratio_interval(a, slow, paired=True, resamples=200)
            caught += equivalence(seen, 0.01) is Decision.FAIL_SLOWER
        assert caught >= 36


class TestWindowsNeeded:
    def test_four_times_the_windows_halve_the_interval(self) -> None:
        """Ratio 1, limit h/2 away: 100 windows have to become 400."""
        half = 2 * math.log(1.01)
        i = interval(math.exp(-half), math.exp(half), windows=100)
        assert windows_needed(i, 0.01) == pytest.approx(300, abs=1)

    def test_that_many_windows_do_decide(self) -> None:
        decided = 0
        for seed in range(20):
            a, b = machine(seed, repeats=1, windows=2000, slowdown=0.03)
            start = ratio_interval([a[0][:80]], [b[0][:80]], paired=True, resamples=200)
            more = windows_needed(start, 0.01, at_most=1900)
            n = 80 + (1900 if more is None else more)
            end = ratio_interval([a[0][:n]], [b[0][:n]], paired=True, resamples=200)
            decided += equivalence(end, 0.01) is Decision.FAIL_SLOWER
        assert decided >= 10  # half of them, as the ratio itself moves

    def test_nothing_more_is_needed_when_decided(self) -> None:
        for low, high in ((0.999, 1.001), (1.05, 1.06), (0.9, 0.95)):
            assert windows_needed(interval(low, high), 0.01) == 0

    def test_undecided_by_rounding_alone(self) -> None:
        """The ratio is not quite the centre, so the half width says that it should be decided."""
        i = RatioInterval(1.0, 0.995, 1.011, 0.95, 100, 100, 1)
        assert equivalence(i, 0.01) is Decision.INCONCLUSIVE
        assert windows_needed(i, 0.01) == 1

    @pytest.mark.parametrize("limit", [1.01, 1 / 1.01])
    def test_on_the_limit_it_cannot_be_decided(self, limit: float) -> None:
        i = RatioInterval(limit, limit / 1.02, limit * 1.02, 0.95, 100, 100, 1)
        assert windows_needed(i, 0.01) is None
        near = RatioInterval(limit * (1 + 1e-9), limit / 1.02, limit * 1.02, 0.95, 100, 100, 1)
        assert windows_needed(near, 0.01) is None

    def test_the_cap(self) -> None:
        i = interval(math.exp(-2 * math.log(1.01)), math.exp(2 * math.log(1.01)))
        assert windows_needed(i, 0.01, at_most=301) is not None
        assert windows_needed(i, 0.01, at_most=299) is None

    @reproducible
    @given(st.floats(0.5, 2), st.floats(0, 1), st.floats(1e-3, 0.5), st.integers(2, 10_000))
    def test_zero_only_when_decided(
        self, ratio: float, half: float, tolerance: float, windows: int
    ) -> None:
        i = RatioInterval(
            ratio, ratio * math.exp(-half), ratio * math.exp(half), 0.95, windows, windows, 1
        )
        more = windows_needed(i, tolerance)
        decided = equivalence(i, tolerance) is not Decision.INCONCLUSIVE
        assert (more == 0) == decided
        assert more is None or 0 <= more <= 1_000_001
