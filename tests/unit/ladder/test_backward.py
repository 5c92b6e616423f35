"""The rung backward: each way in which it could pass and should not."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from builders import (
    Arrays,
    CountsFirst,
    CountsRight,
    Trainer,
    comparison,
    fingerprint,
    total_norm,
    with_parameter,
    with_step,
    without,
)
from golden import Worded

from harness.ladder.judge import judge
from harness.ladder.loss import division
from harness.ladder.result import Result
from harness.ladder.rungs.backward import (
    backward,
    gradient_distances,
    gradient_norm,
    worst_gradient_distance,
)
from harness.ladder.rungs.clip import clip
from harness.ladder.rungs.forward import forward
from harness.record.evidence import CrossEntropy, Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


GRADIENT = 2 * 2e-6


def scaled(run: Record, index: int, factor: float, what: str = "gradient") -> Record:
    """A Record with one fingerprint multiplied, as that of a multiplied tensor would be."""
    exact = getattr(run.parameters[index], what)
    sketch = tuple(s * factor for s in exact.sketch)
    changed = dataclasses.replace(exact, sketch=sketch, norm=exact.norm * abs(factor), bits=1)
    return with_parameter(run, index, **{what: changed})


class TestBackward:
    def test_equal(self, a: Record, b: Record) -> None:
        result = backward(comparison(a, b))
        assert result.result is PASS
        assert result.value is not None
        assert 0 < result.value < 1e-6  # they add up in another order
        assert result.limit == pytest.approx(GRADIENT)
        assert result.detects == "one parameter's gradient that is off by 6.8e-06"

    def test_exactly_equal(self, a: Record) -> None:
        assert backward(comparison(a, a)).value == 0

    @pytest.mark.parametrize("index", [0, 1, 2])
    @pytest.mark.parametrize(("factor", "expected"), [
        (1 + 0.5 * GRADIENT, PASS), (1 + 1.1 * GRADIENT, FAIL), (1 - 1.1 * GRADIENT, FAIL),
        (0.75, FAIL), (2.0, FAIL), (-1.0, FAIL),
    ])  # fmt: skip
    def test_one_parameter(self, a: Record, index: int, factor: float, expected: Result) -> None:
        other = scaled(a, index, factor)
        for pair in ((a, other), (other, a)):
            result = backward(comparison(*pair))
            assert result.result is expected
            if expected is FAIL:
                (found,) = result.findings
                assert (found.step, found.parameter) == (0, a.parameters[index].name)
                norms = [p.gradient.norm for r in pair if (p := r.parameters[index]).gradient]
                assert [found.a, found.b] == norms

    def test_an_order_that_no_mean_or_norm_can_see(self, a: Record) -> None:
        class Mirrored(Trainer):
            def backward(self, gradients: Arrays) -> Arrays:
                head = gradients["lm_head.weight"]
                return gradients | {"lm_head.weight": head[:, ::-1].copy()}

        other = Mirrored(label="b").record()
        norms = [p.gradient.norm for r in (a, other) for p in r.parameters if p.gradient]
        assert norms[:3] == pytest.approx(norms[3:], rel=1e-6)
        result = backward(comparison(a, other))
        assert result.result is FAIL
        assert result.findings[0].parameter == "lm_head.weight"

    def test_a_common_ratio_is_told(self, worded: Worded) -> None:
        class Undivided(Trainer):
            """Gradients of micro-batches are summed, and not divided by their number."""

            def backward(self, gradients: Arrays) -> Arrays:
                return {name: g * 2 for name, g in gradients.items()}

        pair = Trainer(accumulation=2).record(), Undivided(accumulation=2, label="b").record()
        assert forward(comparison(*pair)).result is PASS
        result = backward(comparison(*pair))
        assert result.result is FAIL
        worded(result)
        worded(backward(comparison(*pair[::-1])))

    def test_ratios_that_differ_are_not_common(self, worded: Worded, a: Record) -> None:
        other = scaled(scaled(a, 0, 2.0), 1, 2.01)
        worded(backward(comparison(a, other)))
        worded(backward(comparison(a, scaled(a, 0, 0.0))))

    def test_a_ratio_that_is_no_number_is_not_common(self, a: Record) -> None:
        other = a
        for index in range(3):
            other = scaled(other, index, 2.0 if index < 2 else math.nan)
        result = backward(comparison(a, other))
        assert result.result is FAIL
        assert "ratio" not in result.explanation

    def test_a_common_ratio_beside_a_gradient_of_zeros(self, a: Record) -> None:
        a = scaled(a, 0, 0.0)
        for several in (a, dataclasses.replace(a, parameters=a.parameters[:2])):
            other = several
            for index in range(1, len(several.parameters)):
                other = scaled(other, index, 2.0)
            result = backward(comparison(several, other))
            assert result.result is FAIL
            assert "all gradients have the ratio 2" in result.explanation

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_what_is_not_finite_is_never_equal(self, a: Record, value: float) -> None:
        gradient = a.parameters[1].gradient
        assert gradient is not None
        for broken in (
            dataclasses.replace(gradient, norm=value, sketch=(value,) * 8),
            dataclasses.replace(gradient, sketch=(*gradient.sketch[:7], value)),
        ):
            other = with_parameter(a, 1, gradient=broken)
            for pair in ((a, other), (other, a), (other, other)):
                result = backward(comparison(*pair))
                assert result.result is FAIL
                assert [f.parameter for f in result.findings] == ["model.norm.weight"]

    def test_one_has_no_gradient(self, worded: Worded, a: Record, b: Record) -> None:
        for pair in (
            (a, with_parameter(b, 1, gradient=None)), (with_parameter(a, 1, gradient=None), b),
        ):  # fmt: skip
            result = backward(comparison(*pair))
            assert (result.result, result.value) == (FAIL, math.inf)
            assert result.findings[0].parameter == a.parameters[1].name
            worded(result)

    def test_neither_has_the_gradient_of_what_an_optimizer_holds(
        self, a: Record, b: Record
    ) -> None:
        pair = [with_parameter(r, 1, gradient=None) for r in (a, b)]
        assert backward(comparison(*pair)).result is INVALID
        half = [pair[0], with_parameter(pair[1], 1, group=None)]
        assert backward(comparison(*half)).result is INVALID
        assert backward(comparison(*half[::-1])).result is INVALID
        frozen = [with_parameter(r, 1, group=None) for r in pair]
        assert backward(comparison(*frozen)).result is PASS

    def test_no_gradient_at_all(self, a: Record, b: Record) -> None:
        none = [
            dataclasses.replace(
                r, parameters=tuple(dataclasses.replace(p, gradient=None) for p in r.parameters)
            )
            for r in (a, b)
        ]
        for pair in (none, [a, none[1]], [none[0], b]):
            assert backward(comparison(*pair)).result is INVALID
            assert gradient_distances(*pair) is None

    def test_gradients_that_are_all_zero_say_nothing(self, a: Record) -> None:
        zero = scaled(scaled(scaled(a, 0, 0.0), 1, 0.0), 2, 0.0)
        for pair in ((zero, zero), (a, zero), (zero, a)):
            assert backward(comparison(*pair)).result is INVALID

    def test_a_gradient_that_is_zero_in_both(self, a: Record) -> None:
        """A part of the model that no batch reaches."""
        zero = scaled(a, 0, 0.0)
        assert backward(comparison(zero, zero)).result is PASS
        result = backward(comparison(a, zero))
        assert result.result is FAIL
        assert result.value is not None
        assert result.value >= 1

    def test_other_parameters(self, a: Record, b: Record) -> None:
        none = dataclasses.replace(a, parameters=())
        for pair in (
            (a, without(b, "parameters", 1)), (without(a, "parameters", 1), b), (none, none),
        ):  # fmt: skip
            assert backward(comparison(*pair)).result is INVALID

    def test_distances(self, a: Record) -> None:
        other = scaled(scaled(a, 0, 2.0), 2, 1.5)
        distances = gradient_distances(a, other)
        assert distances is not None
        assert distances["model.norm.weight"] == 0
        assert distances["model.embed_tokens.weight"] == pytest.approx(0.5, rel=0.6)
        assert worst_gradient_distance(a, other) == max(distances.values())
        assert worst_gradient_distance(a, without(a, "parameters", 0)) is None

    def test_the_norm_of_all_gradients(self, a: Record) -> None:
        norms = [p.gradient.norm for p in a.parameters if p.gradient]
        assert gradient_norm(a) == pytest.approx(math.hypot(*norms))
        assert gradient_norm(a) == pytest.approx(a.steps[0].gradient_norm, rel=1e-6)


@pytest.mark.parametrize(
    ("factors", "told"),
    [((2.0, 2.0, 2.0), True), ((2.0, 2.0, 2.01), False), ((2.0, 3.0, 2.5), False)],
)
def test_a_ratio_is_told_where_all_gradients_have_it(
    a: Record, factors: tuple[float, ...], told: bool
) -> None:
    b = a
    for index, factor in enumerate(factors):
        b = scaled(b, index, factor)
    result = backward(comparison(a, b))
    assert result.result is FAIL
    assert ("all gradients have the ratio 2" in result.explanation) == told


class TestBfloat16:
    """Where a trainer measures the norm in bfloat16, its own measurement counts."""

    class Measuring(Trainer):
        def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
            assert self.max_norm is not None
            norm = total_norm(gradients) * 0.94
            scale = np.float32(self.max_norm / (norm + 1e-6))
            return {n: g * scale for n, g in gradients.items()}, norm, self.max_norm

    def test_a_norm_that_is_six_percent_off(self) -> None:
        pair = [self.Measuring(label=label, dtype="bfloat16").record() for label in "ab"]
        assert clip(comparison(*pair)).result is PASS
        exact = [self.Measuring(label=label).record() for label in "ab"]
        assert clip(comparison(*exact)).result is FAIL

    def test_the_limit_is_that_of_the_dtype(self) -> None:
        pair = [Trainer(label=label, dtype="bfloat16").record() for label in "ab"]
        assert forward(comparison(*pair)).limit == pytest.approx(2e-4)
        assert "bfloat16" in forward(comparison(*pair)).limit_source
        assert backward(comparison(*pair)).limit == pytest.approx(6e-2)

    def test_fingerprints_of_bfloat16(self) -> None:
        run = Trainer(dtype="bfloat16").record()
        weights = Trainer(dtype="bfloat16").initial()["model.norm.weight"]
        assert run.parameters[1].initial == fingerprint(weights, "bfloat16")


class DividedOnceMore(Trainer):
    """Divides its loss by the number of micro-batches before `backward()`; it is a mean already."""

    def divisor(self, batches: list[tuple[Any, Any]], index: int) -> float:
        return super().divisor(batches, index) * len(batches)


class Summed(Trainer):
    """Forgets that the means of its micro-batches are not a mean when they are added up."""

    def divisor(self, batches: list[tuple[Any, Any]], index: int) -> float:
        return super().divisor(batches, index) / len(batches)


def with_cross_entropies(run: Record, reduction: str = "mean", by: float = 1.0) -> Record:
    """The Record of a trainer whose cross-entropies were seen; the losses are `by` times them."""
    first = run.steps[0]
    targets = [batch.targets for batch in first.batches]
    sums = [loss / by * sum(targets) for loss in first.micro_losses]
    values = sums if reduction == "sum" else [s / t for s, t in zip(sums, targets, strict=True)]
    return with_step(run, 0, cross_entropies=tuple(CrossEntropy(reduction, v) for v in values))


class TestWhatBackwardWasCalledOn:
    """The loss does not differ, only the gradients do: forward passes, and backward says why."""

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize(("trainer", "by"), [(DividedOnceMore, 1 / 3), (Summed, 3.0)])
    def test_a_division_that_only_gradients_show(
        self, worded: Worded, reduction: str, trainer: type[Trainer], by: float
    ) -> None:
        right = with_cross_entropies(Trainer(label="a", accumulation=3).record(), "sum")
        wrong = trainer(label="b", accumulation=3).record()
        wrong = with_cross_entropies(wrong, reduction, by)
        for pair in ((right, wrong), (wrong, right), (wrong, wrong)):
            assert forward(comparison(*pair)).result is PASS
            result = backward(comparison(*pair))
            assert result.result is FAIL
            worded(result)

    @pytest.mark.parametrize(("trainer", "by"), [(DividedOnceMore, 1 / 3), (Summed, 3.0)])
    def test_what_two_versions_of_one_trainer_both_do_is_no_change(
        self, trainer: type[Trainer], by: float
    ) -> None:
        """It is said, and the rungs below are judged; what one of them does is a change."""
        right = with_cross_entropies(Trainer(label="a", accumulation=3).record())
        wrong = with_cross_entropies(trainer(label="b", accumulation=3).record(), by=by)
        again = with_cross_entropies(trainer(label="c", accumulation=3, sums=-1).record(), by=by)
        verdict = judge(comparison(wrong, again, versions=True))
        found = verdict.rung("backward")
        assert found.result is PASS
        assert "b called backward()" in found.explanation
        assert verdict.rung("grad_norm_curve").result is PASS
        for pair in ((right, wrong), (wrong, right)):
            assert backward(comparison(*pair, versions=True)).result is FAIL

    def test_two_versions_that_do_two_things_have_changed(self) -> None:
        one = with_cross_entropies(DividedOnceMore(label="a", accumulation=3).record(), by=1 / 3)
        other = with_cross_entropies(Summed(label="b", accumulation=3).record(), by=3.0)
        assert backward(comparison(one, other, versions=True)).result is FAIL

    def test_another_count_of_labels_is_a_loss(self, worded: Worded) -> None:
        right = with_cross_entropies(CountsRight(label="a", accumulation=2).record())
        wrong = with_cross_entropies(CountsFirst(label="b", accumulation=2).record(), by=0.97)
        assert forward(comparison(right, wrong)).result is FAIL
        worded(backward(comparison(right, wrong)))

    def test_one_micro_batch_is_never_divided(self) -> None:
        right = with_cross_entropies(Trainer(label="a").record())
        wrong = with_step(right, 0, loss=right.steps[0].loss / 2)  # type: ignore[operator]
        assert forward(comparison(right, wrong)).result is FAIL

    @pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
    def test_a_value_that_says_nothing(self, value: float) -> None:
        run = with_cross_entropies(Trainer(label="a", accumulation=2).record())
        other = with_step(run, 0, cross_entropies=(CrossEntropy("mean", value),) * 2)
        assert division(other.steps[0]) == 1.0
        assert backward(comparison(run, other)).result is PASS

    @pytest.mark.parametrize("found", [(), (CrossEntropy("mean", 1.0),)])
    def test_what_was_not_seen_says_nothing(self, found: tuple[CrossEntropy, ...]) -> None:
        run = Trainer(label="a", accumulation=2).record()
        assert division(with_step(run, 0, cross_entropies=found).steps[0]) == 1.0
