"""What an interval of a ratio decides, and what would decide it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.ladder.equivalence import (
    APART,
    FEWEST_LAUNCHES,
    MOST_LAUNCHES,
    Decision,
    confidence_of_round,
    equivalence,
    judge_samples,
    launches_needed,
    locate,
    smallest_detectable,
)
from harness.ladder.step_ratio import RatioInterval, t_quantile

Launches = list[list[float]]

reproducible = settings(derandomize=True, database=None, max_examples=40, deadline=None)


def interval(low: float, high: float, launches: int = 5, confidence: float = 0.95) -> RatioInterval:
    return RatioInterval(math.sqrt(low * high), low, high, confidence, launches)


def machine(
    seed: int,
    launches: int,
    slower: float = 0.0,
    scatter: float = 0.01,
    windows: int = 50,
    noise: float = 0.02,
) -> tuple[Launches, Launches]:
    """Two trainers, b slower by a share; launches of equal ones differ by `scatter` (1 %)."""
    rng = np.random.default_rng(seed)

    def side(level: float) -> Launches:
        return [
            list(np.exp(level + rng.normal(0, scatter / 2**0.5) + rng.normal(0, noise, windows)))
            for _ in range(launches)
        ]

    return side(0.0), side(math.log1p(slower))


class TestDecision:
    @pytest.mark.parametrize(
        ("low", "high", "decision"),
        [
            (0.995, 1.005, Decision.PASS),
            (1 / 1.01, 1.01, Decision.PASS),  # the limits belong to the tolerance
            (1.01, 1.01, Decision.PASS),
            (1.005, 1.02, Decision.INCONCLUSIVE),
            (0.98, 1.02, Decision.INCONCLUSIVE),  # across all of it: no evidence is not a PASS
            (0.0, math.inf, Decision.INCONCLUSIVE),
            (0.98, 0.995, Decision.INCONCLUSIVE),
            (1.01, 1.05, Decision.INCONCLUSIVE),
            (1.0101, 1.05, Decision.FAIL_SLOWER),
            (0.95, 0.99, Decision.FAIL_FASTER),  # 0.99 < 1/1.01
            (0.95, 1 / 1.01, Decision.INCONCLUSIVE),
        ],
    )
    def test_each_side_of_each_limit(self, low: float, high: float, decision: Decision) -> None:
        i = RatioInterval(1.0, low, high, 0.95, 5)
        assert equivalence(i, 0.01) is decision

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

    @pytest.mark.parametrize("tolerance", [0.0, -0.01, math.nan, math.inf])
    def test_no_tolerance(self, tolerance: float) -> None:
        i = interval(0.98, 1.02)
        judges: list[Callable[[float], object]] = [
            lambda t: equivalence(i, t),
            lambda t: smallest_detectable(i, t),
            lambda t: launches_needed(i, t),
        ]
        for judge in judges:
            with pytest.raises(ValueError, match="tolerance"):
                judge(tolerance)


class TestSmallestDetectable:
    def test_a_pass_says_what_it_would_have_caught(self) -> None:
        """Half width h of five launches: limit · exp(h · (1 + 2.1318/2.7764)), t of 4 degrees."""
        i = interval(math.exp(-0.005), math.exp(0.005))
        expected = 1.01 * math.exp(0.005 * (1 + 2.131847 / 2.776445)) - 1
        assert smallest_detectable(i, 0.01) == pytest.approx(expected, rel=1e-5)
        assert smallest_detectable(interval(1, 1), 0.01) == pytest.approx(0.01)

    def test_the_smallest_detectable_change_is_detected(self) -> None:
        """In about 19 of 20 trials in which a slowdown of that size is injected."""
        caught = 0
        for seed in range(200):
            a, b = machine(seed, 8)
            least = smallest_detectable(locate(a, b, in_turns=False), 0.01)
            _, slow = machine(1000 + seed, 8, least)
            seen = locate(machine(2000 + seed, 8)[0], slow, in_turns=False)
            caught += equivalence(seen, 0.01) is Decision.FAIL_SLOWER
        assert caught >= 170  # half widths scatter: of 8 launches by a quarter


class TestLaunchesNeeded:
    def needed(self, scatter: float, made: int = 5) -> int | None:
        """Of equal trainers, by the scatter of the launches that were made, as a share of the
        distance to the limit."""
        half = scatter * math.log(1.01) * t_quantile(0.95, made - 1) / math.sqrt(made)
        return launches_needed(interval(math.exp(-half), math.exp(half), made), 0.01)

    @pytest.mark.parametrize("made", [2, 3, 5, 7])
    def test_they_follow_the_table_of_t(self, made: int) -> None:
        """Scatter 1 %, limit 1 % away: t(n - 1) ≤ √n for the first time at n = 7."""
        assert self.needed(0.99, made) == 7
        assert t_quantile(0.95, 6) <= math.sqrt(7)
        assert t_quantile(0.95, 5) > math.sqrt(6)

    def test_what_would_take_more_than_a_hundred_cannot_be_decided(self) -> None:
        widest = math.sqrt(MOST_LAUNCHES) / t_quantile(0.95, MOST_LAUNCHES - 1)
        assert self.needed(widest * (1 - 1e-9)) == MOST_LAUNCHES
        assert self.needed(widest * (1 + 1e-9)) is None
        assert launches_needed(RatioInterval(1.0, 0.0, math.inf, 0.95, 5), 0.01) is None

    def test_that_many_launches_do_decide(self) -> None:
        decided = 0
        for seed in range(40):
            a, b = machine(seed, 60, slower=0.03)
            launches = launches_needed(locate(a[:4], b[:4], in_turns=False), 0.015) or 60
            judged = judge_samples(a[:launches], b[:launches], 0.015, in_turns=False)
            decided += judged.decision is Decision.FAIL_SLOWER
        assert decided >= 20  # half of them, as ratio and scatter themselves move

    def test_nothing_more_is_needed_when_decided(self) -> None:
        for low, high in ((0.999, 1.001), (1.05, 1.06), (0.9, 0.95)):
            assert launches_needed(interval(low, high), 0.01) == 5

    def test_one_or_two_launches_ask_for_three_at_least(self) -> None:
        assert launches_needed(RatioInterval(1.0, 0.0, math.inf, 0.95, 1), 0.01) == FEWEST_LAUNCHES
        assert launches_needed(interval(0.9999, 1.0001, launches=2), 0.01) == FEWEST_LAUNCHES

    @pytest.mark.parametrize("limit", [1.01, 1 / 1.01, 1.01 * (1 + 1e-9)])
    def test_on_the_limit_it_cannot_be_decided(self, limit: float) -> None:
        assert (
            launches_needed(RatioInterval(limit, limit / 1.02, limit * 1.02, 0.95, 5), 0.01) is None
        )

    @reproducible
    @given(st.floats(0.5, 2), st.floats(0, 1), st.floats(1e-3, 0.5), st.integers(2, 40))
    def test_no_more_than_can_be_made(
        self, ratio: float, half: float, tolerance: float, launches: int
    ) -> None:
        i = RatioInterval(ratio, ratio * math.exp(-half), ratio * math.exp(half), 0.95, launches)
        needed = launches_needed(i, tolerance)
        assert needed is None or max(3, launches) <= needed <= MOST_LAUNCHES


class TestSamples:
    """What the samples of two trainers decide."""

    @pytest.mark.parametrize("count", [1, 2])
    @pytest.mark.parametrize("slower", [0.0, 0.5])
    @pytest.mark.parametrize("in_turns", [True, False])
    def test_fewer_than_three_launches_decide_nothing(
        self, count: int, slower: float, in_turns: bool
    ) -> None:
        """One launch let 12 % of equal pairs FAIL and 6 % of pairs that are 3 % apart PASS."""
        for seed in range(20):
            a, b = machine(seed, count, slower, windows=150)
            judged = judge_samples(a, b, 0.015, in_turns=in_turns)
            assert judged.decision is Decision.INCONCLUSIVE
            assert "timing.launches=3" in judged.why

    @pytest.mark.parametrize("count", [3, 5])
    @pytest.mark.parametrize("rounds", [1, 5])
    def test_neither_do_equal_pairs_fail_nor_do_others_pass(self, count: int, rounds: int) -> None:
        for slower, wrong in ((0.0, APART), (0.03, (Decision.PASS,))):
            mistakes = 0
            for seed in range(60):
                a, b = machine(seed, count * rounds, slower)
                for made in range(count, count * rounds + 1, count):
                    judged = judge_samples(a[:made], b[:made], 0.015, in_turns=True, rounds=rounds)
                    if judged.decision is not Decision.INCONCLUSIVE:
                        break
                mistakes += judged.decision in wrong
            assert mistakes <= 2

    def test_enough_launches_decide(self) -> None:
        decisions = []
        for slower in (0.0, 0.03, 1 / 1.03 - 1):
            a, b = machine(0, 12, slower, scatter=0.004)
            decisions.append(judge_samples(a, b, 0.015, in_turns=True).decision)
        assert decisions == [Decision.PASS, Decision.FAIL_SLOWER, Decision.FAIL_FASTER]

    def test_launches_that_differ_are_no_pass(self) -> None:
        a = [[1.0] * 50] * 4
        b = [[level] * 50 for level in (0.95, 1.05, 0.95, 1.05)]
        judged = judge_samples(a, b, 0.03, in_turns=True)
        assert judged.decision is Decision.INCONCLUSIVE
        assert "a side would decide (timing.launches=" in judged.why

    @pytest.mark.parametrize(
        ("scatter", "asked"),
        [
            (0.9, "about one more launch a side would decide (timing.launches=6)"),
            (1.05, "about 2 more launches a side would decide (timing.launches=7)"),
            (9.0, "more than 100 launches a side would not decide: try a quieter machine"),
        ],
    )
    def test_what_would_decide_is_asked_for(self, scatter: float, asked: str) -> None:
        """Five launches, whose scatter is a share of the tolerance."""
        step = scatter * math.log(1.015) / np.std(np.arange(5), ddof=1)
        b = [[math.exp(step * i)] * 8 for i in (-2, -1, 0, 1, 2)]
        judged = judge_samples([[1.0] * 8] * 5, b, 0.015, in_turns=True)
        assert (judged.decision, judged.why) == (Decision.INCONCLUSIVE, asked)

    def test_slow_steps_now_and_then_are_no_pass(self) -> None:
        """One step in ten × 1.3 is 3 % of the time: unseen by the midmean."""
        a = [[1.0] * 50] * 3
        b = [[1.3 if i % 10 == launch else 1.0 for i in range(50)] for launch in range(3)]
        judged = judge_samples(a, b, 0.015, in_turns=True)
        assert judged.decision is Decision.INCONCLUSIVE
        assert judged.located.ratio == pytest.approx(1)

    def test_a_rare_stall_is_no_pass_on_a_quiet_machine(self) -> None:
        """One step in 50 × 3 is 4 % of the time, and 1 % of the winsorised mean."""
        a = [[1.0] * 50] * 3
        b = [[3.0 if i == 7 * launch else 1.0 for i in range(50)] for launch in range(3)]
        judged = judge_samples(a, b, 0.015, in_turns=True)
        assert judged.decision is Decision.INCONCLUSIVE
        assert "its mean is 1.04 × as long" in judged.why

    def test_another_round_is_the_stricter_for_it(self) -> None:
        assert confidence_of_round(1) == 0.95
        assert confidence_of_round(5) == pytest.approx(0.99)
        a, b = machine(0, 5)
        widths = [locate(a, b, in_turns=True, rounds=rounds).half_width for rounds in (1, 2, 5)]
        assert widths == sorted(widths)
        assert widths[0] < widths[2]
