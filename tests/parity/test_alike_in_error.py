"""One fault in both trainers: they agree with each other, and what the case says fails them."""

from __future__ import annotations

import pytest

from harness.ladder.result import Result
from harness.plugins.ladder import EnginePair, pair_outcome

PAIR = EnginePair("llama-tiny", "reference", "hf", "cpu")
FAULTS = {
    "no_clipping": "clip",
    "clipping_each_parameter": "clip",
    "learning_rate": "schedule",
    "divided_loss": "forward",
    "label_shift": "forward",
    "recompile": "graph",
    "host_transfer": "graph",
    "repeat_batch": "data",
    "reset_state": "loss_curve",
}
"""Faults, and the first rung that has to fail."""


@pytest.mark.cpu
@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_case_says_fails_them(fault: str, request: pytest.FixtureRequest) -> None:
    words = [f"engine.{engine}.faults=[{{name: {fault}}}]" for engine in (PAIR.a, PAIR.b)]
    outcome = pair_outcome(request.config, PAIR, "tolerance.noise_floor=table", *words)
    verdict = outcome.verdict.pairs[0]
    failing = [r.rung for r in verdict.rungs if r.result is Result.FAIL]
    assert failing[0] == FAULTS[fault], verdict.headline
