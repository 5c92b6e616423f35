"""Ratios of step times: identities, bad input, and what they do with noise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.ladder import resampling
from harness.ladder.intervals import (
    Decision,
    RatioInterval,
    equivalence,
    smallest_detectable,
    windows_needed,
)
from harness.ladder.resampling import mean_ratio, ratio_interval
from harness.ladder.stalls import recurring_stalls

Runs = list[NDArray[np.float64]]


FAILURES = {Decision.FAIL_SLOWER, Decision.FAIL_FASTER}


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


def decisions(tolerance: float, slowdown: float = 0.0) -> Counter[Decision]:
    """What 20 trials of one repeat of 600 pairs end in."""
    made: Counter[Decision] = Counter()
    for seed in range(20):
        a, b = machine(seed, repeats=1, windows=600, slowdown=slowdown)
        made[equivalence(ratio_interval(a, b, paired=True, resamples=200), tolerance)] += 1
    return made


def interval(
    low: float, high: float, windows: int = 100, confidence: float = 0.95
) -> RatioInterval:
    return RatioInterval(math.sqrt(low * high), low, high, confidence, windows, windows, 1)


def half_width(i: RatioInterval) -> float:
    return math.log(i.high / i.low) / 2


class TestRatio:
    def test_a_known_ratio_without_noise(self) -> None:
        for paired in (True, False):
            i = ratio_interval([[0.1] * 8] * 2, [[0.103] * 8] * 2, paired=paired)
            assert (i.ratio, i.low, i.high) == pytest.approx((1.03, 1.03, 1.03), rel=1e-12)
            assert (i.windows_a, i.windows_b, i.repeats, i.confidence) == (16, 16, 2, 0.95)

    def test_sides_of_different_size_when_not_paired(self) -> None:
        i = ratio_interval([[1, 1, 1], [1]], [[2, 2]], paired=False)
        assert (i.windows_a, i.windows_b, i.repeats) == (4, 2, 1)
        assert i.ratio == pytest.approx(2)

    def test_the_location_is_the_mean_of_the_middle_half(self) -> None:
        """Ratios e^0 … e^7: the middle four have the mean 3.5, whatever the outer ones are."""
        for outer in (7, 700):
            b = [math.exp(x) for x in (0, 1, 2, 3, 4, 5, 6, outer)]
            assert ratio_interval([[1] * 8], [b], paired=True).ratio == pytest.approx(math.exp(3.5))

    def test_a_value_on_the_edge_counts_in_part(self) -> None:
        """Of three values the middle half is the middle one and a quarter of each neighbour."""
        b = [[1, math.e**3, math.e**9]]
        expected = math.exp((0.25 * 0 + 3 + 0.25 * 9) / 1.5)
        assert ratio_interval([[1] * 3], b, paired=True).ratio == pytest.approx(expected)

    def test_pairs_are_by_position(self) -> None:
        """The same times in another order are another measurement when they are paired."""
        a, b = [[1.0, 2.0, 4.0, 8.0]], [[1.0, 2.0, 4.0, 8.0]]
        assert half_width(ratio_interval(a, b, paired=True)) == 0
        assert half_width(ratio_interval(a, [b[0][::-1]], paired=True)) > 1

    def test_the_same_input_gives_the_same_bits(self) -> None:
        a, b = machine(1, repeats=2, windows=20)
        first = ratio_interval(a, b, paired=True, seed=5)
        assert first == ratio_interval(a, b, paired=True, seed=5)
        assert first != ratio_interval(a, b, paired=True, seed=6)

    @pytest.mark.parametrize("logs", [[[0.1, -0.1]], [[0.1] * 9, [-0.1] * 9]])
    def test_two_of_a_kind(self, logs: list[list[float]]) -> None:
        """Two windows, or two repeats without noise inside, at ±0.1: the mean of two has the
        variance 0.2²/2/2 = 0.1², and one degree of freedom."""
        b = [[math.exp(x) for x in r] for r in logs]
        i = ratio_interval([[1.0] * len(r) for r in b], b, paired=True, resamples=20_000)
        assert half_width(i) == pytest.approx(0.1 * resampling._t_quantile(0.975, 1), rel=0.03)

    def test_hopeless_noise_is_a_hopeless_interval(self) -> None:
        """Windows that differ by e^40, at a confidence of 99.9 %: no overflow, and no verdict."""
        b = [[math.exp(20), math.exp(-20)]]
        i = ratio_interval([[1.0, 1.0]], b, paired=True, confidence=0.999)
        assert 0 < i.low < 1e-40
        assert 1e40 < i.high < math.inf
        assert equivalence(i, 0.01) is Decision.INCONCLUSIVE
        assert windows_needed(i, 0.01) is None
        assert smallest_detectable(i, 0.01) > 1e40

    def test_more_confidence_is_wider(self) -> None:
        a, b = machine(1, repeats=2, windows=20)
        widths = [half_width(ratio_interval(a, b, paired=True, confidence=c)) for c in (0.8, 0.95)]
        assert widths[0] < widths[1]

    @reproducible
    @given(repeats)
    def test_a_run_against_itself_is_exactly_one(self, a: list[list[float]]) -> None:
        i = ratio_interval(a, a, paired=True, resamples=100)
        assert (i.ratio, i.low, i.high) == (1, 1, 1)

    @reproducible
    @given(repeats, repeats, st.booleans(), st.floats(1e-3, 1e3))
    def test_identities(
        self, a: list[list[float]], b: list[list[float]], paired: bool, unit: float
    ) -> None:
        """The ratio is inside its interval; units cancel; swapping the sides inverts it all."""
        if paired:
            b = [list(reversed(r)) for r in a]
        i = ratio_interval(a, b, paired=paired, resamples=100)
        assert 0 < i.low <= i.ratio <= i.high
        scaled = ratio_interval(
            [[x * unit for x in r] for r in a],
            [[x * unit for x in r] for r in b],
            paired=paired,
            resamples=100,
        )
        assert (scaled.ratio, scaled.low, scaled.high) == pytest.approx(
            (i.ratio, i.low, i.high), rel=1e-6
        )
        swapped = ratio_interval(b, a, paired=paired, resamples=100)
        assert swapped.ratio == pytest.approx(1 / i.ratio)
        if paired:  # not paired, the two sides draw other resamples
            assert (1 / swapped.high, 1 / swapped.low) == pytest.approx((i.low, i.high), rel=1e-6)


class TestBadSamples:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -0.1])
    @pytest.mark.parametrize("paired", [True, False])
    def test_not_a_time(self, bad: float, paired: bool) -> None:
        good, broken = [[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, bad]]
        with pytest.raises(ValueError, match=r"window 1 of repeat 1 of a is"):
            ratio_interval(broken, good, paired=paired)
        with pytest.raises(ValueError, match=r"window 1 of repeat 1 of b is"):
            ratio_interval(good, broken, paired=paired)
        with pytest.raises(ValueError, match=r"window 1 of repeat 1 of repeats is"):
            recurring_stalls(broken, good)

    @pytest.mark.parametrize(
        ("broken", "message"), [([], "has no repeats"), ([[1.0], []], "repeat 1 of . has no win")]
    )
    def test_empty(self, broken: list[list[float]], message: str) -> None:
        good = [[1.0, 1.0]]
        for a, b in ((broken, good), (good, broken), (broken, broken)):
            for paired in (True, False):
                with pytest.raises(ValueError, match=message):
                    ratio_interval(a, b, paired=paired)

    def test_pairs_that_do_not_match(self) -> None:
        a = [[1.0, 1.0], [1.0, 1.0]]
        for b in ([[1.0, 1.0]], [[1.0, 1.0], [1.0]], [[1.0, 1.0, 1.0], [1.0]], [[1.0] * 4]):
            with pytest.raises(ValueError, match="pairs need the same windows"):
                ratio_interval(a, b, paired=True)
            with pytest.raises(ValueError, match="pairs need the same windows"):
                ratio_interval(b, a, paired=True)

    def test_one_window_is_no_evidence(self) -> None:
        with pytest.raises(ValueError, match="at least two"):
            ratio_interval([[1.0]], [[1.0]], paired=True)
        with pytest.raises(ValueError, match="at least two"):
            ratio_interval([[1.0]], [[1.0, 1.0]], paired=False)

    def test_options(self) -> None:
        a = [[1.0, 1.0]]
        for confidence in (0.0, 1.0, math.nan):
            with pytest.raises(ValueError, match="confidence"):
                ratio_interval(a, a, paired=True, confidence=confidence)
        with pytest.raises(ValueError, match="resamples"):
            ratio_interval(a, a, paired=True, resamples=0)
        i = interval(0.99, 1.01)
        judges: list[Callable[[float], object]] = [
            lambda t: equivalence(i, t),
            lambda t: smallest_detectable(i, t),
            lambda t: windows_needed(i, t),
        ]
        for judge in judges:
            for tolerance in (0.0, -0.01, math.nan, math.inf):
                with pytest.raises(ValueError, match="tolerance"):
                    judge(tolerance)
        with pytest.raises(ValueError, match="power"):
            smallest_detectable(i, 0.01, power=1.0)


class TestNoise:
    """On a machine as noisy as a shared one is: see `machine`."""

    def test_three_percent_slower_is_found(self) -> None:
        made = decisions(0.01, slowdown=0.03)
        assert made[Decision.FAIL_SLOWER] >= 19
        assert made[Decision.PASS] == made[Decision.FAIL_FASTER] == 0

    def test_three_percent_faster_is_found(self) -> None:
        made = decisions(0.01, slowdown=1 / 1.03 - 1)
        assert made[Decision.FAIL_FASTER] >= 19
        assert made[Decision.PASS] == made[Decision.FAIL_SLOWER] == 0

    def test_identical_trainers_never_fail(self) -> None:
        made = decisions(0.01)
        assert made[Decision.FAIL_SLOWER] == made[Decision.FAIL_FASTER] == 0
        assert decisions(0.015)[Decision.PASS] >= 10

    def test_pairs_cancel_the_drift(self) -> None:
        """Three repeats at levels that differ by far more than the engines do."""
        a, b = machine(3, repeats=3, windows=200)
        paired = half_width(ratio_interval(a, b, paired=True, resamples=300))
        apart = half_width(ratio_interval(a, b, paired=False, resamples=300))
        assert paired < apart / 5

    @pytest.mark.parametrize(
        ("count", "launch", "least"),
        [
            (1, 0.0, 0.85),
            (2, 0.0, 0.85),
            (4, 0.0, 0.85),
            (8, 0.03, 0.85),
            (4, 0.03, 0.8),
            (2, 0.03, 0.75),
        ],
    )
    def test_the_interval_covers_the_truth(self, count: int, launch: float, least: float) -> None:
        """About 95 % of the time, also where launches differ more than their windows let expect."""
        covered = 0
        for seed in range(60):
            a, b = machine(seed, repeats=count, windows=160 // count, launch=launch)
            i = ratio_interval(a, b, paired=True, resamples=200)
            covered += i.low <= 1 <= i.high
        assert covered >= least * 60

    @pytest.mark.parametrize("windows", [50, 150])
    def test_a_disturbance_that_lasts_is_not_taken_for_many(self, windows: int) -> None:
        """Noise correlated by 0.5: drawn one by one, windows would promise 1.7 × too much."""
        covered = 0
        for seed in range(100):
            steps = np.random.default_rng(seed).normal(0, 0.1, windows)
            noise = np.zeros(windows)
            for i in range(1, windows):
                noise[i] = 0.5 * noise[i - 1] + steps[i]
            one = ratio_interval([[1.0] * windows], [np.exp(noise)], paired=True, resamples=200)
            covered += one.low <= 1 <= one.high
        assert covered >= 84

    def test_blocks_weigh_every_window_alike(self) -> None:
        rng = np.random.default_rng(0)
        for windows in (2, 3, 7, 50):
            counts = resampling._draw_blocks(rng, windows, 4000)
            assert counts.sum(axis=1) == pytest.approx(windows)
            assert counts.mean(axis=0) == pytest.approx(np.ones(windows), abs=0.1)

    def test_launches_that_differ_widen_the_interval(self) -> None:
        """Repeats that disagree by 5 % each way, with hardly any noise inside, are no PASS."""
        quiet = np.random.default_rng(0).normal(1, 1e-4, (4, 50))
        loud = [r * level for r, level in zip(quiet, (0.95, 1.05, 0.95, 1.05), strict=True)]
        i = ratio_interval([[1.0] * 50] * 4, loud, paired=True)
        assert half_width(i) > 0.05
        assert equivalence(i, 0.01) is Decision.INCONCLUSIVE

    def test_spikes_on_one_side_do_not_look_like_a_slowdown(self) -> None:
        rng = np.random.default_rng(0)
        a, b = rng.normal(1, 0.01, 200), rng.normal(1, 0.01, 200)
        b[rng.choice(200, 20, replace=False)] *= 5
        assert equivalence(ratio_interval([a], [b], paired=True), 0.01) is Decision.PASS

    def test_every_other_window_slower_is_seen(self) -> None:
        """A median could stay where it was."""
        rng = np.random.default_rng(0)
        a, b = rng.normal(1, 0.01, 200), rng.normal(1, 0.01, 200)
        b[::2] *= 1.1
        assert equivalence(ratio_interval([a], [b], paired=True), 0.01) is Decision.FAIL_SLOWER


class TestMean:
    """What the midmean is blind to."""

    @pytest.mark.parametrize("paired", [True, False])
    def test_every_tenth_window_is_ten_times_as_long(self, paired: bool) -> None:
        a, b = machine(0, repeats=1, windows=150)
        b[0][::10] *= 10
        assert 0.97 < ratio_interval(a, b, paired=paired).ratio < 1.03
        mean = mean_ratio(a, b, paired=paired)
        assert mean.ratio == pytest.approx(1.9, abs=0.3)
        assert equivalence(mean, 0.015) is Decision.FAIL_SLOWER
        assert equivalence(mean_ratio(b, a, paired=paired), 0.015) is Decision.FAIL_FASTER

    def test_one_spike_of_the_machine_decides_nothing(self) -> None:
        a, b = np.full(150, 0.1), np.full(150, 0.1)
        b[40] = 50.0
        assert equivalence(mean_ratio([a], [b], paired=True), 0.015) is Decision.INCONCLUSIVE

    @pytest.mark.parametrize("paired", [True, False])
    def test_equal_sides(self, paired: bool) -> None:
        a = [[0.1] * 9, [0.2] * 9]
        mean = mean_ratio(a, a, paired=paired)
        assert mean.ratio == 1
        assert (mean.windows_a, mean.windows_b, mean.repeats) == (18, 18, 2)
        if paired:
            assert (mean.low, mean.high) == (1, 1)

    def test_identical_trainers_are_hardly_ever_called_apart(self) -> None:
        apart = 0
        for seed in range(100):
            a, b = machine(seed, repeats=1, windows=300)
            mean = mean_ratio(a, b, paired=True, resamples=200)
            apart += equivalence(mean, 0.015) in FAILURES
        assert apart <= 5


@pytest.mark.parametrize(
    ("freedom", "table", "off"),
    [(1, 12.706, 0.39), (2, 4.303, 0.041), (3, 3.182, 0.013), (5, 2.571, 0.005), (30, 2.042, 5e-4)],
)
def test_quantiles_of_t(freedom: float, table: float, off: float) -> None:
    """Against the printed table: never below it."""
    quantile = resampling._t_quantile(0.975, freedom)
    assert table * (1 - 2e-4) <= quantile <= table * (1 + off)
