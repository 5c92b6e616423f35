"""Evaluation between steps changes nothing of what is trained, and nothing of what is observed."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.ladder.result import Result
from harness.plugins.ladder import EnginePair, pair_outcome
from harness.record.layout import LOG

PAIR = EnginePair("llama-tiny", "hf", "reference", "cpu-native")
WORDS = (
    f"engine.hf.script='{Path(__file__).with_name('evaluating.py')}'",
    "+engine.hf.arguments={eval_strategy: steps, eval_steps: 3, per_device_eval_batch_size: 4}",
    "float64=never",
)


@pytest.mark.cpu
@pytest.mark.slow
def test_the_same_training_with_and_without(request: pytest.FixtureRequest) -> None:
    """Batches, generators and weights go on after an evaluation as if there had been none."""
    plain, evaluated = (
        pair_outcome(request.config, PAIR, *words) for words in (("float64=never",), WORDS)
    )
    for outcome in (plain, evaluated):
        assert outcome.verdict.result is Result.PASS, outcome.verdict.pairs[0].headline
    one, other = (o.records[o.verdict.pairs[0].a_record] for o in (plain, evaluated))
    assert (other.directory / LOG).read_text(errors="replace").count("eval_loss") >= 6
    assert [step.loss for step in one.steps] == [step.loss for step in other.steps]
    assert [step.batches for step in one.steps] == [step.batches for step in other.steps]
    assert [p.final for p in one.parameters] == [p.final for p in other.parameters]
