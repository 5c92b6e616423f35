"""Why runs part in the middle of training: step and cause of faults that begin late."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from builders import Arrays, Trainer, comparison, with_loss, with_parameter
from golden import Worded

from harness.ladder.judge import judge
from harness.ladder.late import cause, first_norm_apart
from harness.ladder.result import Result, RungResult
from harness.record.evidence import Fingerprint, Record

BEGINS = 5
"""The first step that is another."""

A = Trainer(steps=12).record()


@dataclasses.dataclass(frozen=True)
class Late(Trainer):
    """A trainer that counts its steps as it takes them."""

    label: str = "b"
    steps: int = 12

    def clipped(self, gradients: Arrays) -> Any:
        counted = self.__dict__
        counted["taken"] = counted.get("taken", -1) + 1
        return super().clipped(self.late(gradients) if self.begun else gradients)

    @property
    def begun(self) -> bool:
        return bool(self.__dict__["taken"] >= BEGINS)

    def late(self, gradients: Arrays) -> Arrays:
        return gradients


class ScaledBeforeClipping(Late):
    def late(self, gradients: Arrays) -> Arrays:
        return {name: g * np.float32(0.1) for name, g in gradients.items()}


class OfOneParameter(Late):
    def late(self, gradients: Arrays) -> Arrays:
        return gradients | {"lm_head.weight": gradients["lm_head.weight"] * np.float32(0.5)}


class ScaledAfterClipping(Late):
    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        share = np.float32(0.5 if self.begun else 1.0)
        return super().updated(weight, gradient * share, state, rate)


class Reset(Late):
    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        if state["step"] == BEGINS and "reset" not in state:
            state.update(reset=True, step=0, m=np.zeros_like(weight), v=np.zeros_like(weight))
        return super().updated(weight, gradient, state, rate)


class ResetOfOne(Late):
    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        if state["step"] == BEGINS and weight.ndim == 1 and "reset" not in state:
            state.update(reset=True, step=0, m=np.zeros_like(weight), v=np.zeros_like(weight))
        return super().updated(weight, gradient, state, rate)


class NoUpdatesOfOne(Late):
    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        if self.begun and weight.ndim == 1:
            return weight
        return super().updated(weight, gradient, state, rate)


def curve(b: Record) -> RungResult:
    verdict = judge(comparison(A, b))
    assert [r.rung for r in verdict.rungs if r.result is Result.FAIL] == ["loss_curve"]
    return verdict.rung("loss_curve")


@pytest.mark.parametrize("trainer", [ScaledBeforeClipping, OfOneParameter])
def test_gradients_that_differ_where_the_loss_still_agrees(
    worded: Worded, trainer: type[Trainer]
) -> None:
    b = trainer().record()
    found = first_norm_apart(comparison(A, b), BEGINS + 1, 4.8e-7)
    assert found is not None
    assert found[0] == BEGINS
    if trainer is ScaledBeforeClipping:
        assert found[2] / found[1] == pytest.approx(0.1, rel=1e-4)
    worded(curve(b))


@pytest.mark.parametrize("trainer", [Reset, ResetOfOne, ScaledAfterClipping, NoUpdatesOfOne])
def test_updates_that_differ_where_the_gradients_agree(
    worded: Worded, trainer: type[Trainer]
) -> None:
    worded(curve(trainer().record()))


def test_whose_it_is_does_not_depend_on_the_order(worded: Worded) -> None:
    b = Reset().record()
    for pair in ((A, b), (b, A)):
        worded(judge(comparison(*pair)).rung("loss_curve"))


def test_nothing_is_made_up(worded: Worded) -> None:
    """A loss alone tells of no cause, and one that is not finite of none at all."""
    worded(curve(with_loss(A, 7, 9.0)))
    worded(curve(with_loss(A, 7, float("nan"))))
    bare = Reset().record()
    for index, parameter in enumerate(bare.parameters):
        nothing = {name: Fingerprint(0, f.sketch, 0.0) for name, f in parameter.state_final.items()}
        bare = with_parameter(bare, index, state_final=nothing, counted=None)
    worded(curve(bare))


def with_moment(run: Record, index: int, share: float) -> Record:
    """The run, with one parameter's second moment so many times as large at the end."""
    state = run.parameters[index].state_final
    kept = state["exp_avg_sq"]
    other = dataclasses.replace(kept, norm=kept.norm * share)
    return with_parameter(run, index, state_final={**state, "exp_avg_sq": other})


def with_count(run: Record, index: int, count: float) -> Record:
    """The run, in which the optimizer has counted so many updates of one parameter."""
    return with_parameter(run, index, counted=count)


@pytest.mark.parametrize(
    "shares", [(1.3, 1.0, 4.0), (0.2, 1.0, 4.0), (1.0, 1.3, 1.0), (1.2, 1.2, 1.2), (0.5, 2.0, 3.0)]
)
def test_whose_gradients_were_others(worded: Worded, shares: tuple[float, ...]) -> None:
    run = with_loss(A, 7, 9.0)
    for index, share in enumerate(shares):
        run = with_moment(run, index, share)
    worded(curve(run))


@pytest.mark.parametrize("share", [0.0, math.inf, math.nan])
def test_a_moment_that_is_nothing_or_not_finite_tells_nothing(share: float) -> None:
    odd, other = with_moment(A, 0, share), with_loss(A, 7, 9.0)
    for pair in ((odd, other), (other, odd)):
        assert cause(comparison(*pair), 7, 4.8e-7) == (
            "step 6: the gradients agree, and the updates that were made of them do not"
        )


@pytest.mark.parametrize("counts", [(11, 12, 12), (11, 12, 9), (6, 6, 6)])
def test_updates_that_were_not_counted(worded: Worded, counts: tuple[int, ...]) -> None:
    run = with_loss(A, 7, 9.0)  # the update of step 6 is the first that may be another
    for index, count in enumerate(counts):
        run = with_count(run, index, count)
    worded(curve(run))


@pytest.mark.parametrize("trainer", [Reset, ResetOfOne])
def test_both_begin_anew_alike(trainer: type[Trainer]) -> None:
    """Nothing differs between the runs, and neither did what its case asks for."""
    a, b = trainer(label="hf").record(), trainer().record()
    verdict = judge(comparison(a, b))
    assert verdict.headline_rung is verdict.rung("loss_curve")
    first = verdict.rung("loss_curve").findings[0]
    assert (first.a, first.b) == (12 - BEGINS, 12)
