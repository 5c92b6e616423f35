"""Whether two runs did the same work in a step, by numbers and shapes of their batches."""

from __future__ import annotations

import dataclasses

import pytest
from builders import Trainer, with_step, without

from harness.ladder.same_work import other_work, skipped_updates
from harness.record.evidence import Record

RUN = Trainer(steps=4, accumulation=2).record()


def with_micro(*counts: int) -> Record:
    """`RUN`, whose steps took so many micro-batches."""
    run = RUN
    for step, count in enumerate(counts):
        run = with_step(run, step, micro_losses=(1.0,) * count)
    return run


@pytest.mark.parametrize(
    ("counts", "skipped"),
    [
        ((2, 2, 2, 2), {}),
        ((2, 4, 2, 6), {1: 4, 3: 6}),
        ((2, 3, 1, 0), {}),
        ((4, 4, 4, 4), {}),  # that is how it trains, and not what it leaves out now and then
        ((4, 4, 4, 2), {0: 4, 1: 4, 2: 4}),
    ],
)
def test_updates_that_were_skipped(counts: tuple[int, ...], skipped: dict[int, int]) -> None:
    assert skipped_updates(with_micro(*counts)) == skipped


def test_a_step_that_was_not_finished_tells_nothing() -> None:
    assert skipped_updates(with_step(with_micro(2, 2, 2, 4), 3, finished=False)) == {}


def test_other_work() -> None:
    assert other_work(RUN, RUN) is None
    longer = tuple(dataclasses.replace(b, shape=(4, 7)) for b in RUN.steps[2].batches)
    for step, other in (
        (2, with_step(RUN, 2, batches=longer)),
        (2, with_step(RUN, 2, batches=RUN.steps[2].batches[:1])),
        (3, without(RUN, "steps", 3)),
        (3, with_step(RUN, 3, finished=False)),
        (1, without(with_step(RUN, 2, batches=longer), "steps", 1)),
    ):
        assert other_work(RUN, other) == other_work(other, RUN) == step
