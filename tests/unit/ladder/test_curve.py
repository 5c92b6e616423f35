"""Both curves, at every step: each way in which it could pass and should not."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import pytest
from builders import (
    Trainer,
    comparison,
    tolerance,
    with_loss,
    with_manifest,
    with_step,
    without,
)
from golden import Worded

from harness.ladder.comparison import Comparison
from harness.ladder.curve import Curve, curve_limits
from harness.ladder.metric import Metric
from harness.ladder.result import Result, RungResult
from harness.ladder.rungs.grad_norm_curve import grad_norm_curve
from harness.ladder.rungs.loss_curve import LOSSES, loss_curve
from harness.ladder.series import gradient_norms, losses
from harness.record.evidence import Record, Step
from harness.run import session

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


LIMIT = 2 * 2.4e-7


CURVE = Curve("loss_curve", "loss", LOSSES)


def measuring(distance: float | None) -> Metric:
    """The loss, if it were always so far apart."""
    return dataclasses.replace(LOSSES, distance=lambda x, y: distance)


Judge = Callable[[Comparison], RungResult]


Change = Callable[[Record, int, float | None], Record]


def with_norm(run: Record, index: int, norm: float | None) -> Record:
    return with_step(run, index, gradient_norm=norm)


def each_fails(judge: Judge, worded: Worded, *pairs: tuple[Record, Record]) -> None:
    """Each pair FAILs, and says what the golden file has."""
    for pair in pairs:
        result = judge(comparison(*pair))
        assert result.result is FAIL
        worded(result)


CURVES = pytest.mark.parametrize(
    ("judge", "change", "read"),
    [(loss_curve, with_loss, losses), (grad_norm_curve, with_norm, gradient_norms)],
    ids=["loss", "gradient norm"],
)


def at(run: Record, read: Callable[[Record], object], step: int) -> float:
    value = read(run)[step]  # type: ignore[index]
    assert isinstance(value, float)
    return value


@CURVES
class TestEveryStep:
    def test_equal(
        self, worded: Worded, a: Record, judge: Judge, change: Change, read: object
    ) -> None:
        result = judge(comparison(a, a))
        assert result.result is PASS
        worded(result)
        assert result.detects.startswith("a relative difference of 4.8e-07")
        assert result.value == 0
        assert result.limit == pytest.approx(LIMIT)

    def test_nearly_equal(
        self,
        worded: Worded,
        a: Record,
        judge: Judge,
        change: Change,
        read: Callable[[Record], object],
    ) -> None:
        near = change(a, 3, at(a, read, 3) * (1 + 1e-7))
        nearer = change(near, 6, at(a, read, 6) * (1 + 2e-7))
        result = judge(comparison(a, nearer))
        assert result.result is PASS
        worded(result)
        assert result.value == pytest.approx(2e-7, rel=0.01)

    @pytest.mark.parametrize("step", range(8))
    @pytest.mark.parametrize(("off", "expected"), [(0.9, PASS), (1.1, FAIL), (-1.1, FAIL)])
    def test_the_limit_counts_at_every_step_and_in_both_directions(
        self, worded: Worded, a: Record, judge: Judge, change: Change,
        read: Callable[[Record], object], step: int, off: float, expected: Result,
    ) -> None:  # fmt: skip
        other = change(a, step, at(a, read, step) * (1 + off * LIMIT))
        for pair in ((a, other), (other, a)):
            result = judge(comparison(*pair))
            assert result.result is expected
            if expected is FAIL:
                assert [f.step for f in result.findings] == [step]
                worded(result)

    @pytest.mark.parametrize("step", [0, 3, 7])
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_is_never_equal(
        self,
        worded: Worded,
        a: Record,
        judge: Judge,
        change: Change,
        read: Callable[[Record], object],
        step: int,
        value: float,
    ) -> None:
        broken = change(change(a, 7, value), step, value)
        for pair in ((a, broken), (broken, a), (broken, broken)):
            result = judge(comparison(*pair))
            assert result.result is FAIL
            assert result.findings[0].step == step
            told = [at(run, read, step) for run in pair]
            assert str([result.findings[0].a, result.findings[0].b]) == str(told)
            worded(result)
            assert result.value is not None
            assert math.isnan(result.value)

    @pytest.mark.parametrize("step", [0, 3, 7])
    def test_a_value_that_is_missing(
        self,
        worded: Worded,
        a: Record,
        b: Record,
        judge: Judge,
        change: Change,
        read: object,
        step: int,
    ) -> None:
        none = change(a, step, None), change(b, step, None)
        each_fails(judge, worded, (none[0], b), (a, none[1]), none)

    @pytest.mark.parametrize("step", [0, 3, 7])
    def test_a_step_that_is_missing(
        self,
        worded: Worded,
        a: Record,
        b: Record,
        judge: Judge,
        change: Change,
        read: object,
        step: int,
    ) -> None:
        gaps = without(a, "steps", step), without(b, "steps", step)
        each_fails(judge, worded, (gaps[0], b), (a, gaps[1]), gaps)

    def test_a_gap_that_a_later_step_fills(
        self, a: Record, judge: Judge, change: Change, read: object
    ) -> None:
        """As many values as steps, but not those of the steps."""
        late = with_step(without(a, "steps", 3), 6, index=8)
        for pair in ((a, late), (late, a), (late, late)):
            result = judge(comparison(*pair))
            assert result.result is FAIL

    def test_truncated(
        self, worded: Worded, a: Record, judge: Judge, change: Change, read: object
    ) -> None:
        short = dataclasses.replace(a, steps=a.steps[:5])
        each_fails(judge, worded, (a, short), (short, a), (short, short))

    @pytest.mark.parametrize("requested", [7, 9])
    def test_another_number_of_steps_than_was_asked_for(
        self, a: Record, judge: Judge, change: Change, read: object, requested: int
    ) -> None:
        other = with_manifest(a, lambda m: m["case"].update(steps=requested))
        for pair in ((a, other), (other, a), (other, other)):
            result = judge(comparison(*pair))
            assert result.result is FAIL
            assert [f.step for f in result.findings] == ([8] if requested == 9 else [])

    def test_a_step_beyond_those_that_were_asked_for(
        self, a: Record, judge: Judge, change: Change, read: object
    ) -> None:
        """It was begun, and not finished."""
        more = dataclasses.replace(a.steps[-1], index=8, finished=False)
        longer = dataclasses.replace(a, steps=(*a.steps, more))
        for pair in ((a, longer), (longer, a)):
            result = judge(comparison(*pair))
            assert (result.result, result.findings[0].step) == (FAIL, 8)

    def test_a_run_that_is_not_complete(
        self, worded: Worded, a: Record, judge: Judge, change: Change, read: object
    ) -> None:
        other = with_manifest(a, lambda m: m["ended"].update(status="stopped early"))
        each_fails(judge, worded, (a, other), (other, a), (other, other))
        assert judge(comparison(a, with_step(a, 7, finished=False))).result is FAIL

    def test_the_first_step_that_differs_is_told_and_all_are_counted(
        self,
        worded: Worded,
        a: Record,
        judge: Judge,
        change: Change,
        read: Callable[[Record], object],
    ) -> None:
        other = a
        for step in (2, 5, 6):
            other = change(other, step, at(a, read, step) * (1 + step * 1e-3))
        result = judge(comparison(a, other))
        assert result.result is FAIL
        worded(result)
        assert result.value == pytest.approx(2e-3, rel=0.01)
        assert [f.step for f in result.findings] == [2, 5, 6]

    def test_the_same_numbers_in_another_order(
        self, a: Record, judge: Judge, change: Change, read: Callable[[Record], object]
    ) -> None:
        """Mean, minimum and last value are the same."""
        x, y = at(a, read, 2), at(a, read, 3)
        assert judge(comparison(a, change(change(a, 2, y), 3, x))).result is FAIL

    def test_a_lag_of_one_step(
        self,
        worded: Worded,
        a: Record,
        judge: Judge,
        change: Change,
        read: Callable[[Record], object],
    ) -> None:
        late = with_manifest(a, lambda m: m.update(label="late"))
        for step in range(1, 8):
            late = change(late, step, at(a, read, step - 1))
        each_fails(judge, worded, (a, late), (late, a))


def _processor_time(a: Record, count: int) -> float:
    """Seconds that judging so many equal steps takes."""
    steps = tuple(Step(i, loss=2.0, finished=True) for i in range(count))
    uncounted = tuple(dataclasses.replace(p, counted=None) for p in a.parameters)
    run = with_manifest(
        dataclasses.replace(a, steps=steps, parameters=uncounted),
        lambda m: m["case"].update(steps=count),
    )
    started = time.process_time()
    assert loss_curve(comparison(run, run, noise_floor=(run, run))).result is PASS
    return time.process_time() - started


class TestLimits:
    def curves(self, *differences: float) -> tuple[Record, Record]:
        """A noise floor whose losses differ by so much, step by step."""
        a = b = Trainer(steps=len(differences)).record()
        for step, difference in enumerate(differences):
            a, b = with_loss(a, step, 1.0), with_loss(b, step, 1.0 - difference)
        return a, b

    def limits(self, *differences: float) -> list[float]:
        noise_floor = self.curves(*differences)
        c = comparison(*noise_floor, noise_floor=noise_floor, deterministic=True)
        return [li.value for li in curve_limits(c, CURVE, len(differences))]

    def test_differences_build_up(self) -> None:
        floor = 2 * 2.4e-7
        assert self.limits(0, 1e-3, 1e-4, 2e-3) == pytest.approx([floor, 2e-3, 2e-3, 4e-3])

    def test_the_documented_floor_is_the_least(self) -> None:
        assert self.limits(0, 0, 1e-9) == pytest.approx([LIMIT] * 3)

    def test_a_noise_floor_that_breaks_widens_nothing_any_more(self) -> None:
        assert self.limits(1e-3, math.nan, 1e-2, 0) == pytest.approx([2e-3] + [LIMIT] * 3)

    def test_a_noise_floor_that_is_truncated_widens_nothing_any_more(self) -> None:
        a, b = self.curves(1e-3, 1e-3, 1e-3, 1e-3)
        for noise_floor in ((a, without(b, "steps", 2)), (without(a, "steps", 2), b)):
            c = comparison(a, b, noise_floor=noise_floor, deterministic=True)
            values = [li.value for li in curve_limits(c, CURVE, 4)]
            assert values == pytest.approx([2e-3, 2e-3, LIMIT, LIMIT])

    def test_a_later_difference_does_not_widen_an_earlier_limit(self, a: Record) -> None:
        noise_floor = self.curves(0, 0, 0, 0, 0, 0, 0, 1e-2)
        early = with_loss(a, 1, 1.0), with_loss(a, 1, 1.001)
        assert (
            loss_curve(comparison(*early, noise_floor=noise_floor, deterministic=True)).result
            is FAIL
        )
        late = with_loss(a, 7, 1.0), with_loss(a, 7, 1.001)
        result = loss_curve(comparison(*late, noise_floor=noise_floor, deterministic=True))
        assert result.result is PASS
        assert result.detects.startswith("a relative difference of 0.02, ")

    def test_without_a_noise_floor(self, a: Record) -> None:
        limits = curve_limits(comparison(a, a), CURVE, 3)
        assert [li.value for li in limits] == pytest.approx([LIMIT] * 3)
        assert limits[0].source == "2 × 2.4e-07, the floor documented for float32 on CPU"

    @pytest.mark.parametrize(("measured", "told"), [(1e-9, "1e-09"), (2.4e-7, "2.4e-07")])
    def test_a_lucky_noise_floor_is_told(self, a: Record, measured: float, told: str) -> None:
        assert comparison(a, a).limit_over(LOSSES, measured).source == (
            "2 × 2.4e-07, the floor documented for float32 on CPU (the perturbed run measured "
            f"{told})"
        )

    def test_the_margin(self, a: Record) -> None:
        noise_floor = self.curves(1e-3, 1e-3)
        c = comparison(
            a, a, noise_floor=noise_floor, deterministic=True, tolerance=tolerance(margin=5)
        )
        assert curve_limits(c, CURVE, 1)[0].value == pytest.approx(5e-3)
        assert curve_limits(c, CURVE, 1)[0].source.startswith("5 × 0.001, ")

    def test_the_smaller_floor_counts_where_dtypes_differ(self, a: Record) -> None:
        b = Trainer(dtype="bfloat16").record()
        for pair in ((a, b), (b, a)):
            assert comparison(*pair).limit_over(LOSSES, None).value == pytest.approx(LIMIT)
        assert comparison(b, b).limit_over(LOSSES, None).value == pytest.approx(2e-4)

    def test_a_dtype_without_a_floor(self, a: Record) -> None:
        b = with_manifest(a, lambda m: m["case"].update(dtype="float16"))
        for pair in ((a, b), (b, a)):
            limit = comparison(*pair).limit_over(LOSSES)
            assert limit.useless
            assert "tolerance.floor.float16.loss" in limit.source
        blind = loss_curve(comparison(b, with_loss(with_loss(b, 1, 9.0), 7, 9.0)))
        assert (blind.result, blind.value) == (Result.INCONCLUSIVE, 0.0)
        assert blind.explanation.startswith("from step 0 on the loss is not judged: ")
        nearly = with_loss(b, 0, 2.8)
        for other, result in ((nearly, Result.INCONCLUSIVE), (b, PASS)):  # equal is equal
            verdict = session.compare(b, other, tolerance()).verdict
            assert verdict.pairs[0].rung("forward").result is result

    def test_a_noise_floor_that_measured_nothing(self, a: Record) -> None:
        c = comparison(a, a, noise_floor=(a, a), deterministic=True)
        for measured in (None, math.nan, math.inf):
            assert c.limit_over(LOSSES, measured).value == pytest.approx(LIMIT)
        assert c.limit(measuring(None)).value == pytest.approx(LIMIT)
        assert c.limit(measuring(0.5)).value == 1.0
        assert comparison(a, a).limit(measuring(0.5)).value == pytest.approx(LIMIT)

    def test_the_time_of_many_steps_grows_with_their_number(self, a: Record) -> None:
        few, many = (_processor_time(a, steps) for steps in (2_500, 20_000))
        assert many < 24 * few  # 8 times, and 64 times where it grows with the square
