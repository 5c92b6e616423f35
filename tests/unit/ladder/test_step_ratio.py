"""The ratio of two step times, and how well launches tell it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.ladder.stalls import recurring_stalls
from harness.ladder.step_ratio import (
    STALL,
    LogRatio,
    mean_ratio,
    midmean,
    midmean_of_ratios,
    midmean_ratio,
    ratio_interval,
    t_quantile,
    winsorised_mean_ratio,
)

reproducible = settings(derandomize=True, database=None, max_examples=40, deadline=None)

times = st.floats(min_value=1e-4, max_value=1e3)

launches = st.integers(1, 5).flatmap(
    lambda count: st.tuples(
        *[st.lists(st.lists(times, min_size=6, max_size=6), min_size=count, max_size=count)] * 2
    )
)

RATIOS: list[LogRatio] = [midmean_ratio, midmean_of_ratios, mean_ratio, winsorised_mean_ratio]


class TestRatio:
    @pytest.mark.parametrize("log_ratio", RATIOS)
    def test_a_known_ratio_without_noise(self, log_ratio: LogRatio) -> None:
        i = ratio_interval([[0.1] * 8] * 3, [[0.103] * 8] * 3, log_ratio)
        assert (i.ratio, i.low, i.high) == pytest.approx((1.03, 1.03, 1.03), rel=1e-12)
        assert (i.launches, i.confidence) == (3, 0.95)

    def test_a_launch_is_one_observation(self) -> None:
        """Log ratios 0.01, 0.02, 0.03: 0.02 ± 4.303 · 0.01/√3, by the printed table of t."""
        a = [[1.0] * 50] * 3
        b = [[math.exp(x)] * 50 for x in (0.01, 0.02, 0.03)]
        half = 4.302653 * 0.01 / math.sqrt(3)
        for windows in (1, 50):
            i = ratio_interval([x[:windows] for x in a], [y[:windows] for y in b], midmean_ratio)
            assert i.ratio == pytest.approx(math.exp(0.02))
            assert i.half_width == pytest.approx(half, rel=1e-6)
            assert i.low == pytest.approx(math.exp(0.02 - half), rel=1e-6)

    def test_one_launch_says_nothing_of_how_launches_differ(self) -> None:
        i = ratio_interval([[0.1] * 500], [[0.103] * 500], midmean_of_ratios)
        assert (i.low, i.high) == (0.0, math.inf)
        assert i.ratio == pytest.approx(1.03)

    def test_what_both_saw_cancels_in_pairs(self) -> None:
        """Launches differ by 14 %, windows drift, and the trainers are 3 % apart."""
        rng = np.random.default_rng(0)
        a, b = [], []
        for _ in range(4):
            machine = np.exp(rng.normal(0, 0.14) + np.cumsum(rng.normal(0, 0.02, 100)))
            a.append(list(machine * np.exp(rng.normal(0, 0.01, 100))))
            b.append(list(1.03 * machine * np.exp(rng.normal(0, 0.01, 100))))
        i = ratio_interval(a, b, midmean_of_ratios)
        assert i.low <= 1.03 <= i.high
        assert i.half_width < 0.01

    def test_sides_of_different_size_when_not_in_turns(self) -> None:
        i = ratio_interval([[1, 1, 1], [1]], [[2, 2], [2]], midmean_ratio)
        assert i.ratio == pytest.approx(2)

    @reproducible
    @given(launches, st.sampled_from(RATIOS), st.floats(1e-3, 1e3))
    def test_identities(
        self,
        sides: tuple[list[list[float]], list[list[float]]],
        log_ratio: LogRatio,
        unit: float,
    ) -> None:
        """The ratio is inside its interval; units cancel; swapping the sides inverts it all."""
        a, b = sides
        i = ratio_interval(a, b, log_ratio)
        assert i.low <= i.ratio <= i.high
        scaled = ratio_interval(
            [[x * unit for x in r] for r in a], [[x * unit for x in r] for r in b], log_ratio
        )
        assert scaled.ratio == pytest.approx(i.ratio, rel=1e-6)
        swapped = ratio_interval(b, a, log_ratio)
        assert swapped.ratio == pytest.approx(1 / i.ratio, rel=1e-6)
        if i.launches > 1:
            assert swapped.half_width == pytest.approx(i.half_width, rel=1e-6, abs=1e-9)
        same = ratio_interval(a, a, log_ratio)
        assert same.ratio == 1

    def test_hopeless_noise_is_a_hopeless_interval(self) -> None:
        b = [[math.exp(20)], [math.exp(-20)]]
        i = ratio_interval([[1.0], [1.0]], b, midmean_ratio, confidence=0.9999)
        assert (i.low, i.high) == (0.0, math.inf)


class TestWithinALaunch:
    def test_the_mean_of_the_middle_half(self) -> None:
        for outer in (7, 700):
            assert midmean([0, 1, 2, 3, 4, 5, 6, outer]) == pytest.approx(3.5)

    def test_a_value_on_the_edge_counts_in_part(self) -> None:
        """Of three values the middle half is the middle one and a quarter of each neighbour."""
        assert midmean([9, 0, 3]) == pytest.approx((0.25 * 0 + 3 + 0.25 * 9) / 1.5)
        assert midmean([5]) == 5
        assert midmean([1, 2]) == 1.5
        assert midmean([0, 1, 2, 3, 50]) == pytest.approx((0.75 * 1 + 2 + 0.75 * 3) / 2.5)

    def test_windows_in_turns_are_pairs_by_position(self) -> None:
        x, y = [1.0, 2.0, 4.0, 8.0], [2.0, 4.0, 8.0, 16.0]
        assert midmean_of_ratios(x, y) == pytest.approx(math.log(2))
        with pytest.raises(ValueError, match=r"longer|shorter"):
            midmean_of_ratios(x, y[:3])

    def test_every_other_window_slower_is_seen(self) -> None:
        """A median could stay where it was."""
        y = [1.0, 1.1] * 50
        assert midmean_ratio([1.0] * 100, y) == pytest.approx(math.log(1.1) / 2, rel=0.05)

    def test_every_tenth_window_is_seen_by_the_means_alone(self) -> None:
        x, y = [1.0] * 100, [10.0 if i % 10 == 0 else 1.0 for i in range(100)]
        for ratio, expected in (
            (midmean_ratio, 1.0),
            (midmean_of_ratios, 1.0),
            (mean_ratio, 1.9),
            (winsorised_mean_ratio, 0.9 + 0.1 * STALL),
        ):
            assert math.exp(ratio(x, y)) == pytest.approx(expected)
            assert math.exp(ratio(y, x)) == pytest.approx(1 / expected)

    def test_one_spike_of_the_machine_is_but_a_slow_window(self) -> None:
        x, y = [0.1] * 150, [0.1] * 149 + [50.0]
        assert math.exp(winsorised_mean_ratio(x, y)) == pytest.approx(1 + 0.5 / 150)
        assert math.exp(mean_ratio(x, y)) > 4


class TestBadSamples:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -0.1])
    def test_not_a_time(self, bad: float) -> None:
        good, broken = [[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, bad]]
        with pytest.raises(ValueError, match=r"window 1 of launch 1 of a is"):
            ratio_interval(broken, good, midmean_ratio)
        with pytest.raises(ValueError, match=r"window 1 of launch 1 of b is"):
            ratio_interval(good, broken, midmean_ratio)
        with pytest.raises(ValueError, match=r"window 1 of launch 1 of launches is"):
            recurring_stalls(broken, good)

    @pytest.mark.parametrize(
        ("broken", "message"), [([], "has no launches"), ([[1.0], []], "launch 1 of . has no win")]
    )
    def test_empty(self, broken: list[list[float]], message: str) -> None:
        for a, b in ((broken, [[1.0]]), ([[1.0]], broken), (broken, broken)):
            with pytest.raises(ValueError, match=message):
                ratio_interval(a, b, midmean_ratio)

    def test_launches_that_are_no_pairs(self) -> None:
        with pytest.raises(ValueError, match="launches come in pairs, not 2 of a and 1 of b"):
            ratio_interval([[1.0], [1.0]], [[1.0]], midmean_ratio)

    @pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan])
    def test_no_confidence(self, confidence: float) -> None:
        with pytest.raises(ValueError, match="confidence"):
            ratio_interval([[1.0]], [[1.0]], midmean_ratio, confidence=confidence)


class TestCoverage:
    """benchmarks/coverage.py has the same at length."""

    def covered(self, noise: Callable[[np.random.Generator], list[float]], count: int) -> float:
        held = 0
        for seed in range(300):
            rng = np.random.default_rng(seed)
            a, b = ([noise(rng) for _ in range(count)] for _ in "ab")
            i = ratio_interval(a, b, midmean_of_ratios)
            held += i.low <= 1 <= i.high
        return held / 300

    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_launches_that_differ(self, count: int) -> None:
        def windows(rng: np.random.Generator) -> list[float]:
            return list(np.exp(rng.normal(0, 0.01) + rng.normal(0, 0.03, 20)))

        assert 0.915 <= self.covered(windows, count) <= 0.985

    @pytest.mark.parametrize("count", [3, 5])
    def test_noise_that_lasts(self, count: int) -> None:
        """Neighbouring windows are correlated by 0.8, and launches do not differ besides: windows
        that were taken for observations would promise three times too much."""

        def windows(rng: np.random.Generator) -> list[float]:
            steps = rng.normal(0, 0.05, 30)
            for i in range(1, 30):
                steps[i] += 0.8 * steps[i - 1]
            return list(np.exp(steps))

        assert 0.915 <= self.covered(windows, count) <= 0.985


@pytest.mark.parametrize(
    ("confidence", "freedom", "table"),
    [
        (0.95, 1, 12.7062), (0.95, 2, 4.3027), (0.95, 3, 3.1824), (0.95, 4, 2.7764),
        (0.95, 30, 2.0423), (0.99, 1, 63.6567), (0.99, 2, 9.9248), (0.99, 9, 3.2498),
        (0.9, 5, 2.0150), (0.5, 7, 0.7111),
        (0.02, 1, 0.0314),
    ],
)  # fmt: skip
def test_quantiles_of_t(confidence: float, freedom: int, table: float) -> None:
    assert t_quantile(confidence, freedom) == pytest.approx(table, abs=6e-5)
