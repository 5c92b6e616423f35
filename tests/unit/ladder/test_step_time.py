"""The rung step_time: each way in which it could pass and should not."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from builders import (
    in_turns,
    tolerance,
    with_manifest,
    with_observed,
    with_window,
    without,
)
from golden import Worded
from timing_samples import noisy, timed, under

from harness.ladder.comparison import Comparison
from harness.ladder.result import Result, RungResult
from harness.ladder.rungs.step_time import judge_launches, step_time
from harness.ladder.timed import Launches, by_host
from harness.record.evidence import Record, Window

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID
INCONCLUSIVE, NOT_EXERCISED = Result.INCONCLUSIVE, Result.NOT_EXERCISED


def thrice(limit: float, x: Record, y: Record) -> Comparison:
    """Whole runs, launched three times: fewer decide nothing."""
    return under(limit, x, y, timing=((x, y),) * 3)


class TestStepTime:
    @pytest.mark.parametrize("turns", [True, False])
    @pytest.mark.parametrize("count", [1, 2])
    def test_fewer_than_three_launches_decide_nothing(
        self, worded: Worded, a: Record, b: Record, turns: bool, count: int
    ) -> None:
        """Neither in turns, where one launch of 150 windows used to PASS and to FAIL."""
        for ratio in (1.0, 1.2):
            pair = timed(a, *noisy(count=150)), timed(b, *noisy(ratio, count=150))
            pair = in_turns(*pair) if turns else pair
            result = step_time(under(0.05, *pair, timing=(pair,) * count))
            assert result.result is INCONCLUSIVE
            worded(result)
            alone = step_time(under(0.05, *pair))
            assert alone.result is INCONCLUSIVE

    def test_stalls_that_the_midmean_does_not_see(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        stalling = noisy(count=150)
        stalling[::10] = [10 * t for t in stalling[::10]]
        launches = tuple(
            in_turns(timed(a, *noisy(count=150)), timed(b, *stalling), i) for i in range(3)
        )
        result = step_time(under(0.015, a, b, timing=launches))
        assert result.result is FAIL
        worded(result)

    def test_stalls_of_other_windows_in_each_launch(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        launches = []
        for i in range(3):
            stalling = noisy(count=150)
            stalling[i::10] = [10 * t for t in stalling[i::10]]
            launches.append(in_turns(timed(a, *noisy(count=150)), timed(b, *stalling), i))
        result = step_time(under(0.015, a, b, timing=tuple(launches)))
        assert result.result is INCONCLUSIVE
        worded(result)

    def test_nothing_stalls_where_the_mean_agrees(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        """Launches that differ widen the midmean's interval, and not the mean's."""
        launches = tuple(
            in_turns(timed(a, *noisy()), timed(b, *noisy(ratio, seed=1)), i)
            for i, ratio in enumerate((1.01, 1.03, 1.05))
        )
        result = step_time(under(0.015, a, b, timing=launches))
        assert result.result is INCONCLUSIVE
        worded(result)

    def spiking(
        self,
        a: Record,
        b: Record,
        slow: float,
        every: int,
        spikes: int = 4,
        moving: bool = True,
        count: int = 3,
    ) -> RungResult:
        """Launches on a machine that spikes in about `spikes` of 150 windows on either side;
        b is `slow` in one window of `every`, at other steps in each launch where it is `moving`."""
        launches = []
        for i in range(count):
            x, y = noisy(count=150, seed=i), noisy(count=150, seed=9 + i)
            slower = slice(i if moving else 0, None, every)
            y[slower] = [slow * t for t in y[slower]]
            for side, offset in ((x, 3), (y, 7)):
                for spike in range(spikes + bool(spikes) * ((i + offset) % 3 - 1)):
                    side[spike * 29 + 5 * i + offset] *= 10
            launches.append(in_turns(timed(a, *x), timed(b, *y), i))
        return step_time(under(0.015, a, b, timing=tuple(launches)))

    def test_slow_steps_do_not_hide_behind_the_spikes_of_the_machine(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        """One step in ten × 1.3 is 3 % of the time: below what counts as a stall, unseen by the
        midmean, and by the mean too where spikes widen it."""
        assert self.spiking(a, b, 1, 10).result is PASS
        for spikes in (0, 4):
            for moving in (False, True):
                assert self.spiking(a, b, 1.3, 10, spikes, moving).result is INCONCLUSIVE
        slower = self.spiking(a, b, 1.3, 10)
        assert slower.result is INCONCLUSIVE
        worded(slower)
        # nor does what is hidden on the other side
        assert self.spiking(a, b, 1 / 1.3, 10).result is INCONCLUSIVE

    def test_the_limit_of_it_is_a_rare_stall_that_never_recurs(self, a: Record, b: Record) -> None:
        """One step in 150 × 5 is 2.7 % of the time, and nothing tells it from a spike where the
        machine has such spikes; where it has none, the plain mean does."""
        assert self.spiking(a, b, 5, 150, spikes=0).result is INCONCLUSIVE
        assert self.spiking(a, b, 5, 150, count=6).result is PASS

    def test_as_fast(self, worded: Worded, a: Record, b: Record) -> None:
        pair = timed(a, *noisy()), timed(b, *noisy(seed=1))
        result = step_time(thrice(0.05, *pair))
        assert result.result is PASS
        assert result.limit == 1.05
        worded(result)  # that steps 0 and 1 compile is no finding

    def test_too_slow_and_too_fast_are_both_findings(self, a: Record, b: Record) -> None:
        slow = timed(a, *noisy()), timed(b, *noisy(1.2))
        result = step_time(thrice(0.05, *slow))
        assert result.result is FAIL
        result = step_time(thrice(0.05, *slow[::-1]))
        assert result.result is FAIL

    def test_noise_leads_to_neither(self, a: Record, b: Record) -> None:
        wild = [noisy(count=8, seed=seed, noise=0.3) for seed in range(6)]
        launches = tuple(
            (timed(a, *x), timed(b, *y)) for x, y in zip(*[iter(wild)] * 2, strict=True)
        )
        result = step_time(under(0.02, a, b, timing=launches))
        assert result.result is INCONCLUSIVE

    def test_too_near_the_limit(self, worded: Worded, a: Record, b: Record) -> None:
        x = timed(a, *[0.1] * 40)
        launches = tuple((x, timed(b, *[0.105 * by] * 40)) for by in (0.98, 1.0, 1 / 0.98))
        result = step_time(under(0.05, x, x, timing=launches))
        assert result.result is INCONCLUSIVE
        worded(result)

    def test_a_tolerance_that_was_not_asked_for(self, a: Record, b: Record) -> None:
        pair = timed(a, *noisy()), timed(b, *noisy(3.0))
        result = step_time(under(None, *pair))
        assert result.result is NOT_EXERCISED
        assert result.value == pytest.approx(3.0, rel=0.05)

    def test_what_is_said_of_the_host_is_said_of_the_device_that_was_used(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        for device in ("TPU", "CUDA"):
            pair = [with_observed(timed(r, *noisy()), device=device) for r in (a, b)]
            result = step_time(under(None, *pair))
            worded(result)

    def test_windows_in_which_xla_compiled_are_left_out(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        """A compilation may come at any step: there is no warm-up of a fixed length."""
        slow = with_window(timed(b, *noisy(), 9.7, 9.7, 9.7), 42, compilations=1)
        slow = with_window(with_window(slow, 43, compilations=1), 44, compilations=1)
        result = step_time(thrice(0.05, timed(a, *noisy(), 0.1, 0.1, 0.1), slow))
        assert result.result is PASS
        worded(result)

    def test_a_shorter_last_window_is_left_out(self, a: Record) -> None:
        run = timed(a, 0.1, 0.1, 0.1, window=4)
        last = Window(14, 15, 9.0, 1.0, 0, 1, 0, {}, False, 0.0)
        run = dataclasses.replace(run, windows=(*run.windows, last))
        assert by_host(((run, run),)).a == [pytest.approx([0.1] * 3)]

    @pytest.mark.parametrize("count", [0, 1])
    def test_too_few_windows(self, a: Record, b: Record, count: int) -> None:
        few, many = timed(a, *noisy(count=count)), timed(b, *noisy())
        for pair in ((few, many), (many, few), (few, few)):
            result = step_time(under(0.05, *pair))
            assert result.result is INCONCLUSIVE
            # what nobody asked for does not stand in the way of a verdict
            assert step_time(under(None, *pair)).result is NOT_EXERCISED

    def test_two_windows_are_enough_to_be_told(self, a: Record, b: Record) -> None:
        pair = timed(a, 0.1, 0.1), timed(b, 0.2, 0.2)
        assert step_time(under(None, *pair)).value == pytest.approx(2)

    def test_one_launch_of_too_few_windows(self, a: Record, b: Record) -> None:
        x, y, few = timed(a, *noisy()), timed(b, *noisy()), timed(b, 0.1)
        result = step_time(under(0.05, x, y, timing=((x, y), (x, few), (x, y))))
        assert result.result is INCONCLUSIVE
        assert f"{b.label}: fewer than two steady windows" in result.explanation

    @pytest.mark.parametrize("limit", [0.05, None])
    @pytest.mark.parametrize("seconds", [math.nan, math.inf, 0.0, -1.0])
    @pytest.mark.parametrize("index", [0, 3])
    def test_a_time_that_is_none(
        self, worded: Worded, a: Record, b: Record, limit: float | None, seconds: float, index: int
    ) -> None:
        fine, broken = timed(a, *noisy()), with_window(timed(b, *noisy()), index, seconds=seconds)
        for pair in ((fine, broken), (broken, fine), (broken, broken)):
            result = step_time(under(limit, *pair))
            assert result.result is INVALID
            worded(result)

    @pytest.mark.parametrize("limit", [0.05, None])
    @pytest.mark.parametrize("index", [0, 1, 2, 20, 41])
    def test_a_window_is_missing(
        self, worded: Worded, a: Record, b: Record, limit: float | None, index: int
    ) -> None:
        x, y = timed(a, *noisy()), timed(b, *noisy())
        less = without(x, "windows", index), without(y, "windows", index)
        for pair in ((less[0], y), (x, less[1]), less):
            result = step_time(under(limit, *pair))
            assert result.result is INVALID
            worded(result)


class TestTurns:
    """Windows that took turns are judged pair by pair."""

    def launches(
        self, a: Record, b: Record, ratio: float, count: int = 3, drift: float = 2.0
    ) -> tuple[tuple[Record, Record], ...]:
        """Launches on a machine that gets slower all the time, alike for both."""
        pairs = []
        for launch in range(count):
            slower = np.linspace(1, drift, 40)
            x = [t * s for t, s in zip(noisy(seed=launch), slower, strict=True)]
            y = [t * s for t, s in zip(noisy(ratio, seed=9 + launch), slower, strict=True)]
            pairs.append(in_turns(timed(a, *x), timed(b, *y), launch))
        return tuple(pairs)

    def test_what_both_saw_cancels(self, worded: Worded, a: Record, b: Record) -> None:
        launches = self.launches(a, b, 1.0)
        result = step_time(under(0.02, a, b, timing=launches))
        assert result.result is PASS
        worded(result)

    @pytest.mark.parametrize("ratio", [1.04, 0.96])
    def test_what_only_one_saw_does_not(self, a: Record, b: Record, ratio: float) -> None:
        result = step_time(under(0.02, a, b, timing=self.launches(a, b, ratio)))
        assert result.result is FAIL

    def test_windows_are_paired_by_their_steps(self, a: Record, b: Record) -> None:
        """A window that one side lost is left out on both: the others do not move up."""
        ((x, y),) = self.launches(a, b, 1.0, count=1, drift=20.0)
        y = with_window(y, 2, compilations=1)
        x = with_window(x, 41, compilations=1)
        timed = by_host(((x, y),))
        assert [len(side) for side in (timed.a[0], timed.b[0])] == [38, 38]
        assert timed.a[0][0] == x.windows[3].seconds
        assert timed.b[0][0] == y.windows[3].seconds
        assert step_time(under(0.02, a, b, timing=((x, y),) * 3)).result is PASS

    def test_unpaired_windows_all_count(self, a: Record, b: Record) -> None:
        ((x, y),) = self.launches(a, b, 1.0, count=1)
        x, y = (with_manifest(run, lambda m: m.update(turns=None)) for run in (x, y))
        timed = by_host(((x, with_window(y, 2, compilations=1)),))
        assert [len(timed.a[0]), len(timed.b[0])] == [40, 39]

    def test_no_window_is_in_both(self, a: Record, b: Record) -> None:
        pair = in_turns(timed(a, *noisy()), timed(b, *noisy(count=20), window=2))
        assert step_time(under(0.05, a, b, timing=(pair,))).result is INCONCLUSIVE

    def test_runs_of_different_launches_are_no_pairs(
        self, worded: Worded, a: Record, b: Record
    ) -> None:
        """What one machine did to a run says nothing of what it did to another an hour later."""
        first, second, _ = self.launches(a, b, 1.0, drift=20.0)
        for mixed in ((first[0], second[1]), (first[0], with_manifest(
            first[1], lambda m: m.update(turns=None)
        ))):  # fmt: skip
            result = step_time(under(0.02, a, b, timing=(mixed,)))
            assert result.result is INCONCLUSIVE
            worded(result)

    @pytest.mark.parametrize("side", [0, 1])
    def test_a_launch_that_broke_off(self, worded: Worded, a: Record, b: Record, side: int) -> None:
        launches = [list(pair) for pair in self.launches(a, b, 1.0)]
        launches[1][side] = without(launches[1][side], "windows", -1)
        broken = tuple((x, y) for x, y in launches)
        for limit in (0.02, None):
            result = step_time(under(limit, a, b, timing=broken))
            assert result.result is INVALID
            worded(result)

    def test_another_round_is_the_stricter_for_it(self, a: Record, b: Record) -> None:
        launches = self.launches(a, b, 1.0)

        def smallest_that_passes(rounds: int) -> float:
            return next(
                limit
                for limit in map(float, np.geomspace(1e-4, 1, 200))
                if judge_launches(launches, tolerance(step_time=limit), rounds).result is PASS
            )

        assert smallest_that_passes(10) > smallest_that_passes(1)

    def test_launches_alone(self, a: Record, b: Record) -> None:
        """Whether there is another round: whatever leaves the rung undecided asks for one."""

        def judged(launches: Launches) -> Result:
            return judge_launches(launches, tolerance(step_time=0.02), 1).result

        assert judged(self.launches(a, b, 1.0)) is PASS
        assert judged(self.launches(a, b, 2.0)) is FAIL
        assert judged(self.launches(a, b, 1.02)) is INCONCLUSIVE
        assert judged((in_turns(timed(a, 0.1), timed(b, 0.1)),)) is INCONCLUSIVE
        assert judged(((timed(a, *noisy()), timed(b, *noisy())),)) is INCONCLUSIVE
        ((x, y),) = self.launches(a, b, 1.02, count=1)
        assert judged(((x, without(y, "windows", 5)),)) is INVALID

    def test_launches_that_are_judged_again(self, a: Record, b: Record) -> None:
        launches, narrow = self.launches(a, b, 1.0), tolerance(step_time=0.008)
        results = [judge_launches(launches, narrow, rounds).result for rounds in (1, 1000)]
        assert results == [PASS, INCONCLUSIVE]


class TestStalls:
    """A step that is slow in every launch of one side hardly moves a midmean."""

    def launches(
        self, a: Record, b: Record, *stalls: tuple[int, int, int], lost: int | None = None
    ) -> tuple[tuple[Record, Record], ...]:
        """`stalls` are launch, side and window."""
        pairs = []
        for launch in range(3):
            sides = []
            for side, run in enumerate((a, b)):
                seconds = noisy(seed=10 * launch + side)
                for where in stalls:
                    if where[:2] == (launch, side):
                        seconds[where[2]] *= 4
                sides.append(timed(run, *seconds))
            pairs.append(in_turns(sides[0], sides[1], launch))
        if lost is not None:
            first, second = pairs[1]
            pairs[1] = (with_window(first, lost, compilations=1), second)
        return tuple(pairs)

    def judged(self, a: Record, b: Record, *stalls: tuple[int, int, int], **given: Any) -> Any:
        return step_time(under(0.05, a, b, timing=self.launches(a, b, *stalls, **given)))

    @pytest.mark.parametrize("side", [0, 1])
    def test_in_every_launch(self, worded: Worded, a: Record, b: Record, side: int) -> None:
        result = self.judged(a, b, *((launch, side, 8) for launch in range(3)))
        assert result.result is FAIL
        worded(result)
        assert result.findings[0].step == 10

    def test_although_a_window_was_left_out(self, worded: Worded, a: Record, b: Record) -> None:
        """Neither does that hide the stall, nor move it to another step."""
        result = self.judged(a, b, *((launch, 1, 8) for launch in range(3)), lost=3)
        assert result.result is FAIL
        worded(result)

    def test_the_machine_stalls_too(self, a: Record, b: Record) -> None:
        assert self.judged(a, b, (0, 1, 8), (1, 0, 9), (2, 1, 20)).result is PASS
        assert self.judged(a, b, (0, 1, 8), (1, 1, 8)).result is PASS

    def test_a_stall_of_both_is_none_of_one(self, a: Record, b: Record) -> None:
        both = [(launch, side, 8) for launch in range(3) for side in (0, 1)]
        assert self.judged(a, b, *both).result is PASS

    def test_one_launch_shows_none(self, worded: Worded, a: Record, b: Record) -> None:
        launches = self.launches(a, b, (0, 1, 8))[:1]
        result = step_time(under(0.05, a, b, timing=launches))
        assert result.result is INCONCLUSIVE
        worded(result)

    def test_windows_of_several_steps(self, worded: Worded, a: Record, b: Record) -> None:
        launches = []
        for launch in range(2):
            slow = noisy(seed=launch)
            slow[5] *= 4
            x, y = timed(a, *noisy(seed=launch + 5), window=2), timed(b, *slow, window=2)
            launches.append((x, y))
        result = step_time(under(0.05, a, b, timing=tuple(launches)))
        assert result.result is FAIL
        worded(result)
