"""Known answers: what a Record needs before a number of its device is believed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from builders import Trainer, comparison

from harness.ladder.judge import judge
from harness.ladder.known_answers import wrong_known_answers
from harness.ladder.result import Result
from harness.record.evidence import KnownAnswers, Record

INVALID, PASS = Result.INVALID, Result.PASS


@pytest.fixture(scope="module")
def run() -> Record:
    return Trainer().record()


def answering(run: Record, index: int = 0, version: int = 1, **device: Any) -> Record:
    """The Record of a run whose device answers otherwise for one tensor."""
    assert run.observed.known_answers is not None
    tensors = list(run.observed.known_answers.tensors)
    changed = dataclasses.replace(tensors[index].device, **device)
    tensors[index] = dataclasses.replace(tensors[index], device=changed)
    return with_answers(run, KnownAnswers(version, tuple(tensors)))


def with_answers(run: Record, answers: KnownAnswers | None) -> Record:
    """The Record of a run whose device gave these answers."""
    observed = dataclasses.replace(run.observed, known_answers=answers)
    return dataclasses.replace(run, manifest=dataclasses.replace(run.manifest, observed=observed))


def results(a: Record, b: Record, **given: Any) -> set[Result]:
    return {rung.result for rung in judge(comparison(a, b, **given)).rungs}


def test_right_ones_change_nothing(run: Record) -> None:
    assert judge(comparison(run, run)).result is PASS


@pytest.mark.parametrize("index", [0, 1])
def test_wrong_ones_are_invalid_at_every_rung(run: Record, index: int) -> None:
    assert run.observed.known_answers is not None
    right = run.observed.known_answers.tensors[index].device
    for change in (
        {"bits": right.bits ^ 1},
        {"norm": right.norm + 1e-3},
        {"norm": math.nan},
        {"sketch": (*right.sketch[:-1], right.sketch[-1] - 1e-3)},
        {"sketch": (math.inf, *right.sketch[1:])},
        {"sketch": right.sketch[1:]},
        {"sketch": ()},
    ):
        other = answering(run, index, **change)
        assert results(run, other) == results(other, run) == {INVALID}


def test_rounding_is_not_wrong(run: Record) -> None:
    assert run.observed.known_answers is not None
    right = run.observed.known_answers.tensors[1].device
    other = answering(run, 1, sketch=tuple(s + 5e-5 for s in right.sketch), norm=right.norm - 5e-5)
    assert judge(comparison(run, other)).result is PASS


@pytest.mark.parametrize("exact", [1.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("found", [1.0, math.inf, -math.inf, math.nan])
def test_what_cannot_be_rounded_is_equal_or_wrong(run: Record, exact: float, found: float) -> None:
    assert run.observed.known_answers is not None
    (answer, *_) = run.observed.known_answers.tensors
    device, host = (dataclasses.replace(answer.host, norm=norm) for norm in (found, exact))
    given = dataclasses.replace(answer, device=device, host=host, rounding=0.0)
    other = with_answers(run, KnownAnswers(1, (given,)))
    wrong = wrong_known_answers(comparison(run, other))
    assert (wrong is None) == (str(found) == str(exact))


def test_missing_ones_are_invalid(run: Record) -> None:
    for answers in (None, KnownAnswers(1, ())):
        other = with_answers(run, answers)
        assert results(run, other) == results(other, run) == {INVALID}


def test_another_version_is_invalid(run: Record) -> None:
    other = answering(run, version=2)
    assert results(run, other) == {INVALID}
    assert judge(comparison(other, other)).result is PASS


def test_the_noise_floor_and_the_float64_reference_count_too(run: Record) -> None:
    assert run.observed.known_answers is not None
    wrong = answering(run, bits=run.observed.known_answers.tensors[0].device.bits ^ 1)
    assert results(run, run, noise_floor=(run, wrong)) == {INVALID}
    assert results(run, run, float64=wrong) == {INVALID}
    assert results(run, run, float64_per_run={"a": wrong}) == {INVALID}


def test_a_noise_floor_that_crashed_is_no_device_that_is_wrong(run: Record) -> None:
    ended = dataclasses.replace(run.ended, status="failed", reason="it crashed")
    manifest = dataclasses.replace(run.manifest, ended=ended)
    crashed = with_answers(dataclasses.replace(run, manifest=manifest), None)
    assert INVALID not in results(run, run, noise_floor=(run, crashed))
