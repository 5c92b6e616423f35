"""The rung grad_norm_curve: each way in which it could pass and should not."""

from __future__ import annotations

import dataclasses

from builders import (
    Trainer,
    comparison,
    with_step,
)
from golden import Worded

from harness.ladder.result import Result
from harness.ladder.rungs.grad_norm_curve import grad_norm_curve
from harness.record.evidence import Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


NOT_EXERCISED = Result.NOT_EXERCISED


def with_norm(run: Record, index: int, norm: float | None) -> Record:
    return with_step(run, index, gradient_norm=norm)


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
        once = with_step(unclipped, 3, max_norm=0.2)
        assert grad_norm_curve(comparison(once, unclipped)).result is INVALID

    def test_only_one_measures(self, a: Record) -> None:
        b = Trainer(label="b", max_norm=None).record()
        for pair in ((a, b), (b, a)):
            result = grad_norm_curve(comparison(*pair, broken=("clip",)))
            assert result.result is INVALID

    def test_one_that_clips_as_it_should_by_its_own_function(
        self, worded: Worded, a: Record
    ) -> None:
        b = Trainer(label="b").record()
        steps = tuple(
            dataclasses.replace(step, max_norm=None, gradient_norm=None) for step in b.steps
        )
        b = dataclasses.replace(b, steps=steps)
        for pair in ((a, b), (b, a)):
            result = grad_norm_curve(comparison(*pair))
            assert result.result is NOT_EXERCISED
            worded(result)

    def test_one_that_was_measured_once_has_to_be_there_at_every_step(self, a: Record) -> None:
        once = a
        for step in range(1, 8):
            once = with_norm(once, step, None)
        assert grad_norm_curve(comparison(once, once)).result is FAIL
