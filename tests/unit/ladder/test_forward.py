"""The rung forward: each way in which it could pass and should not."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    CountsFirst,
    CountsRight,
    Trainer,
    comparison,
    tolerance,
    with_loss,
    with_manifest,
    with_observed,
    with_parameter,
    with_step,
    without,
)
from golden import Worded

from harness.ladder.comparison import Comparison
from harness.ladder.distances import exceeds
from harness.ladder.judge import judge
from harness.ladder.loss import first_loss
from harness.ladder.result import Result, RungResult
from harness.ladder.rungs.backward import (
    backward,
)
from harness.ladder.rungs.forward import first_loss_distance, forward
from harness.record.evidence import Output, Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


LOSS = 2 * 2.4e-7
"""Limit of the loss in float32 without a measured noise floor."""


def scaled(run: Record, index: int, factor: float, what: str = "gradient") -> Record:
    """A Record with one fingerprint multiplied, as that of a multiplied tensor would be."""
    exact = getattr(run.parameters[index], what)
    sketch = tuple(s * factor for s in exact.sketch)
    changed = dataclasses.replace(exact, sketch=sketch, norm=exact.norm * abs(factor), bits=1)
    return with_parameter(run, index, **{what: changed})


class TestForward:
    def test_equal(self, worded: Worded, a: Record, b: Record) -> None:
        result = forward(comparison(a, with_loss(b, 0, first_loss(a))))
        assert result.result is PASS
        assert result.value == 0
        assert result.limit == pytest.approx(LOSS)
        worded(result)
        assert result.detects == "a relative difference of 4.8e-07"
        assert "the floor documented for float32" in result.limit_source

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize(("size", "expected"), [(0.99, PASS), (1.01, FAIL), (2e6, FAIL)])
    def test_the_limit_counts_in_both_directions(
        self, a: Record, sign: int, size: float, expected: Result
    ) -> None:
        loss = 2.0
        x = with_loss(a, 0, loss)
        y = with_loss(a, 0, loss * (1 + sign * min(0.9, size * LOSS)))
        assert forward(comparison(x, y)).result is expected
        assert forward(comparison(y, x)).result is expected

    def test_at_the_limit_it_still_passes(self, a: Record) -> None:
        exact = tolerance(margin=0.5, floor={"float32": {"loss": 0.25}})
        c = Comparison(with_loss(a, 0, 8.0), with_loss(a, 0, 7.0), exact)
        result = forward(c)
        assert (result.value, result.limit, result.result) == (0.125, 0.125, PASS)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_is_never_equal(self, a: Record, value: float) -> None:
        broken = with_loss(a, 0, value)
        for x, y in ((broken, a), (a, broken), (broken, broken)):
            result = forward(comparison(x, y))
            assert result.result is FAIL
            assert result.value is not None
            assert math.isnan(result.value)

    def test_a_loss_that_was_not_observed(self, worded: Worded, a: Record, b: Record) -> None:
        missing = with_loss(a, 0, None), with_loss(b, 0, None)
        for pair in ((missing[0], b), (a, missing[1]), missing):
            result = forward(comparison(*pair))
            assert result.result is INVALID
            worded(result)

    def test_the_loss_of_another_step_does_not_take_its_place(self, a: Record, b: Record) -> None:
        late = without(a, "steps", 0), without(b, "steps", 0)
        assert first_loss(late[0]) is None
        assert forward(comparison(late[0], late[0])).result is INVALID
        empty = dataclasses.replace(a, steps=())
        assert forward(comparison(empty, empty)).result is INVALID

    def test_a_loss_of_zero_says_nothing(self, a: Record, b: Record) -> None:
        zero = with_loss(a, 0, 0.0), with_loss(b, 0, 0.0)
        assert forward(comparison(*zero)).result is INVALID
        for x, y in ((zero[0], b), (a, zero[1])):
            result = forward(comparison(x, y))
            assert (result.result, result.value) == (FAIL, 1.0)

    def test_the_finding_holds_both_values(self, a: Record) -> None:
        finding = forward(comparison(with_loss(a, 0, 4.0), with_loss(a, 0, 3.0))).findings[0]
        assert (finding.step, finding.a, finding.b) == (0, 4.0, 3.0)

    def test_distance(self, a: Record) -> None:
        assert first_loss_distance(with_loss(a, 0, 4.0), with_loss(a, 0, 3.0)) == 0.25
        assert first_loss_distance(with_loss(a, 0, 3.0), with_loss(a, 0, 4.0)) == 0.25
        assert first_loss_distance(with_loss(a, 0, None), a) is None
        assert first_loss_distance(a, with_loss(a, 0, None)) is None


class TestForwardSaysWhy:
    def test_the_first_label_is_counted(self, worded: Worded) -> None:
        a, b = CountsFirst().record(), CountsRight(label="b").record()
        for pair in ((a, b), (b, a)):
            result = forward(comparison(*pair))
            assert result.result is FAIL
            worded(result)
        (last,) = a.steps[7].batches
        later = with_step(
            a, 7, batches=(dataclasses.replace(last, shape=(4, 9), targets=9, first_targets=0),)
        )
        assert forward(comparison(later, b)) == forward(comparison(a, b))
        alone = [t(label="x", steps=1).record() for t in (CountsFirst, CountsRight)]
        assert "S = 6" in forward(comparison(*alone)).explanation

    def test_another_ratio_has_another_cause(self, worded: Worded) -> None:
        a, b = CountsFirst().record(), CountsRight(label="b").record()
        loss = first_loss(b)
        assert loss is not None
        result = forward(comparison(a, with_loss(b, 0, loss * 1.01)))
        worded(result)

    def test_where_the_first_label_never_counts_it_is_not_the_cause(
        self, worded: Worded, a: Record
    ) -> None:
        result = forward(comparison(with_loss(a, 0, 2.0), with_loss(a, 0, 3.0)))
        worded(result)
        result = forward(comparison(with_loss(a, 0, 2.0), with_loss(a, 0, 2.0002)))
        assert "divides" not in result.explanation

    def test_batches_without_targets(self, a: Record) -> None:
        batch = dataclasses.replace(a.steps[0].batches[0], targets=0, first_targets=4)
        x = with_step(with_loss(a, 0, 2.0), 0, batches=(batch,))
        assert forward(comparison(x, with_loss(x, 0, 3.0))).result is FAIL
        x = with_step(x, 0, batches=())
        assert forward(comparison(x, with_loss(x, 0, 0.0))).result is FAIL


class TestAgainstFloat64OfTheirOwn:
    """Runs from different weights: each against float64 from its own weights and batch."""

    @pytest.fixture
    def own(self, a: Record) -> tuple[Record, Record, dict[str, Record]]:
        b = Trainer(label="b", seed=1).record()
        x = dataclasses.replace(a, directory=Path("/a"))
        y = dataclasses.replace(b, directory=Path("/b"))
        exact = Trainer(sums=-1).record(), Trainer(seed=1, sums=-1).record()
        return x, y, {"/a": exact[0], "/b": exact[1]}

    def test_both_are_right(
        self, worded: Worded, own: tuple[Record, Record, dict[str, Record]]
    ) -> None:
        a, b, exact = own
        c = comparison(a, b, float64_per_run=exact, broken=("init",))
        assert forward(c).result is PASS
        worded(forward(c))
        assert backward(c).result is PASS
        assert forward(comparison(a, b)).result is FAIL
        assert backward(comparison(a, b)).result is FAIL

    @pytest.mark.parametrize("which", [0, 1])
    @pytest.mark.parametrize("factor", [1.001, 0.999, math.nan, math.inf])
    def test_one_is_wrong(
        self,
        worded: Worded,
        own: tuple[Record, Record, dict[str, Record]],
        which: int,
        factor: float,
    ) -> None:
        pair, exact = list(own[:2]), own[2]
        loss = first_loss(pair[which])
        assert loss is not None
        pair[which] = with_loss(pair[which], 0, loss * factor)
        result = forward(comparison(*pair, float64_per_run=exact, broken=("init",)))
        assert result.result is FAIL
        worded(result)
        pair = list(own[:2])
        pair[which] = scaled(pair[which], 1, factor)
        result = backward(comparison(*pair, float64_per_run=exact, broken=("init",)))
        assert result.result is FAIL
        assert result.findings[0].parameter == "model.norm.weight"
        assert result.limit is not None
        assert exceeds(result.value, result.limit)

    def test_the_first_label_is_the_cause(self, worded: Worded) -> None:
        a = dataclasses.replace(CountsFirst().record(), directory=Path("/a"))
        b = dataclasses.replace(CountsRight(label="b").record(), directory=Path("/b"))
        exact = CountsRight().record()
        result = forward(
            comparison(a, b, float64_per_run={"/a": exact, "/b": exact}, broken=("init",))
        )
        assert result.result is FAIL
        worded(result)

    def test_a_float64_run_is_missing(self, own: tuple[Record, Record, dict[str, Record]]) -> None:
        a, b, exact = own
        for kept in ("/a", "/b"):
            c = comparison(a, b, float64_per_run={kept: exact[kept]}, broken=("init",))
            assert forward(c).result is INVALID
            assert backward(c).result is INVALID

    @pytest.mark.parametrize("loss", [None, 0.0])
    def test_float64_has_no_loss(
        self, own: tuple[Record, Record, dict[str, Record]], loss: float | None
    ) -> None:
        a, b, exact = own
        broken = {**exact, "/b": with_loss(exact["/b"], 0, loss)}
        assert forward(comparison(a, b, float64_per_run=broken, broken=("init",))).result is INVALID

    def test_a_run_has_no_loss(self, own: tuple[Record, Record, dict[str, Record]]) -> None:
        a, b, exact = own
        assert (
            forward(
                comparison(with_loss(a, 0, None), b, float64_per_run=exact, broken=("init",))
            ).result
            is INVALID
        )


def with_outputs(run: Record, *norms: float, shape: tuple[int, ...] = (2, 3)) -> Record:
    """The Record of a model whose parts p0, p1 … computed tensors of these norms."""
    outputs = tuple(Output(f"p{i}", shape, (n,) * 8, n) for i, n in enumerate(norms))
    return with_step(run, 0, outputs=outputs)


class TestWhere:
    """A loss that differs does so from some part of the model on."""

    def failing(self, x: Record, y: Record) -> RungResult:
        result = forward(comparison(x, with_loss(y, 0, 9.0)))
        assert result.result is FAIL
        return result

    @pytest.mark.parametrize("first", [0, 1, 2])
    def test_the_first_part_that_differs(
        self, worded: Worded, a: Record, b: Record, first: int
    ) -> None:
        norms = [1.0 if i < first else 1.01 for i in range(3)]
        worded(self.failing(with_outputs(a, 1, 1, 1), with_outputs(b, *norms)))

    def test_only_the_loss_differs(self, worded: Worded, a: Record, b: Record) -> None:
        worded(self.failing(with_outputs(a, 1, 2, 3), with_outputs(b, 1, 2, 3 + 1e-7)))

    def test_equal_norms_of_other_tensors(self, worded: Worded, a: Record, b: Record) -> None:
        other = with_outputs(b, 1, 1)
        turned = dataclasses.replace(other.steps[0].outputs[1], sketch=(-1.0,) * 8)
        other = with_step(other, 0, outputs=(other.steps[0].outputs[0], turned))
        worded(self.failing(with_outputs(a, 1, 1), other))

    @pytest.mark.parametrize("norm", [math.nan, math.inf])
    def test_what_is_not_finite_differs(
        self, worded: Worded, a: Record, b: Record, norm: float
    ) -> None:
        worded(self.failing(with_outputs(a, 1, norm), with_outputs(b, 1, norm)))

    def test_nothing_in_common(self, worded: Worded, a: Record, b: Record) -> None:
        for x, y in ((a, b), (with_outputs(a, 1), b),
                     (with_outputs(a, 1), with_outputs(b, 2, shape=(3, 2)))):  # fmt: skip
            worded(self.failing(x, y))


class TestAlikeInError:
    """Two losses that agree passed, whatever both were."""

    class Summed(Trainer):
        """Sums what its micro-batches' losses have to be the mean of."""

        def gradients(self, *given: Any) -> Any:
            loss, gradients = super().gradients(*given)
            return loss * 2, gradients

    class Shifted(Trainer):
        def gradients(self, weights: Any, tokens: Any, labels: Any, divisor: float) -> Any:
            return super().gradients(weights, tokens, np.roll(labels, 1, axis=1), divisor)

    EXACT = Trainer(label="float64").record()

    @pytest.mark.parametrize("trainer", [Summed, Shifted, CountsFirst])
    def test_both_wrong_alike(self, trainer: type[Trainer]) -> None:
        exact = CountsRight().record() if trainer is CountsFirst else self.EXACT
        a, b = trainer().record(), trainer(label="b", sums=-1).record()
        assert judge(comparison(a, b)).rung("forward").result is PASS
        verdict = judge(comparison(a, b, first_float64=exact))
        assert verdict.headline_rung is verdict.rung("forward")
        assert [(f.step, f.a) for f in verdict.rung("forward").findings] == [
            (0, run.steps[0].loss) for run in (a, b)
        ]

    @pytest.mark.parametrize(
        ("off", "expected"),
        [((0.8, 0.9), PASS), ((0.8, 1.2), PASS), ((1.2, 0.8), PASS), ((1.2, 1.3), FAIL)],
    )
    def test_both_have_to_be_beyond_the_limit(
        self, a: Record, off: tuple[float, float], expected: Result
    ) -> None:
        exact = first_loss(self.EXACT)
        assert exact is not None
        pair = [with_loss(a, 0, exact * (1 + by * LOSS)) for by in off]
        assert forward(comparison(*pair, first_float64=self.EXACT)).result is expected

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_both_right(self, dtype: str) -> None:
        exact = Trainer(dtype=dtype).record()
        a, b = Trainer(dtype=dtype).record(), Trainer(label="b", dtype=dtype, sums=-1).record()
        assert judge(comparison(a, b, first_float64=exact)).result is PASS

    def test_what_float64_does_not_train(self) -> None:
        a, b = self.Summed().record(), self.Summed(label="hf@2").record()
        x, y = (with_manifest(r, lambda m: m.update(beyond_case={"x": "1"})) for r in (a, b))
        assert forward(comparison(a, b, first_float64=self.EXACT)).result is FAIL
        for pair in ((x, y), (x, b), (a, y)):
            assert forward(comparison(*pair, first_float64=self.EXACT)).result is PASS

    @pytest.mark.parametrize(("share", "expected"), [(1e-4, PASS), (1.5e-3, PASS), (1e-2, FAIL)])
    def test_a_device_whose_rounding_is_not_known(self, share: float, expected: Result) -> None:
        """Both may round alike by as much as the least precise dtype does."""

        class Off(Trainer):
            def gradients(self, *given: Any) -> Any:
                loss, gradients = super().gradients(*given)
                return loss * (1 + share), gradients

        a, b = (
            with_observed(Off(label=name).record(), device_kind="TPU v9") for name in ("hf", "b")
        )
        c = comparison(
            a, b, first_float64=self.EXACT, noise_floor=(a, Off(ulp=True).record()),
            deterministic=True,
        )  # fmt: skip
        assert forward(c).result is expected


class TestLastOutput:
    """Losses that are alike within the noise, and logits that are not."""

    def pair(self, a: Record, *last: float) -> tuple[Record, ...]:
        return tuple(with_outputs(a, 1, norm) for norm in last)

    def test_it_fails_where_the_losses_agree(self, worded: Worded, a: Record) -> None:
        result = forward(comparison(*self.pair(a, 1.0, 1.5)))
        assert result.result is FAIL
        assert result.metric == "output"
        worded(result)

    def test_rounding_passes(self, a: Record) -> None:
        result = forward(comparison(*self.pair(a, 1.0, 1 + 4e-6)))
        assert result.result is PASS
        assert result.metric == "loss"
        assert "logits that are off by 2.6e-05" in result.detects

    def test_only_the_last_one_counts(self, a: Record) -> None:
        """A part inside may have one name and another meaning in two engines."""
        pair = with_outputs(a, 1, 1), with_outputs(a, 2, 1)
        assert forward(comparison(*pair)).result is PASS

    def test_the_worst_of_the_perturbed_run_is_the_floor(self, a: Record) -> None:
        """Each has few sums: that of one module may be lucky."""
        noise = with_outputs(a, 1, 1), with_outputs(a, 1.1, 1)
        for apart, result in ((1.1, PASS), (1.3, FAIL)):
            pair = self.pair(a, 1.0, apart)
            c = comparison(*pair, noise_floor=noise, deterministic=True)
            assert forward(c).result is result

    def test_runs_without_outputs_are_judged_by_their_losses(self, a: Record) -> None:
        assert forward(comparison(a, with_outputs(a, 1, 1))).result is PASS
