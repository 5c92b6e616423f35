"""Below a broken rung nothing else turns red that follows from it; what does not follow still does.

Each run has one thing wrong, and every rung but its own passes or says nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from builders import Trainer, comparison, with_observed, with_parameter, with_window

from harness.ladder.judge import judge
from harness.ladder.ladder import LADDER
from harness.ladder.result import Result
from harness.ladder.same_work import other_work, skipped_updates
from harness.ladder.verdict import PairVerdict
from harness.record.evidence import Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID

A = Trainer().record()


def of_the_same_case(run: Record) -> Record:
    return dataclasses.replace(run, manifest=dataclasses.replace(run.manifest, case=A.case))


def judged(b: Record) -> PairVerdict:
    return judge(comparison(A, of_the_same_case(b)))


def failing(verdict: PairVerdict) -> list[str]:
    return [rung.rung for rung in verdict.rungs if rung.result is FAIL]


class Skips(Trainer):
    """The optimizer is not called at step 4; schedule and data go on."""

    def rate(self, step: int) -> float:
        return Trainer(learning_rate=self.learning_rate).rate(step)

    def record(self) -> Record:
        run = super().record()
        steps = list(run.steps)
        late, lost = steps[5], steps[4]
        steps[4] = dataclasses.replace(
            late, index=4, batches=lost.batches + late.batches, inputs=lost.inputs + late.inputs,
            micro_losses=lost.micro_losses + late.micro_losses,
        )  # fmt: skip
        steps[5:] = [dataclasses.replace(s, index=s.index - 1) for s in steps[6:]]
        return dataclasses.replace(run, steps=tuple(steps))


class Halved(Trainer):
    """Gradients lose half at step 4; that compiles a graph of its own there."""

    def updated(self, weight: Any, gradient: Any, state: dict[str, Any], rate: float) -> Any:
        share = 0.5 if state["step"] == 4 and weight.ndim == 1 else 1.0
        return super().updated(weight, gradient * share, state, rate)

    def compilations(self, window: int) -> int:
        return super().compilations(window) + (window == 3)


class Louder(Trainer):
    """Another loss, and operations on the host that compute it."""

    def gradients(self, *given: Any) -> Any:
        loss, gradients = super().gradients(*given)
        return loss * 1.1, gradients

    def fallbacks(self, window: int) -> dict[str, int]:
        return {"aten::nonzero": 2}


def in_another_dtype() -> Record:
    return Trainer(label="b", dtype="bfloat16").record()


def replicated() -> Record:
    noisy = Trainer(label="b", noise=1e-4).record()
    return with_window(with_parameter(noisy, 0, sharding=""), 4, executions=99)


def computing(**observed: Any) -> Callable[[], Record]:
    noisy = Trainer(label="b", noise=1e-4).record()
    return lambda: with_observed(noisy, **observed)


@pytest.mark.parametrize(
    ("b", "own"),
    [
        (computing(matmul_precision="default"), "environment"),
        (computing(attention="sdpa"), "environment"),
        (computing(device_kind="TPU v6e"), "environment"),
        (in_another_dtype, "sharding"),
        (replicated, "sharding"),
        (Skips(label="b", steps=9, requested=8).record, "data"),
        (Trainer(label="b", steps=6, requested=8).record, "data"),
        (Trainer(label="b", accumulation=2).record, "data"),
        (Louder(label="b").record, "forward"),
        (Halved(label="b").record, "loss_curve"),
    ],
)
def test_one_cause_fails_one_rung(b: Callable[[], Record], own: str) -> None:
    assert failing(judged(b())) == [own]


class TestGraph:
    def test_what_compiles_before_the_fault_has_a_cause_of_its_own(self) -> None:
        class Early(Halved):
            def compilations(self, window: int) -> int:
                return Trainer.compilations(self, window) + (window == 2)

        assert failing(judged(Early(label="b").record())) == ["loss_curve", "graph"]

    def test_what_follows_still_says_what_it_saw(self) -> None:
        graph = judged(Halved(label="b").record()).rung("graph")
        assert graph.result is INVALID
        assert graph.findings[0].step == 5

    def test_other_versions_excuse_nothing(self) -> None:
        """They are often compared on purpose: what they do is then the question."""
        versions = {**A.observed.versions, "torch_xla": "2.10.0"}
        verdict = judged(with_observed(Louder(label="b").record(), versions=versions))
        assert failing(verdict) == ["environment", "forward"]

    def test_a_rung_that_holds_below_a_broken_one_still_passes(self) -> None:
        verdict = judged(with_parameter(Trainer(label="b").record(), 0, sharding=""))
        assert failing(verdict) == ["sharding"]
        assert {verdict.rung(n).result for n in ("init", "forward", "graph")} == {PASS}


class TestSchedule:
    def test_before_the_skipped_update_it_is_judged(self) -> None:
        b = Skips(label="b", steps=9, requested=8, learning_rate=2e-2).record()
        assert failing(judged(b)) == ["data", "schedule"]

    def test_a_shorter_run_with_rates_of_another_schedule(self) -> None:
        b = Trainer(label="b", steps=6, requested=8, learning_rate=2e-2).record()
        assert failing(judged(b)) == ["data", "schedule"]

    def test_updates_that_are_skipped(self) -> None:
        assert skipped_updates(A) == {}
        assert skipped_updates(Skips(steps=9, requested=8).record()) == {4: 2}
        assert other_work(A, Skips(steps=9, requested=8).record()) == 4
        assert other_work(A, Trainer(steps=6).record()) == 6
        assert other_work(A, A) is None


def test_what_may_follow_is_above() -> None:
    names = [rung.name for rung in LADDER]
    for rung in LADDER:
        assert all(names.index(above) < names.index(rung.name) for above in rung.follows)
