"""The loss of a step, and by what it was divided: where that is known, and where it is not."""

from __future__ import annotations

import dataclasses
import math

import pytest
from builders import with_loss

from harness.ladder.loss import divided, division, first_loss, mean_cross_entropy
from harness.record.evidence import Batch, CrossEntropy, Record, Step

BATCH = Batch("", "", "", (), (1, 4), targets=3, first_targets=0)


def step(*values: float, reduction: str = "mean", targets: tuple[int, ...] = (3, 1)) -> Step:
    """A step of two micro-batches with these cross-entropies, and losses of 2 and 5."""
    return Step(
        0,
        loss=7.0,
        micro_losses=(2.0, 5.0),
        batches=tuple(dataclasses.replace(BATCH, targets=n) for n in targets),
        cross_entropies=tuple(CrossEntropy(reduction, value) for value in values),
    )


class TestMeanCrossEntropy:
    def test_every_label_counts_alike(self) -> None:
        assert mean_cross_entropy(step(1.0, 4.0)) == 1.75
        assert mean_cross_entropy(step(3.0, 4.0, reduction="sum")) == 1.75

    @pytest.mark.parametrize(
        "unknown",
        [
            Step(0),
            step(),
            step(1.0),
            step(1.0, 4.0, 4.0),
            step(1.0, 4.0, targets=(3,)),
            step(1.0, 4.0, targets=(3, 0)),
            step(1.0, 4.0, targets=(0, 0)),
            step(1.0, 4.0, reduction="none"),
            step(1.0, math.nan),
            step(1.0, math.inf, reduction="sum"),
        ],
    )
    def test_it_cannot_be_known(self, unknown: Step) -> None:
        assert mean_cross_entropy(unknown) is None
        assert division(unknown) == 1


class TestDivision:
    @pytest.mark.parametrize(
        ("mean", "by"),
        [(7.0, 1), (14.0, 2), (3.5, 0.5), (14 * 1.09, 2), (14 * 1.11, 1), (3.5 * 0.89, 1)],
    )
    def test_by_what(self, mean: float, by: float) -> None:
        assert division(step(mean, mean)) == by

    @pytest.mark.parametrize("loss", [None, 0.0])
    def test_without_a_loss_nothing_tells(self, loss: float | None) -> None:
        assert division(dataclasses.replace(step(14.0, 14.0), loss=loss)) == 1

    @pytest.mark.parametrize(("mean", "by"), [(14.0, 2), (3.5, 0.5)])
    def test_it_is_undone_and_told(self, a: Record, mean: float, by: float) -> None:
        run = dataclasses.replace(a, steps=(step(mean, mean), *a.steps[1:]))
        assert first_loss(run) == mean
        (finding,) = divided(run)
        assert (finding.step, finding.kind) == (0, f"division by {by:g}")
        assert ("once too often" in finding.text) == (by > 1)

    def test_a_loss_that_is_not_divided(self, a: Record) -> None:
        run = dataclasses.replace(a, steps=(step(7.0, 7.0), *a.steps[1:]))
        assert first_loss(run) == 7.0
        assert list(divided(run)) == []

    def test_without_the_first_step_nothing_is_known(self, a: Record) -> None:
        later = dataclasses.replace(step(14.0, 14.0), index=1)
        for steps in ((later,), ()):
            run = dataclasses.replace(a, steps=steps)
            assert first_loss(run) is None
            assert list(divided(run)) == []
        assert first_loss(with_loss(a, 0, None)) is None
