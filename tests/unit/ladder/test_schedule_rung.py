"""The rung schedule: each way in which it could pass and should not."""

from __future__ import annotations

import dataclasses
import math

import pytest
from builders import (
    Trainer,
    as_training,
    comparison,
    with_manifest,
    with_parameter,
    with_step,
    without,
)
from golden import Worded

from harness.ladder.curve import lagging
from harness.ladder.distances import relative_difference
from harness.ladder.result import Result
from harness.ladder.rungs.schedule import schedule
from harness.record.evidence import Imported, Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


NOT_EXERCISED = Result.NOT_EXERCISED


class TestRates:
    def test_both_peak_elsewhere_than_the_case_asks(self, a: Record, b: Record) -> None:
        x, y = (
            with_manifest(r, lambda m: m["case"]["optimizer"].update(learning_rate=0.02))
            for r in (a, b)
        )
        result = schedule(comparison(x, y))
        assert result.result is FAIL
        assert result.findings[0].step == 1
        assert (result.findings[0].a, result.findings[0].b) == (0.005, 0.01)

    def test_equal(self, worded: Worded, a: Record, b: Record) -> None:
        result = schedule(comparison(a, b))
        assert result.result is PASS
        worded(result)
        assert result.detects == "a relative difference of 1e-09"

    @pytest.mark.parametrize("step", [1, 4, 7])
    @pytest.mark.parametrize(("off", "expected"), [(0.5, PASS), (2.0, FAIL), (-2.0, FAIL)])
    def test_one_step(
        self, worded: Worded, a: Record, step: int, off: float, expected: Result
    ) -> None:
        rate = a.steps[step].learning_rates[0]
        b = with_step(a, step, learning_rates=(rate * (1 + off * 1e-9),))
        for pair in ((a, b), (b, a)):
            result = schedule(comparison(*pair))
            assert result.result is expected
            if expected is FAIL:
                assert [f.step for f in result.findings] == [step]
                worded(result)

    def test_a_factor(self, worded: Worded, a: Record) -> None:
        b = Trainer(label="b", learning_rate=1.01e-2).record()
        result = schedule(comparison(a, b))
        assert result.result is FAIL
        worded(result)
        worded(schedule(comparison(b, a)))

    def test_no_factor(self, worded: Worded, a: Record) -> None:
        b = with_step(with_step(a, 3, learning_rates=(1.0,)), 4, learning_rates=(2.0,))
        result = schedule(comparison(a, b))
        worded(result)

    def test_a_rate_of_zero_has_no_factor(self, a: Record) -> None:
        b = with_step(with_step(a, 0, learning_rates=(1.0,)), 3, learning_rates=(1.0,))
        for pair in ((a, b), (b, a)):
            result = schedule(comparison(*pair))
            assert (result.result, len(result.findings)) == (FAIL, 2)

    def test_another_decay(self, worded: Worded, a: Record) -> None:
        class Constant(Trainer):
            def rate(self, step: int) -> float:
                return min(super().rate(step), self.learning_rate) if step < 2 else 1e-2

        result = schedule(comparison(a, Constant(label="b").record()))
        assert result.result is FAIL
        assert result.findings[0].step == 3
        worded(result)

    def test_a_lag_of_one_step(self, worded: Worded, a: Record) -> None:
        class Late(Trainer):
            def rate(self, step: int) -> float:
                return super().rate(max(0, step - 1))

        late = Late(label="late").record()
        for pair in ((a, late), (late, a)):
            result = schedule(comparison(*pair))
            assert result.result is FAIL
            worded(result)

    @pytest.mark.parametrize("step", [0, 4, 7])
    def test_one_that_was_not_observed(
        self, worded: Worded, a: Record, b: Record, step: int
    ) -> None:
        none = [with_step(r, step, learning_rates=()) for r in (a, b)]
        for pair in ((none[0], b), (a, none[1]), none):
            result = schedule(comparison(*pair))
            assert result.result is INVALID
            worded(result)

    def test_a_group_without_a_rate(self, a: Record, b: Record) -> None:
        other = with_step(b, 3, learning_rates=b.steps[3].learning_rates[:1])
        for pair in ((a, other), (other, a), (other, other)):
            assert schedule(comparison(*pair)).result is INVALID

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("group", [0, 1])
    def test_what_is_not_finite_is_never_equal(
        self, a: Record, b: Record, value: float, group: int
    ) -> None:
        rates = list(b.steps[5].learning_rates)
        rates[group] = value
        broken = with_step(b, 5, learning_rates=tuple(rates))
        for pair in ((a, broken), (broken, a), (broken, broken)):
            result = schedule(comparison(*pair))
            assert result.result is FAIL
            assert result.findings[0].step == 5
            assert result.value is not None
            assert math.isnan(result.value)

    def test_groups_whose_rates_trade_places(self, worded: Worded) -> None:
        """The set of rates is the same; which parameters they move is not."""
        pair = [Trainer(label=label, groups=2).record() for label in "ab"]
        pair[0] = with_step(pair[0], 5, learning_rates=(1e-3, 1e-4))
        pair[1] = with_step(pair[1], 5, learning_rates=(1e-4, 1e-3))
        result = schedule(comparison(*pair))
        assert result.result is FAIL
        worded(result)

    def test_groups_that_are_numbered_otherwise(self) -> None:
        a = Trainer(label="a", groups=2).record()
        b = a
        for index, group in enumerate((1, 0, 1)):
            b = with_parameter(b, index, group=group)
        a = as_training(with_step(a, 5, learning_rates=(1e-3, 1e-4)))
        b = as_training(with_step(b, 5, learning_rates=(1e-4, 1e-3)))
        assert schedule(comparison(a, b)).result is PASS

    def test_the_second_group_counts(self, a: Record, b: Record) -> None:
        rate = b.steps[5].learning_rates[0]
        result = schedule(comparison(a, with_step(b, 5, learning_rates=(rate, rate * 2))))
        assert result.result is FAIL

    def test_nothing_is_in_both(self, a: Record) -> None:
        free = a
        for index in range(3):
            free = with_parameter(free, index, group=None)
        none = dataclasses.replace(a, parameters=())
        empty = dataclasses.replace(a, steps=())
        for other in (free, none, empty):
            for pair in ((a, other), (other, a), (other, other)):
                assert schedule(comparison(*pair)).result is INVALID

    @pytest.mark.parametrize("which", [0, 1])
    def test_truncated(self, worded: Worded, a: Record, which: int) -> None:
        """As many learning rates as there are agree; that is not all."""
        pair = [a, Trainer(label="b").record()]
        pair[which] = dataclasses.replace(pair[which], steps=pair[which].steps[:5])
        result = schedule(comparison(*pair))
        assert result.result is INVALID
        worded(result)

    def test_truncated_on_both_sides(self, a: Record) -> None:
        short = dataclasses.replace(a, steps=a.steps[:5])
        assert schedule(comparison(short, short)).result is INVALID

    def test_a_gap_does_not_shift_what_follows(self, worded: Worded, a: Record, b: Record) -> None:
        result = schedule(comparison(a, without(b, "steps", 4)))
        assert result.result is INVALID
        worded(result)

    def test_a_difference_in_a_truncated_run_is_still_one(self, a: Record) -> None:
        b = Trainer(label="b", learning_rate=2e-2).record()
        short = dataclasses.replace(b, steps=b.steps[:5])
        assert schedule(comparison(a, short)).result is FAIL

    def test_every_rate_is_zero(self, a: Record) -> None:
        class Zero(Trainer):
            def rate(self, step: int) -> float:
                return 0.0

        pair = Zero().record(), Zero(label="b").record()
        assert schedule(comparison(*pair)).result is FAIL  # the case asks for others
        assert schedule(comparison(a, pair[1])).result is FAIL
        requests = [as_training(run) for run in pair]
        assert schedule(comparison(*requests)).result is NOT_EXERCISED

    @pytest.mark.parametrize("factor", [-1.0, 0.5, 1 + 1e-6, 0.0])
    def test_both_use_other_rates_than_the_case(self, factor: float) -> None:
        class Other(Trainer):
            def rate(self, step: int) -> float:
                return factor * super().rate(step)

        result = schedule(comparison(Other().record(), Other(label="b").record()))
        assert (result.result, result.findings[0].step) == (FAIL, 1)

    @pytest.mark.parametrize("name", ["constant", "cosine"])
    def test_both_decay_otherwise_than_the_case(self, a: Record, b: Record, name: str) -> None:
        pair = [with_manifest(r, lambda m: m["case"]["schedule"].update(name=name)) for r in (a, b)]
        result = schedule(comparison(*pair))
        assert (result.result, result.findings[0].step) == (FAIL, 3)
        assert result.explanation == result.findings[0].text
        assert result.value == relative_difference(result.findings[0].a, result.findings[0].b)


class TestSkipped:
    """A schedule goes on without an update that was skipped."""

    def skipping(self, run: Record, *at: int) -> Record:
        """The Record of a run whose updates of these steps were skipped."""
        rates = [s.learning_rates for i, s in enumerate(run.steps) if i not in at]
        steps = [
            dataclasses.replace(step, learning_rates=rate, micro_losses=(1.0,) * (1 + (i in at)))
            for i, (step, rate) in enumerate(zip(run.steps, rates, strict=False))
        ]
        return dataclasses.replace(run, steps=tuple(steps))

    @pytest.mark.parametrize("at", [(5,), (3, 5)])
    def test_the_rates_up_to_it_are_judged(self, a: Record, b: Record, at: tuple[int, ...]) -> None:
        other = self.skipping(b, *at)
        for pair in ((a, other), (other, a)):
            result = schedule(comparison(*pair))
            assert result.result is INVALID
            assert f"skipped at step {at[0]}" in result.explanation
        other = with_step(other, 2, learning_rates=(1.0, 1.0))
        assert schedule(comparison(a, other)).result is FAIL


class TestImported:
    """Of a run that was imported: the rate of its first group, by the digits that were printed."""

    def imported(self, run: Record) -> Record:
        made = Imported(("a log",), {"learning_rate": 1e-3})
        return dataclasses.replace(run, manifest=dataclasses.replace(run.manifest, imported=made))

    @pytest.mark.parametrize(("off", "expected"), [(1.9e-3, PASS), (2.1e-3, FAIL)])
    def test_what_was_printed(self, a: Record, b: Record, off: float, expected: Result) -> None:
        first, second = b.steps[4].learning_rates
        other = with_step(b, 4, learning_rates=(first * (1 - off), second * 9))
        for pair in ((self.imported(a), other), (other, self.imported(a))):
            result = schedule(comparison(*map(as_training, pair)))
            assert result.result is expected


class TestLagging:
    def series(self, *values: float) -> list[tuple[float | None, ...]]:
        return [(v,) for v in values]

    def test_which_one_is_late(self) -> None:
        early, late = self.series(1, 2, 3, 4), self.series(0, 1, 2, 3)
        assert lagging(early, late, 0) == 1
        assert lagging(late, early, 0) == -1
        assert lagging(early, early, 0) == 0

    def test_a_lag_needs_more_than_two_pairs(self) -> None:
        assert lagging(self.series(1, 2, 3), self.series(0, 1, 2), 0) == 0

    def test_one_value_that_does_not_fit_is_no_lag(self) -> None:
        assert lagging(self.series(1, 2, 3, 4), self.series(0, 1, 2, 9), 0) == 0

    def test_within_a_limit(self) -> None:
        late = self.series(0, 1.0001, 2, 3)
        assert lagging(self.series(1, 2, 3, 4), late, 1e-3) == 1
        assert lagging(self.series(1, 2, 3, 4), late, 1e-5) == 0

    def test_nan_is_no_lag(self) -> None:
        nan = math.nan
        assert lagging(self.series(1, nan, 3, 4), self.series(0, 1, nan, 3), 1.0) == 0
