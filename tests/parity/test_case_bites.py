"""The default case can expose bugs: what would hide them is not so in it.

Each property is shown on a Record of the real Trainer, and each is one that a bug once hid behind.
"""

from __future__ import annotations

import math

import pytest

from harness.plugins.ladder import EnginePair, pair_outcome
from harness.record.evidence import Record


@pytest.fixture
def trained(request: pytest.FixtureRequest) -> Record:
    pair = EnginePair("llama-tiny", "hf", "reference", "cpu")
    outcome = pair_outcome(request.config, pair)
    return outcome.records[outcome.verdict.pairs[0].a_record]


@pytest.mark.cpu
def test_the_first_loss_is_not_that_of_a_model_that_knows_nothing(trained: Record) -> None:
    assert trained.case.model is not None
    blind = math.log(trained.case.model.vocab_size)
    loss = trained.steps[0].loss
    assert loss is not None
    assert abs(loss - blind) > 0.1


@pytest.mark.cpu
def test_gradients_are_above_the_threshold_in_some_steps_and_below_in_others(
    trained: Record,
) -> None:
    maximum = trained.case.max_norm
    assert maximum is not None
    above = [step.gradient_norm > maximum for step in trained.steps if step.gradient_norm]
    assert len(above) == len(trained.steps)
    assert above[0], "clipping has to bite at step 0, where its scale is observed"
    assert 0.2 < sum(above) / len(above) < 0.8


@pytest.mark.cpu
def test_rows_count_unevenly(trained: Record) -> None:
    targets = [step.batches[0].targets for step in trained.steps]
    assert len(set(targets)) > len(targets) / 2
    assert max(targets) > 1.2 * min(targets)


@pytest.mark.cpu
def test_the_schedule_warms_up_and_decays(trained: Record) -> None:
    rates = [step.learning_rates[0] for step in trained.steps]
    peak = rates.index(max(rates))
    assert 0 < peak < len(rates) - 1
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@pytest.mark.cpu
def test_norm_weights_are_not_all_one(trained: Record) -> None:
    for parameter in trained.parameters:
        if len(parameter.shape) == 1:
            assert parameter.initial is not None
            ones = math.sqrt(parameter.shape[0])
            assert abs(parameter.initial.norm / ones - 1) > 1e-3, parameter.name


@pytest.mark.cpu
def test_keys_and_values_are_not_square_and_have_fewer_heads(trained: Record) -> None:
    shapes = {p.name: p.shape for p in trained.parameters}
    rows, columns = shapes["model.layers.0.self_attn.k_proj.weight"]
    assert rows < columns


@pytest.mark.cpu
def test_every_parameter_has_a_gradient_and_is_trained(trained: Record) -> None:
    for parameter in trained.parameters:
        assert parameter.gradient is not None, parameter.name
        assert parameter.gradient.norm > 0, parameter.name
        assert parameter.final != parameter.initial, parameter.name
