"""How far apart two runs may be that differ by noise, from what two such runs differ by."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.ladder.series import (
    FURTHEST,
    NEARBY,
    differences,
    furthest_by_noise,
    largest_so_far,
)


def test_differences_are_relative_and_missing_ones_are_nan() -> None:
    found = differences({0: 2.0, 1: 4.0, 2: None}, {0: 2.0, 1: 5.0, 2: 1.0}, 4)
    assert found[:2] == [0.0, 0.2]
    assert all(map(math.isnan, found[2:]))


def test_the_largest_so_far() -> None:
    assert largest_so_far([1.0, 3.0, 2.0]) == [1.0, 3.0, 3.0]
    broken = largest_so_far([1.0, math.nan, 2.0])
    assert broken[0] == 1.0
    assert all(map(math.isnan, broken[1:]))


class TestFurthestByNoise:
    def test_a_lucky_step_is_estimated_from_those_near_it(self) -> None:
        drawn = [0.0, 1e-5, 1e-5, 1e-5, 1e-5, *[0.0] * 20]
        assert furthest_by_noise(drawn)[0] == pytest.approx(FURTHEST * 1e-5 * math.sqrt(4 / 5))

    def test_a_step_that_is_not_near_adds_nothing(self) -> None:
        drawn = [1e-6] * 20
        drawn[10] = 1.0
        limits = furthest_by_noise(drawn)
        assert limits[10 - NEARBY - 1] == pytest.approx(FURTHEST * 1e-6)
        assert limits[10 - NEARBY] > 0.5

    def test_noise_does_not_become_less(self) -> None:
        limits = furthest_by_noise([1e-5] * 5 + [0.0] * 15)
        assert limits[-1] == pytest.approx(FURTHEST * 1e-5)

    def test_it_is_never_below_the_difference_itself(self) -> None:
        drawn = [0.0] * 20
        drawn[7] = 1.0
        assert furthest_by_noise(drawn)[7] >= 1.0

    def test_nothing_is_estimated_from_a_step_that_was_not_observed(self) -> None:
        limits = furthest_by_noise([1e-5] * 10 + [math.nan] + [1e-5] * 9)
        assert limits[9 - NEARBY] == pytest.approx(FURTHEST * 1e-5)
        assert all(math.isnan(value) for value in limits[10 - NEARBY :])

    @pytest.mark.parametrize("steps", [10, 20, 40])
    @pytest.mark.parametrize("growth", [1.0, 1.5])
    def test_of_runs_that_differ_by_equal_noise_few_exceed_twice_that(
        self, steps: int, growth: float
    ) -> None:
        """Noise that grows over the first steps, as it does under products of bfloat16, and none
        that does not: one or two runs in a hundred, where single draws fail one in three."""
        generator = np.random.default_rng(0)
        size = growth ** np.minimum(np.arange(steps), 6)
        beyond = single = 0
        for _ in range(1000):
            noise, other = np.abs(generator.standard_normal((2, steps))) * size
            drawn = [float(value) for value in noise]
            beyond += bool((other > 2 * np.array(furthest_by_noise(drawn))).any())
            single += bool((other > 2 * np.array(largest_so_far(drawn))).any())
        assert beyond <= 20
        assert single > 300
