"""What clean pairs compile to is alike; what costs work on the device or the host is seen."""

from __future__ import annotations

import pytest

from harness.ladder.result import Result
from harness.plugins.ladder import EnginePair, pair_outcome

PAIR = EnginePair("llama-tiny", "reference", "hf", "cpu")


@pytest.mark.cpu
@pytest.mark.slow
@pytest.mark.parametrize("case", ["llama-tiny", "llama-tiny-2d"])
def test_a_clean_pair_compiles_to_the_same_work(case: str, request: pytest.FixtureRequest) -> None:
    pair = EnginePair(case, "reference", "hf", "cpu")
    verdict = pair_outcome(request.config, pair, "graph=hlo").verdict.pairs[0]
    assert verdict.rung("graph").result is Result.PASS, verdict.headline


@pytest.mark.cpu
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["lost_recomputation", "logits_to_host", "sync_each_layer"])
def test_more_work_fails_graph_alone(fault: str, request: pytest.FixtureRequest) -> None:
    words = (
        "float64=never",
        "tolerance.noise_floor=table",
        f"engine.hf.faults=[{{name: {fault}}}]",
    )
    verdict = pair_outcome(request.config, PAIR, *words).verdict.pairs[0]
    assert [r.rung for r in verdict.rungs if r.result is Result.FAIL] == ["graph"], verdict.headline
