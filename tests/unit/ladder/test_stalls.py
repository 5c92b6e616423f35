"""Stalls that recur at one step of every launch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.ladder.stalls import Stall, recurring_stalls
from harness.ladder.step_ratio import STALL

Runs = list[NDArray[np.float64]]


def machine(
    seed: int, *, launches: int, windows: int, slowdown: float = 0.0, launch: float = 0.0
) -> tuple[Runs, Runs]:
    """Two trainers in turns (A B B A ...) on a shared machine; b is slower by `slowdown`.

    Noise: 7 % a window, 5 % of windows stalled by half as long again on average, and a level that
    differs by 14 % between launches, wanders and drifts within them. `launch` is what launches of
    the same trainer differ by.
    """
    rng = np.random.default_rng(seed)
    a, b = [], []
    for _ in range(launches):
        n = 2 * windows
        wander = np.cumsum(rng.normal(0, 0.005, n)) + np.linspace(0, rng.normal(0, 0.1), n)
        stalls = np.where(rng.random(n) < 0.05, 1 + rng.exponential(0.5, n), 1)
        seconds = 0.1 * np.exp(rng.normal(0, 0.14) + wander + rng.normal(0, 0.07, n)) * stalls
        turns = np.resize([False, True, True, False], n)
        a.append(seconds[~turns])
        b.append(seconds[turns] * (1 + slowdown) * math.exp(rng.normal(0, launch)))
    return a, b


def stalls(launches: Runs, others: Runs) -> tuple[Stall, ...]:
    return recurring_stalls([list(x) for x in launches], [list(x) for x in others])


class TestStalls:
    def test_a_stall_at_the_same_window_of_every_launch(self) -> None:
        a, b = machine(0, launches=3, windows=40)
        for run in b:
            run[17] *= 3
        assert stalls(a, b) == ()
        assert [s.window for s in stalls(b, a)] == [17]

    def test_the_ratio_is_the_smallest(self) -> None:
        runs = np.ones((3, 40))
        runs[:, 5] = (4, 2, 3)
        quiet = np.ones((3, 40))
        assert stalls(list(runs), list(quiet)) == (Stall(5, 2.0),)
        runs[1, 5] = 1.4  # below STALL in one of the launches
        assert stalls(list(runs), list(quiet)) == ()

    @pytest.mark.parametrize(("windows", "reported"), [(23, False), (24, True)])
    def test_few_windows_could_be_slow_by_chance(self, windows: int, reported: bool) -> None:
        """n · p^r of two quiet launches of n windows, where p is 1 of 2 n + 1."""
        assert (windows / (2 * windows + 1) ** 2 <= 0.01) == reported
        runs = np.ones((2, windows))
        runs[:, 5] = 2
        assert bool(stalls(list(runs), list(np.ones((2, windows))))) == reported

    def test_a_window_is_a_stall_from_half_as_long_again_on(self) -> None:
        runs = np.ones((2, 40))
        runs[:, 5], runs[:, 6] = STALL, STALL + 0.01
        assert [s.window for s in stalls(list(runs), list(np.ones((2, 40))))] == [6]

    def test_the_machine_is_not_blamed_on_the_trainer(self) -> None:
        """Stalls at random places: in 60 trials of 3 launches not one is reported."""
        for seed in range(60):
            assert stalls(*machine(seed, launches=3, windows=40)) == ()

    def test_a_coincidence_among_many_stalls_is_not_reported(self) -> None:
        runs = np.ones((2, 40))
        runs[0, :20] = 2
        runs[1, 19:39] = 2
        assert stalls(list(runs), list(runs)) == ()

    @pytest.mark.parametrize("count", [2, 4])
    def test_a_side_that_stalls_often_does_not_excuse_itself(self, count: int) -> None:
        """Every tenth step for ten times as long, at the same steps of every launch."""
        a, b = machine(0, launches=count, windows=150)
        for run in b:
            run[::10] *= 10
        found = {s.window for s in stalls(b, a)}
        assert found == (set(range(0, 150, 10)) if count > 2 else found)
        assert count == 2 or stalls(a, b) == ()

    def test_one_launch_cannot_tell(self) -> None:
        with pytest.raises(ValueError, match="two or more launches"):
            recurring_stalls([[1.0, 1.0, 9.0]], [[1.0, 1.0, 1.0]])
        with pytest.raises(ValueError, match="two or more launches"):
            recurring_stalls([[1.0, 1.0, 9.0], [1.0, 1.0]], [[1.0, 1.0, 1.0]])
