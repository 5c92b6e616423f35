"""The rung clip: each way in which it could pass and should not."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from builders import (
    Arrays,
    Trainer,
    comparison,
    tolerance,
    total_norm,
    with_manifest,
    with_parameter,
    with_step,
    without,
)
from golden import Worded

from harness.ladder.comparison import Comparison
from harness.ladder.result import Result
from harness.ladder.rungs.backward import (
    gradient_norm,
)
from harness.ladder.rungs.clip import applied_scale, clip, scale_distance
from harness.record.evidence import Clip, Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


NOT_EXERCISED = Result.NOT_EXERCISED


LOSS = 2 * 2.4e-7
"""Limit of the loss in float32 without a measured noise floor."""


def scaled(run: Record, index: int, factor: float, what: str = "gradient") -> Record:
    """A Record with one fingerprint multiplied, as that of a multiplied tensor would be."""
    exact = getattr(run.parameters[index], what)
    sketch = tuple(s * factor for s in exact.sketch)
    changed = dataclasses.replace(exact, sketch=sketch, norm=exact.norm * abs(factor), bits=1)
    return with_parameter(run, index, **{what: changed})


class NoClipping(Trainer):
    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        return gradients, None, None


class ClippingWithoutEffect(Trainer):
    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        return gradients, total_norm(gradients), self.max_norm


class OfOneShard(Trainer):
    """Measures the norm of the local shard only, and clips by that."""

    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        assert self.max_norm is not None
        norm = total_norm({n: g[: len(g) // 2] for n, g in gradients.items()})
        scale = np.float32(min(1.0, self.max_norm / (norm + 1e-6)))
        return {n: g * scale for n, g in gradients.items()}, norm, self.max_norm


class OfTheParameters(Trainer):
    """Logs the norm of the parameters in place of that of the gradients."""

    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        clipped, _, threshold = super().clipped(gradients)
        return clipped, total_norm(self.initial()), threshold


class EachByItself(Trainer):
    """Clips each parameter by the norm of its own gradient."""

    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        assert self.max_norm is not None
        clipped = {}
        for name, gradient in gradients.items():
            scale = min(1.0, self.max_norm / (total_norm({name: gradient}) + 1e-6))
            clipped[name] = gradient * np.float32(scale)
        return clipped, total_norm(gradients), self.max_norm


class OneForgotten(Trainer):
    """Does not scale the smallest gradient, which the total norm can hardly see."""

    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        clipped, norm, threshold = super().clipped(gradients)
        return clipped | {"model.norm.weight": gradients["model.norm.weight"]}, norm, threshold


class ByHand(Trainer):
    """Scales by its own means: `clip_grad_norm_` is never called."""

    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        return {n: g * np.float32(0.5) for n, g in gradients.items()}, None, None


class ShortNorm(Trainer):
    """Clips by a norm that it adds up in bfloat16, which is `short` of the true one."""

    short = 0.06

    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        assert self.max_norm is not None
        norm = total_norm(gradients) * (1 - self.short)
        scale = np.float32(self.max_norm / norm)
        return {n: g * scale for n, g in gradients.items()}, norm, self.max_norm


class StopsClipping(Trainer):
    """Clips only at the first steps; gradients are numbered by how often this was called."""

    calls: list[int] = []  # noqa: RUF012

    def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
        self.calls.append(1)
        if len(self.calls) > 4:
            return gradients, None, None
        return super().clipped(gradients)


class TestClip:
    def test_equal(self, worded: Worded, a: Record, b: Record) -> None:
        result = clip(comparison(a, b))
        assert result.result is PASS
        worded(result)
        assert result.limit == pytest.approx(LOSS)
        assert result.detects == "a scale that is off by 4.8e-07"

    @pytest.mark.parametrize(
        ("trainer", "metric"),
        [
            (NoClipping, "scale"),
            (ClippingWithoutEffect, "parameter_scale"),
            (OfOneShard, "measured_norm"),
            (OfTheParameters, "measured_norm"),
            (EachByItself, "parameter_scale"),
        ],
    )
    def test_another_way_to_clip(
        self, worded: Worded, a: Record, trainer: type[Trainer], metric: str
    ) -> None:
        b = trainer(label="b").record()
        for pair in ((a, b), (b, a)):
            result = clip(comparison(*pair))
            assert result.result is FAIL
            worded(result)
            assert result.metric == metric
            assert result.findings[0].step == 0

    @pytest.mark.parametrize(
        "trainer", [NoClipping, ClippingWithoutEffect, OfOneShard, OfTheParameters, EachByItself,
                    OneForgotten, ByHand],
    )  # fmt: skip
    def test_two_that_are_wrong_in_the_same_way_do_not_pass(self, trainer: type[Trainer]) -> None:
        pair = [trainer(label=label).record() for label in "ab"]
        assert clip(comparison(*pair)).result is FAIL

    def test_one_parameter_is_scaled_otherwise(self, worded: Worded, a: Record) -> None:
        b = OneForgotten(label="b").record()
        result = clip(comparison(a, b))
        assert result.result is FAIL
        worded(result)

    @pytest.mark.parametrize("factor", [1 + 4e-6, 1 - 4e-6, 0.0, math.nan, math.inf])
    def test_a_small_gradient_that_the_total_norm_cannot_see(
        self, a: Record, b: Record, factor: float
    ) -> None:
        tiny = 1e-7
        pair = []
        for run in (a, b):
            run = scaled(run, 1, tiny)
            norm = run.parameters[1].clipped_norm
            assert norm is not None
            pair.append(with_parameter(run, 1, clipped_norm=norm * tiny))
        base = clip(comparison(*pair))
        assert base.result is FAIL  # the measured norm was that of the gradients before
        pair = [with_step(r, 0, gradient_norm=gradient_norm(r)) for r in pair]
        pair = [_rescaled(r) for r in pair]
        assert clip(comparison(*pair)).result is PASS
        norm = pair[1].parameters[1].clipped_norm
        assert norm is not None
        other = with_parameter(pair[1], 1, clipped_norm=norm * factor)
        result = clip(comparison(pair[0], other))
        assert result.result is FAIL

    def test_a_gradient_out_of_nothing(self, a: Record) -> None:
        none = _rescaled(with_step(scaled(a, 1, 0.0), 0, gradient_norm=None))
        none = with_step(none, 0, gradient_norm=gradient_norm(none))
        none = _rescaled(none)
        assert clip(comparison(none, none)).result is PASS
        some = with_parameter(none, 1, clipped_norm=1e-9)
        assert clip(comparison(none, some)).result is FAIL

    @pytest.mark.parametrize("other", [0.1, 0.2000001, None])
    def test_another_threshold(self, worded: Worded, a: Record, other: float | None) -> None:
        b = with_manifest(Trainer(label="b", max_norm=other).record(), lambda m: None)
        result = clip(comparison(a, b))
        assert result.result is FAIL
        worded(result)

    def test_a_threshold_that_changes_later(self, worded: Worded, a: Record) -> None:
        StopsClipping.calls.clear()
        b = StopsClipping(label="b").record()
        for pair in ((a, b), (b, a)):
            result = clip(comparison(*pair))
            assert result.result is FAIL
            worded(result)

    def test_a_threshold_that_changes_in_both(self, worded: Worded) -> None:
        pair = []
        for label in "ab":
            StopsClipping.calls.clear()
            pair.append(StopsClipping(label=label).record())
        result = clip(comparison(*pair))
        assert result.result is FAIL
        worded(result)

    @pytest.mark.parametrize("index", [0, 1])
    @pytest.mark.parametrize("requested", [None, 0.3])
    def test_a_threshold_that_the_case_does_not_ask_for(
        self, a: Record, b: Record, index: int, requested: float | None
    ) -> None:
        pair = [a, b]
        pair[index] = with_manifest(pair[index], lambda m: m["case"].update(max_norm=requested))
        result = clip(comparison(*pair))
        assert result.result is FAIL

    def test_neither_clips_as_the_case_asks(self) -> None:
        pair = [Trainer(label=label, max_norm=None).record() for label in "ab"]
        result = clip(comparison(*pair))
        assert result.result is NOT_EXERCISED

    def test_neither_clips_by_a_call_but_one_scales(self, worded: Worded) -> None:
        pair = [Trainer(label="a", max_norm=None).record(), ByHand(max_norm=None).record()]
        for order in (pair, pair[::-1]):
            result = clip(comparison(*order))
            assert result.result is FAIL
            assert result.value == pytest.approx(0.5)
            worded(result)
        larger = pair[0]
        for index, parameter in enumerate(larger.parameters):
            assert parameter.clipped_norm is not None
            larger = with_parameter(larger, index, clipped_norm=1.5 * parameter.clipped_norm)
        assert "were scaled" in clip(comparison(pair[0], larger)).explanation

    def test_no_norm_exceeds_the_maximum(self, worded: Worded) -> None:
        pair = [Trainer(label=label, max_norm=0.62).record() for label in "ab"]
        result = clip(comparison(*pair))
        assert result.result is NOT_EXERCISED
        worded(result)

    @pytest.mark.parametrize(("norms", "expected"), [
        ((0.2, 0.2), NOT_EXERCISED), ((0.199, 0.2), NOT_EXERCISED), ((0.199, 0.201), PASS),
        ((0.201, 0.199), PASS),
    ])  # fmt: skip
    def test_one_norm_above_the_maximum_exercises_it(
        self, a: Record, norms: tuple[float, float], expected: Result
    ) -> None:
        """The limit is wide here, as in bfloat16."""
        floors = {"scale": 0.05, "parameter_scale": 0.05}
        pair = []
        for norm in norms:
            run = a
            whole = gradient_norm(a)
            assert whole is not None
            for index in range(3):
                run = scaled(run, index, norm / whole)
            run = with_step(run, 0, gradient_norm=gradient_norm(run), max_norm=0.2)
            pair.append(_rescaled(run))
        if norms[0] == 0.2:  # to the last digit
            at = with_step(pair[0], 0, max_norm=gradient_norm(pair[0]))
            at = with_manifest(at, lambda m: m["case"].update(max_norm=gradient_norm(pair[0])))
            for step in range(1, 8):
                at = with_step(at, step, max_norm=gradient_norm(pair[0]))
            pair = [at, at]
        result = clip(Comparison(pair[0], pair[1], tolerance(floor={"float32": floors})))
        assert result.result is expected

    def test_which_steps_are_above_the_maximum(self, worded: Worded, a: Record, b: Record) -> None:
        """Neither those at it, nor those without a norm or a maximum."""
        other = with_step(a, 3, gradient_norm=0.2)
        other = with_step(other, 4, gradient_norm=None)
        worded(clip(comparison(other, b)))
        unclipped = [Trainer(label=label, max_norm=None).record() for label in "ab"]
        measured = [with_step(r, 0, gradient_norm=1.0) for r in unclipped]
        assert clip(comparison(*measured)).result is NOT_EXERCISED

    def test_a_threshold_of_zero(self, a: Record) -> None:
        pair = []
        for run in (a, a):
            for step in range(8):
                run = with_step(run, step, max_norm=0.0)
            pair.append(with_manifest(run, lambda m: m["case"].update(max_norm=0.0)))
        assert clip(comparison(*pair)).result is FAIL

    def test_a_parameter_that_is_not_trained(self, a: Record, b: Record) -> None:
        pair = []
        for run in (a, b):
            run = with_parameter(run, 1, gradient=None, group=None, clipped_norm=None)
            run = with_step(run, 0, gradient_norm=gradient_norm(run))
            pair.append(_rescaled(run))
        assert clip(comparison(*pair)).result is PASS
        called = [by_calls(r, [[0, 1, 2]], [r.steps[0].gradient_norm]) for r in pair]
        assert clip(comparison(*called)).result is PASS
        zero = [with_parameter(r, 1, clipped_norm=0.0) for r in pair]
        assert clip(comparison(*zero)).result is PASS
        assert applied_scale(zero[0]) == applied_scale(pair[0])

    def test_gradients_that_have_to_differ(self, a: Record) -> None:
        """Each run's scale is judged by its own norm, and by that alone."""
        b = Trainer(label="b", seed=1).record()
        assert clip(comparison(a, b)).result is FAIL
        apart = clip(comparison(a, b, broken=("init",)))
        assert apart.result is PASS
        assert apart.value is not None
        assert 0 < apart.value < 1e-6
        for trainer in (NoClipping, ClippingWithoutEffect, OfOneShard, OfTheParameters):
            wrong = trainer(label="b", seed=1).record()
            assert clip(comparison(a, wrong, broken=("init",))).result is FAIL
        nan = scaled(b, 1, math.nan)
        for pair in ((a, nan), (nan, a)):
            assert clip(comparison(*pair, broken=("backward",))).result is INVALID

    def test_gradients_that_differ_within_their_limit(self, a: Record) -> None:
        """That is for `backward` to judge: each clips as it should."""
        b = scaled(a, 1, 1 + 1e-4)
        b = _rescaled(with_step(b, 0, gradient_norm=gradient_norm(b)))
        wide = tolerance(floor={"float32": {"scale": 0.05}})
        for pair in ((a, b), (b, a)):
            assert clip(comparison(*pair, tolerance=wide)).result is PASS

    @pytest.mark.parametrize("which", [0, 1])
    def test_what_was_not_observed(self, a: Record, b: Record, which: int) -> None:
        def broken(*changes: dict[str, Any]) -> Record:
            run = (a, b)[which]
            for change in changes:
                run = with_parameter(run, 1, **change)
            return run

        pair = [a, b]
        pair[which] = broken({"clipped_norm": None})
        assert clip(comparison(*pair)).result is INVALID
        pair[which] = dataclasses.replace(pair[which], steps=())
        assert clip(comparison(*pair)).result is INVALID
        pair[which] = without((a, b)[which], "steps", 0)
        assert clip(comparison(*pair)).result is INVALID
        pair[which] = dataclasses.replace((a, b)[which], parameters=())
        assert clip(comparison(*pair)).result is INVALID
        pair[which] = with_step((a, b)[which], 0, gradient_norm=None)
        assert clip(comparison(*pair)).result is FAIL

    def test_what_neither_observed(self, a: Record, b: Record) -> None:
        pair = [with_parameter(r, 2, clipped_norm=None) for r in (a, b)]
        assert clip(comparison(*pair)).result is INVALID
        pair = [with_step(r, 0, gradient_norm=None) for r in (a, b)]
        assert clip(comparison(*pair)).result is FAIL
        pair = [with_step(r, 0, max_norm=None) for r in (a, b)]
        assert clip(comparison(*pair)).result is FAIL

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_what_is_not_finite_is_never_equal(self, a: Record, value: float) -> None:
        for broken in (
            with_parameter(a, 1, clipped_norm=value), with_step(a, 0, gradient_norm=value),
            with_step(a, 0, max_norm=value), scaled(a, 1, value),
        ):  # fmt: skip
            for pair in ((a, broken), (broken, a), (broken, broken)):
                assert clip(comparison(*pair)).result is FAIL

    def test_gradients_that_are_all_zero(self, a: Record) -> None:
        zero = scaled(scaled(scaled(a, 0, 0.0), 1, 0.0), 2, 0.0)
        assert clip(comparison(zero, zero)).result is INVALID

    def test_the_optimizer_sees_nothing(self, a: Record) -> None:
        none = a
        for index in range(3):
            none = with_parameter(none, index, clipped_norm=0.0)
        assert clip(comparison(none, none)).result is FAIL
        assert scale_distance(a, none) == 1

    @pytest.mark.parametrize(("off", "expected"), [(0.9, PASS), (1.1, FAIL), (-1.1, FAIL)])
    def test_the_limit_of_the_scale_counts_in_both_directions(
        self, a: Record, b: Record, off: float, expected: Result
    ) -> None:
        exact = _rescaled(b)
        other = exact
        for index, parameter in enumerate(exact.parameters):
            assert parameter.clipped_norm is not None
            norm = parameter.clipped_norm * (1 + off * LOSS)
            other = with_parameter(other, index, clipped_norm=norm)
        assert clip(comparison(_rescaled(a), other)).result is expected

    @pytest.mark.parametrize(("off", "expected"), [(0.9, PASS), (1.1, FAIL), (-1.1, FAIL)])
    def test_the_limit_of_the_measured_norm(
        self, a: Record, b: Record, off: float, expected: Result
    ) -> None:
        norm = gradient_norm(b)
        assert norm is not None
        wide = tolerance(floor={"float32": {"scale": 0.4}})
        other = with_step(b, 0, gradient_norm=norm * (1 + off * 2e-6))
        assert clip(Comparison(a, other, wide)).result is expected

    def test_two_scales_that_are_each_within_their_limit_but_far_from_each_other(
        self, a: Record, b: Record
    ) -> None:
        pair = []
        for run, off in ((_rescaled(a), 0.8), (_rescaled(b), -0.8)):
            for index, parameter in enumerate(run.parameters):
                assert parameter.clipped_norm is not None
                norm = parameter.clipped_norm * (1 + off * LOSS)
                run = with_parameter(run, index, clipped_norm=norm)
            pair.append(run)
        result = clip(comparison(*pair))
        assert result.result is FAIL
        assert result.value == pytest.approx(1.6 * LOSS, rel=0.01)
        own = {str(r.directory): r for r in pair}
        assert clip(comparison(*pair, float64_per_run=own, broken=("init",))).result is PASS

    def test_the_scale_that_was_applied(self, a: Record) -> None:
        assert applied_scale(a) == pytest.approx(1 / 3, rel=0.01)
        assert applied_scale(with_parameter(a, 0, clipped_norm=None)) is None
        assert scale_distance(a, with_parameter(a, 0, clipped_norm=None)) is None
        assert scale_distance(with_parameter(a, 0, clipped_norm=None), a) is None


def _rescaled(run: Record) -> Record:
    """A Record whose clipped norms are exactly what its measured norm asks for."""
    step = run.steps[0]
    norm = step.gradient_norm or gradient_norm(run)
    assert norm is not None
    assert step.max_norm is not None
    scale = min(1.0, step.max_norm / (norm + 1e-6))
    for index, parameter in enumerate(run.parameters):
        if parameter.gradient is not None:
            run = with_parameter(run, index, clipped_norm=parameter.gradient.norm * scale)
    return run


def by_calls(run: Record, sets: list[list[int]], norms: list[float | None]) -> Record:
    """The Record of a trainer that calls `clip_grads_with_norm_` for sets of parameters."""
    limit = run.case.max_norm
    assert limit is not None
    calls = zip(sets, norms, strict=True)
    clips = tuple(Clip("norm", limit, len(indices), norm) for indices, norm in calls)
    for call, indices in enumerate(sets):
        for index in indices:
            held = run.parameters[index].clipped_by
            run = with_parameter(run, index, clipped_by=(*held, call))
    return with_step(run, 0, clips=clips)


class TestForms:
    """Gradients are clipped by one call, by one a group, by value, or by a trainer's own means."""

    def test_calls_for_each_group_by_one_norm(self, a: Record, b: Record) -> None:
        norm = b.steps[0].gradient_norm
        result = clip(comparison(a, by_calls(b, [[0, 2], [1]], [norm, norm])))
        assert result.result is PASS

    def test_calls_for_each_parameter_by_its_own_norm(self, worded: Worded, a: Record) -> None:
        b = EachByItself(label="b").record()
        norms = [p.gradient.norm for p in b.parameters if p.gradient is not None]
        b = by_calls(b, [[0], [1], [2]], list(norms))
        for pair in ((a, b), (b, a), (b, b)):
            result = clip(comparison(*pair))
            assert result.result is FAIL
            worded(result)

    def test_calls_for_each_parameter_that_scale_nothing(self, worded: Worded, a: Record) -> None:
        """No gradient alone is above the maximum; all together are."""

        class Each(Trainer):
            def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
                return gradients, total_norm(gradients), self.max_norm

        b = Each(label="b", max_norm=0.55).record()
        norms = [p.gradient.norm for p in b.parameters if p.gradient is not None]
        assert max(norms) < 0.55 < math.hypot(*norms)
        b = by_calls(b, [[0], [1], [2]], list(norms))
        result = clip(comparison(Trainer(label="a", max_norm=0.55).record(), b))
        assert result.result is FAIL
        worded(result)
        plain = Each(label="b", max_norm=0.55).record()
        for sets, told in (([[0, 1], [2]], "a norm of its own"), ([[0, 1, 2]], "ought to have")):
            by: list[float | None] = [plain.steps[0].gradient_norm]
            if sets[1:]:
                by = [math.hypot(*(norms[i] for i in indices)) for indices in sets]
            result = clip(comparison(by_calls(plain, sets, by), b))
            assert result.result is FAIL
            assert told in result.explanation

    def test_one_parameter_that_no_call_is_for(self, worded: Worded, a: Record) -> None:
        b = OneForgotten(label="b").record()
        b = by_calls(b, [[0, 2]], [b.steps[0].gradient_norm])
        result = clip(comparison(a, b))
        assert result.result is FAIL
        worded(result)

    @pytest.mark.parametrize("requested", [0.2, None])
    def test_a_function_that_is_not_watched(self, worded: Worded, requested: float | None) -> None:
        """What the case asks for passes; anything else is named."""
        plain = Trainer(label="a", max_norm=requested).record()
        own = Trainer(label="b", max_norm=0.2).record()
        steps = tuple(
            dataclasses.replace(step, max_norm=None, gradient_norm=None) for step in own.steps
        )
        own = dataclasses.replace(own, steps=steps)
        own = with_manifest(own, lambda m: m["case"].update(max_norm=requested))
        for pair in ((plain, own), (own, plain), (own, own)):
            result = clip(comparison(*pair))
            assert result.result is (FAIL if requested is None else PASS)
            worded(result)

    def test_a_function_that_is_not_watched_and_does_something_else(
        self, worded: Worded, a: Record
    ) -> None:
        b = ByHand(label="b").record()
        for pair in ((a, b), (b, b)):
            result = clip(comparison(*pair))
            assert result.result is FAIL
            worded(result)

    def test_a_function_that_is_not_watched_and_scales_some_as_the_case_asks(
        self, a: Record
    ) -> None:
        b = OneForgotten(label="b").record()
        steps = [dataclasses.replace(s, max_norm=None, gradient_norm=None) for s in b.steps]
        result = clip(comparison(a, dataclasses.replace(b, steps=tuple(steps))))
        assert (result.result, result.metric) == (FAIL, "scale")

    def test_a_function_that_is_not_watched_and_adds_up_in_bfloat16(self) -> None:
        """Its norm is as short as that of the watched one, and both scale alike."""

        def unseen(run: Record) -> Record:
            steps = [dataclasses.replace(s, max_norm=None, gradient_norm=None) for s in run.steps]
            return dataclasses.replace(run, steps=tuple(steps))

        class Shorter(ShortNorm):
            short = 0.2

        a = ShortNorm(label="a", max_norm=0.2, dtype="bfloat16").record()
        own, shorter = (
            unseen(kind(label="b", max_norm=0.2, dtype="bfloat16").record())
            for kind in (ShortNorm, Shorter)
        )
        true = unseen(Trainer(label="b", max_norm=0.2, dtype="bfloat16").record())
        for pair in ((a, own), (own, a), (own, own)):
            assert clip(comparison(*pair)).result is PASS
        for pair in ((a, shorter), (shorter, a), (shorter, shorter), (a, true), (true, a)):
            assert clip(comparison(*pair)).result is FAIL

    def test_values(self) -> None:
        class ByValue(Trainer):
            def clipped(self, gradients: Arrays) -> tuple[Arrays, float | None, float | None]:
                return {n: np.clip(g, -0.02, 0.02) for n, g in gradients.items()}, None, None

        def run(label: str, trainer: type[Trainer] = ByValue, limit: float = 0.02) -> Record:
            record = trainer(label=label, max_norm=None).record()
            clips = (Clip("value", limit, 3),)
            steps = tuple(dataclasses.replace(step, clips=clips) for step in record.steps)
            record = dataclasses.replace(record, steps=steps)
            for index in range(3):
                record = with_parameter(record, index, clipped_by=(0,))
            return record

        a = run("a")
        assert clip(comparison(a, run("b"))).result is PASS
        frozen = [
            with_parameter(r, 1, gradient=None, group=None, clipped_norm=None)
            for r in (a, run("b"))
        ]
        assert clip(comparison(*frozen)).result is PASS
        odd = with_parameter(run("b"), 1, clipped_norm=1e-3)
        result = clip(comparison(a, odd, tolerance=tolerance(floor={"float32": {"scale": 0.4}})))
        assert (result.result, result.metric) == (FAIL, "parameter_scale")
        plain = Trainer(label="b", max_norm=None).record()
        for b in (plain, run("b", limit=0.03), run("b", Trainer), with_step(run("b"), 5, clips=())):
            for pair in ((a, b), (b, a)):
                assert clip(comparison(*pair)).result is FAIL
