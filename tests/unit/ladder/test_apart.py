"""Three numbers for how far apart two runs are."""

from __future__ import annotations

import dataclasses
import math

import pytest

from harness.ladder.apart import Apart, apart
from harness.record.evidence import Record


def with_loss(run: Record, step: int, loss: float) -> Record:
    """The run with another loss at one step."""
    steps = [dataclasses.replace(s, loss=loss) if s.index == step else s for s in run.steps]
    return dataclasses.replace(run, steps=tuple(steps))


def test_equal_runs(a: Record) -> None:
    assert apart(a, a) == Apart(0.0, 0.0, None)


def test_a_loss_apart(a: Record) -> None:
    loss = a.steps[3].loss
    assert loss is not None
    found = apart(a, with_loss(a, 3, loss + 0.25))
    assert found.loss == pytest.approx(0.25)
    assert (found.norm, found.first) == (0.0, 3)


def test_a_nan_is_the_furthest(a: Record) -> None:
    found = apart(a, with_loss(a, 2, math.nan))
    assert found.loss is not None
    assert math.isnan(found.loss)
    assert found.first == 2


def test_steps_that_one_run_lacks_tell_nothing(a: Record) -> None:
    nothing = dataclasses.replace(a, steps=())
    assert apart(a, nothing) == Apart()
    half = dataclasses.replace(a, steps=a.steps[:4])
    assert (apart(a, half).loss, apart(a, half).norm) == (0.0, None)


def without_norms(run: Record) -> Record:
    """The run as where nothing is clipped: nobody measures a norm."""
    steps = [dataclasses.replace(s, gradient_norm=None) for s in run.steps]
    return dataclasses.replace(run, steps=tuple(steps))


def test_norms_that_nobody_measured_are_no_nan(a: Record) -> None:
    silent = without_norms(a)
    assert apart(silent, silent).norm is None
    assert apart(a, silent).norm is None
    lost = dataclasses.replace(a, steps=(without_norms(a).steps[0], *a.steps[1:]))
    found = apart(a, lost).norm
    assert found is not None
    assert math.isnan(found)
