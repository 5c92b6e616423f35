"""Rungs loss_curve and grad_norm_curve: each way in which they could pass and should not."""

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
    with_parameter,
    with_step,
    without,
)

from harness.base.errors import BadInput
from harness.ladder.comparison import Comparison
from harness.ladder.curve import Curve, curve_limits, gradient_norms, losses
from harness.ladder.distances import exceeds, largest, relative_difference, sketch_norm, worst
from harness.ladder.metric import Metric
from harness.ladder.result import Result, RungResult
from harness.ladder.rungs.grad_norm_curve import grad_norm_curve
from harness.ladder.rungs.loss_curve import LOSSES, loss_curve
from harness.record.files import Fingerprint, Record, Step
from harness.run import session

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID
NOT_EXERCISED = Result.NOT_EXERCISED
LIMIT = 2 * 2.4e-7
CURVE = Curve("loss_curve", "loss", LOSSES, losses)


def measuring(distance: float | None) -> Metric:
    """The loss, if it were always so far apart."""
    return dataclasses.replace(LOSSES, distance=lambda x, y: distance)


Judge = Callable[[Comparison], RungResult]
Change = Callable[[Record, int, float | None], Record]


def with_norm(run: Record, index: int, norm: float | None) -> Record:
    return with_step(run, index, gradient_norm=norm)


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
    def test_equal(self, a: Record, judge: Judge, change: Change, read: object) -> None:
        result = judge(comparison(a, a))
        assert result.result is PASS
        assert "all 8 steps are bitwise equal" in result.explanation
        assert result.detects.startswith("a relative difference of 4.8e-07")
        assert result.value == 0
        assert result.limit == pytest.approx(LIMIT)

    def test_nearly_equal(
        self, a: Record, judge: Judge, change: Change, read: Callable[[Record], object]
    ) -> None:
        near = change(a, 3, at(a, read, 3) * (1 + 1e-7))
        nearer = change(near, 6, at(a, read, 6) * (1 + 2e-7))
        result = judge(comparison(a, nearer))
        assert result.result is PASS
        assert "the first 3 of 8 steps are bitwise equal, max |Δ|" in result.explanation
        assert "at step 6" in result.explanation
        assert result.value == pytest.approx(2e-7, rel=0.01)

    @pytest.mark.parametrize("step", range(8))
    @pytest.mark.parametrize(("off", "expected"), [(0.9, PASS), (1.1, FAIL), (-1.1, FAIL)])
    def test_the_limit_counts_at_every_step_and_in_both_directions(
        self, a: Record, judge: Judge, change: Change, read: Callable[[Record], object],
        step: int, off: float, expected: Result,
    ) -> None:  # fmt: skip
        other = change(a, step, at(a, read, step) * (1 + off * LIMIT))
        for pair in ((a, other), (other, a)):
            result = judge(comparison(*pair))
            assert result.result is expected
            if expected is FAIL:
                assert [f.step for f in result.findings] == [step]
                assert result.explanation.startswith(f"step {step}: ")
                assert "steps differ" not in result.explanation

    @pytest.mark.parametrize("step", [0, 3, 7])
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_is_never_equal(
        self, a: Record, judge: Judge, change: Change, read: object, step: int, value: float
    ) -> None:
        broken = change(a, step, value)
        for pair in ((a, broken), (broken, a), (broken, broken)):
            result = judge(comparison(*pair))
            assert result.result is FAIL
            assert result.findings[0].step == step
            assert result.explanation.startswith(f"step {step}: ")
            assert f"is {value}" in result.explanation
            assert result.value is not None
            assert math.isnan(result.value)

    @pytest.mark.parametrize("step", [0, 3, 7])
    def test_a_value_that_is_missing(
        self, a: Record, b: Record, judge: Judge, change: Change, read: object, step: int
    ) -> None:
        none = change(a, step, None), change(b, step, None)
        for x, y, who in ((none[0], b, "hf"), (a, none[1], "b"), (none[0], none[1], "hf")):
            result = judge(comparison(x, y))
            assert result.result is FAIL
            assert f"{who} has no" in result.explanation
            assert result.explanation.endswith(f"at 1 of 8 steps, first at {step}")

    @pytest.mark.parametrize("step", [0, 3, 7])
    def test_a_step_that_is_missing(
        self, a: Record, b: Record, judge: Judge, change: Change, read: object, step: int
    ) -> None:
        gaps = without(a, "steps", step), without(b, "steps", step)
        for pair in ((gaps[0], b), (a, gaps[1]), gaps):
            result = judge(comparison(*pair))
            assert result.result is FAIL
            assert result.explanation.endswith(f"at 1 of 8 steps, first at {step}")

    def test_a_gap_that_a_later_step_fills(
        self, a: Record, judge: Judge, change: Change, read: object
    ) -> None:
        """As many values as steps, but not those of the steps."""
        late = with_step(without(a, "steps", 3), 6, index=8)
        for pair in ((a, late), (late, a), (late, late)):
            result = judge(comparison(*pair))
            assert result.result is FAIL
            assert "first at" in result.explanation

    def test_truncated(self, a: Record, judge: Judge, change: Change, read: object) -> None:
        short = dataclasses.replace(a, steps=a.steps[:5])
        for pair in ((a, short), (short, a), (short, short)):
            result = judge(comparison(*pair))
            assert result.result is FAIL
            assert result.explanation.endswith("at 3 of 8 steps, first at 5")

    @pytest.mark.parametrize("asked", [7, 9])
    def test_another_number_of_steps_than_was_asked_for(
        self, a: Record, judge: Judge, change: Change, read: object, asked: int
    ) -> None:
        other = with_manifest(a, lambda m: m["case"].update(steps=asked))
        for pair in ((a, other), (other, a), (other, other)):
            assert judge(comparison(*pair)).result is FAIL

    def test_a_run_that_is_not_complete(
        self, a: Record, judge: Judge, change: Change, read: object
    ) -> None:
        other = with_manifest(a, lambda m: m["ended"].update(status="stopped early"))
        for pair in ((a, other), (other, a), (other, other)):
            result = judge(comparison(*pair))
            assert result.result is FAIL
            assert "did not train just the 8 steps" in result.explanation
        assert judge(comparison(a, with_step(a, 7, finished=False))).result is FAIL

    def test_the_first_step_that_differs_is_told_and_all_are_counted(
        self, a: Record, judge: Judge, change: Change, read: Callable[[Record], object]
    ) -> None:
        other = a
        for step in (2, 5, 6):
            other = change(other, step, at(a, read, step) * (1 + step * 1e-3))
        result = judge(comparison(a, other))
        assert result.result is FAIL
        assert result.explanation.startswith("step 2: ")
        assert result.explanation.endswith("3 of 8 steps differ")
        assert result.value == pytest.approx(2e-3, rel=0.01)
        assert [f.step for f in result.findings] == [2, 5, 6]

    def test_the_same_numbers_in_another_order(
        self, a: Record, judge: Judge, change: Change, read: Callable[[Record], object]
    ) -> None:
        """Mean, minimum and last value are the same."""
        x, y = at(a, read, 2), at(a, read, 3)
        assert judge(comparison(a, change(change(a, 2, y), 3, x))).result is FAIL

    def test_a_lag_of_one_step(
        self, a: Record, judge: Judge, change: Change, read: Callable[[Record], object]
    ) -> None:
        late = dataclasses.replace(a, manifest={**a.manifest, "label": "late"})
        for step in range(1, 8):
            late = change(late, step, at(a, read, step - 1))
        for pair in ((a, late), (late, a)):
            result = judge(comparison(*pair))
            assert result.result is FAIL
            text = "a lag of one step: late's series is one step late; step 1: "
            assert result.explanation.startswith(text)


class TestGradientNorms:
    def test_none_are_measured_where_none_is_clipped(self) -> None:
        pair = [Trainer(label=label, max_norm=None).record() for label in "ab"]
        result = grad_norm_curve(comparison(*pair))
        assert result.result is NOT_EXERCISED

    def test_none_were_observed_though_gradients_were_clipped(self, a: Record, b: Record) -> None:
        pair = []
        for run in (a, b):
            steps = tuple(dataclasses.replace(s, gradient_norm=None) for s in run.steps)
            pair.append(dataclasses.replace(run, steps=steps))
        assert grad_norm_curve(comparison(*pair)).result is INVALID
        assert grad_norm_curve(comparison(a, pair[1])).result is INVALID
        unclipped = Trainer(label="c", max_norm=None).record()
        assert grad_norm_curve(comparison(unclipped, pair[1])).result is INVALID

    def test_only_one_measures(self, a: Record) -> None:
        b = Trainer(label="b", max_norm=None).record()
        for pair in ((a, b), (b, a)):
            result = grad_norm_curve(comparison(*pair))
            assert result.result is INVALID
            assert result.explanation == "b measured no gradient norm"

    def test_one_that_was_measured_once_has_to_be_there_at_every_step(self, a: Record) -> None:
        once = a
        for step in range(1, 8):
            once = with_norm(once, step, None)
        assert grad_norm_curve(comparison(once, once)).result is FAIL


class TestLimits:
    def curves(self, *differences: float) -> tuple[Record, Record]:
        """A control whose losses differ by so much, step by step."""
        a = b = Trainer(steps=len(differences)).record()
        for step, difference in enumerate(differences):
            a, b = with_loss(a, step, 1.0), with_loss(b, step, 1.0 - difference)
        return a, b

    def limits(self, *differences: float) -> list[float]:
        control = self.curves(*differences)
        c = comparison(*control, control=control)
        return [li.value for li in curve_limits(c, CURVE, len(differences))]

    def test_differences_build_up(self) -> None:
        floor = 2 * 2.4e-7
        assert self.limits(0, 1e-3, 1e-4, 2e-3) == pytest.approx([floor, 2e-3, 2e-3, 4e-3])

    def test_the_documented_floor_is_the_least(self) -> None:
        assert self.limits(0, 0, 1e-9) == pytest.approx([LIMIT] * 3)

    def test_a_control_that_breaks_widens_nothing_any_more(self) -> None:
        assert self.limits(1e-3, math.nan, 1e-2, 0) == pytest.approx([2e-3] + [LIMIT] * 3)

    def test_a_control_that_is_truncated_widens_nothing_any_more(self) -> None:
        a, b = self.curves(1e-3, 1e-3, 1e-3, 1e-3)
        for control in ((a, without(b, "steps", 2)), (without(a, "steps", 2), b)):
            c = comparison(a, b, control=control)
            values = [li.value for li in curve_limits(c, CURVE, 4)]
            assert values == pytest.approx([2e-3, 2e-3, LIMIT, LIMIT])

    def test_a_later_difference_does_not_widen_an_earlier_limit(self, a: Record) -> None:
        control = self.curves(0, 0, 0, 0, 0, 0, 0, 1e-2)
        early = with_loss(a, 1, 1.0), with_loss(a, 1, 1.001)
        assert loss_curve(comparison(*early, control=control)).result is FAIL
        late = with_loss(a, 7, 1.0), with_loss(a, 7, 1.001)
        result = loss_curve(comparison(*late, control=control))
        assert result.result is PASS
        assert (
            "what weights perturbed by one unit in the last place do to hf" in result.limit_source
        )
        assert result.detects.startswith("a relative difference of 0.02, ")

    def test_without_a_control(self, a: Record) -> None:
        limits = curve_limits(comparison(a, a), CURVE, 3)
        assert [li.value for li in limits] == pytest.approx([LIMIT] * 3)
        assert limits[0].source == "2 × 2.4e-07, the floor documented for float32"

    def test_a_lucky_control_is_told(self, a: Record) -> None:
        c = comparison(a, a, control=self.curves(1e-9, 0))
        assert curve_limits(c, CURVE, 1)[0].source == (
            "2 × 2.4e-07, the floor documented for float32 (the control run measured 1e-09)"
        )

    def test_the_margin(self, a: Record) -> None:
        control = self.curves(1e-3, 1e-3)
        c = comparison(a, a, control=control, tolerance=tolerance(margin=5.0))
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
            with pytest.raises(BadInput, match=r"float16, .* no tolerance\.floor\.float16\.loss"):
                comparison(*pair).limit_over(LOSSES, None)
        with pytest.raises(BadInput, match=r"tolerance\.floor\.float16"):
            session.compare(b, b, tolerance())

    def test_a_control_that_measured_nothing(self, a: Record) -> None:
        c = comparison(a, a, control=(a, a))
        for measured in (None, math.nan, math.inf):
            assert c.limit_over(LOSSES, measured).value == pytest.approx(LIMIT)
        assert c.limit(measuring(None)).value == pytest.approx(LIMIT)
        assert c.limit(measuring(0.5)).value == 1.0
        assert comparison(a, a).limit(measuring(0.5)).value == pytest.approx(LIMIT)

    def test_many_steps_take_little_time(self, a: Record) -> None:
        steps = tuple(Step(i, loss=2.0, finished=True) for i in range(20_000))
        run = with_manifest(
            dataclasses.replace(a, steps=steps), lambda m: m["case"].update(steps=20_000)
        )
        started = time.process_time()
        assert loss_curve(comparison(run, run, control=(run, run))).result is PASS
        assert time.process_time() - started < 5


class TestDistances:
    def test_relative_difference(self) -> None:
        assert relative_difference(4.0, 3.0) == relative_difference(3.0, 4.0) == 0.25
        assert relative_difference(-4.0, 4.0) == 2
        assert relative_difference(0.0, 0.0) == relative_difference(0.0, -0.0) == 0
        assert relative_difference(0.0, 1.0) == 1

    @pytest.mark.parametrize("value", [None, math.nan, math.inf])
    def test_relative_difference_to_nothing(self, value: float | None) -> None:
        for pair in ((value, 1.0), (1.0, value), (value, value)):
            assert math.isnan(relative_difference(*pair))

    def test_exceeds(self) -> None:
        assert not exceeds(1.0, 1.0)
        assert exceeds(math.nextafter(1.0, 2.0), 1.0)
        assert exceeds(None, 1.0)
        assert exceeds(math.nan, math.inf)
        assert exceeds(0.0, math.nan)

    @pytest.mark.parametrize("values", [(math.nan, 1.0), (1.0, math.nan), (1.0, math.nan, 2.0)])
    def test_a_nan_is_the_largest(self, values: tuple[float, ...]) -> None:
        assert math.isnan(largest(values))
        name, value = worst({str(i): v for i, v in enumerate(values)})
        assert math.isnan(value)
        assert math.isnan(values[int(name)])

    def test_the_largest(self) -> None:
        assert largest([1.0, 3.0, 2.0]) == 3
        assert worst({"a": 1.0, "b": 3.0, "c": 2.0}) == ("b", 3.0)

    def test_the_norm_behind_a_sketch(self) -> None:
        assert sketch_norm((3.0, -3.0)) == 3
        assert math.isnan(sketch_norm(()))


class TestCourse:
    """Where the parameters end: the losses say nothing of it here, they are equal."""

    @staticmethod
    def ending(run: Record, index: int, share: float) -> Record:
        """The run with one parameter whose course is longer by `share`."""
        parameter = run.parameters[index]
        first, last = parameter.initial, parameter.final
        assert first is not None
        assert last is not None
        sketch = tuple(y + share * (y - x) for x, y in zip(first.sketch, last.sketch, strict=True))
        return with_parameter(run, index, final=Fingerprint(last.bits ^ 1, sketch, last.norm))

    def test_it_is_told(self, a: Record, b: Record) -> None:
        result = loss_curve(comparison(a, b))
        assert result.result is PASS
        assert "parameters end within " in result.explanation
        assert result.detects.endswith("or a course that is off by 0.00034")

    def test_a_parameter_that_only_one_has_hides_no_other(self, a: Record, b: Record) -> None:
        """It fails at sharding, and its course is nobody's; those of the others are judged."""
        name = a.parameters[1].name
        for left, right in ((a, b), (b, a)):
            elsewhere = self.ending(without(right, "parameters", 0), 0, 0.01)
            result = loss_curve(comparison(left, elsewhere))
            assert result.result is FAIL
            assert f"1 of 2 parameters end elsewhere; most: {name}" in result.explanation
            (pair,) = session.compare(left, elsewhere, tolerance()).verdict.pairs
            assert pair.rung("sharding").result is FAIL
            assert pair.rung("loss_curve").result is not PASS

    def test_a_last_update_that_is_missing(self, a: Record) -> None:
        """Seven steps' parameters under eight steps' losses: no loss tells of the last update."""
        short = Trainer(steps=7).record()
        ended = dataclasses.replace(
            a,
            parameters=tuple(
                dataclasses.replace(p, final=q.final)
                for p, q in zip(a.parameters, short.parameters, strict=True)
            ),
        )
        result = loss_curve(comparison(a, ended))
        assert result.result is FAIL
        assert "all 8 steps are bitwise equal, but 3 of 3 parameters end elsewhere" in (
            result.explanation
        )
        assert result.limit_source == "2 × 0.0001, the floor documented for float32"
        assert {f.parameter for f in result.findings} == {p.name for p in a.parameters}

    @pytest.mark.parametrize("index", [0, 1, 2])
    @pytest.mark.parametrize(("share", "expected"), [(1e-4, PASS), (1e-3, FAIL), (-1e-3, FAIL)])
    def test_each_parameter_at_the_limit(
        self, a: Record, index: int, share: float, expected: Result
    ) -> None:
        for pair in ((a, self.ending(a, index, share)), (self.ending(a, index, share), a)):
            assert loss_curve(comparison(*pair)).result is expected

    @pytest.mark.parametrize("side", [0, 1])
    @pytest.mark.parametrize("key", ["initial", "final"])
    def test_not_observed(self, a: Record, side: int, key: str) -> None:
        pair = [a, a]
        pair[side] = with_parameter(a, 1, **{key: None})
        result = loss_curve(comparison(*pair))
        assert result.result is INVALID
        assert "where the parameters end was not observed" in result.explanation

    def test_no_parameter_in_common(self, a: Record) -> None:
        renamed = dataclasses.replace(
            a, parameters=tuple(dataclasses.replace(p, name=f"x.{p.name}") for p in a.parameters)
        )
        assert loss_curve(comparison(a, renamed)).result is INVALID

    @pytest.mark.parametrize("broken", [math.nan, math.inf])
    def test_not_a_number(self, a: Record, broken: float) -> None:
        last = a.parameters[1].final
        assert last is not None
        poisoned = Fingerprint(last.bits, (broken,) * len(last.sketch), broken)
        for pair in (
            (a, with_parameter(a, 1, final=poisoned)),
            (with_parameter(a, 1, final=poisoned), a),
            (with_parameter(a, 1, final=poisoned),) * 2,
        ):
            assert loss_curve(comparison(*pair)).result is FAIL

    def test_one_that_did_not_move(self, a: Record) -> None:
        still = with_parameter(a, 0, final=a.parameters[0].initial)
        assert loss_curve(comparison(a, still)).result is FAIL
        assert loss_curve(comparison(still, still)).result is PASS

    def test_other_sketches_cannot_be_compared(self, a: Record) -> None:
        last = a.parameters[0].final
        assert last is not None
        shorter = Fingerprint(last.bits, last.sketch[:-1], last.norm)
        assert loss_curve(comparison(a, with_parameter(a, 0, final=shorter))).result is FAIL

    def test_the_control_widens_it(self, a: Record) -> None:
        other = self.ending(a, 1, 1e-3)
        control = a, self.ending(a, 0, 1e-2)
        assert loss_curve(comparison(a, other, control=control)).result is PASS
        assert loss_curve(comparison(a, self.ending(a, 1, 0.1), control=control)).result is FAIL

    def test_a_limit_that_nothing_could_exceed_judges_nothing(self, a: Record) -> None:
        control = a, self.ending(a, 0, -2.0)
        result = loss_curve(comparison(a, a, control=control))
        assert "which is not judged" in result.explanation
        assert "course" not in result.detects
