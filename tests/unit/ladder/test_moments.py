"""What optimizers keep of their gradients, and how far that is apart."""

from __future__ import annotations

import dataclasses
import math

import pytest
from builders import Trainer, with_parameter

from harness.ladder.moments import (
    last_moment_distances,
    moment_distances,
    observed_alone,
    steps_alike,
)
from harness.record.evidence import Record

WARM, COLD = Trainer().record(), Trainer(warmup=0).record()
"""Without a warm-up the first update moves the weights already."""


def bare(run: Record) -> Record:
    """The Record of an optimizer that keeps nothing."""
    for index in range(len(run.parameters)):
        run = with_parameter(run, index, state_after=(), state_final={})
    return run


@pytest.mark.parametrize(("a", "b", "steps"), [(WARM, WARM, 2), (WARM, COLD, 1), (COLD, WARM, 1)])
def test_the_second_step_is_alike_where_the_first_moved_nothing(
    a: Record, b: Record, steps: int
) -> None:
    assert steps_alike(a, b) == steps
    found = moment_distances(a, b)
    assert {step for _, step, _ in found} == set(range(steps))
    assert set(found.values()) == {0.0}


def test_without_a_step_no_update_is_known() -> None:
    assert steps_alike(dataclasses.replace(COLD, steps=()), WARM) == 2


def test_what_only_one_keeps_is_infinitely_far() -> None:
    name = WARM.parameters[0].name
    first = WARM.parameters[0]
    one_less = ({"exp_avg": first.state_after[0]["exp_avg"]}, first.state_after[1])
    less = with_parameter(WARM, 0, state_after=one_less, state_final={})
    for pair in ((WARM, less), (less, WARM)):
        found = moment_distances(*pair)
        infinite = {key for key, distance in found.items() if distance == math.inf}
        assert infinite == {(name, 0, "exp_avg_sq")}
        assert last_moment_distances(*pair)[name] == math.inf
    cut = with_parameter(WARM, 0, state_after=first.state_after[:1])
    assert moment_distances(WARM, cut)[name, 1, "exp_avg"] == math.inf


def test_of_an_optimizer_that_keeps_nothing() -> None:
    assert moment_distances(bare(WARM), bare(WARM)) == {}
    assert last_moment_distances(bare(WARM), bare(WARM)) == {}


def test_of_which_run_alone_it_was_observed() -> None:
    pairs = (WARM, WARM), (WARM, bare(WARM)), (bare(COLD), COLD), (bare(WARM), bare(WARM))
    alone = [observed_alone(*pair, lambda p: p.state_after) for pair in pairs]
    assert alone == [None, WARM.label, COLD.label, None]
    some = with_parameter(bare(WARM), 0, state_after=WARM.parameters[0].state_after)
    assert observed_alone(some, bare(WARM), lambda p: p.state_after) == WARM.label
