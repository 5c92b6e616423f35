"""As shipped, the ladder lists every difference between the two trainers with its cause."""

from __future__ import annotations

import pytest

from harness.ladder.result import Result
from harness.plugins.ladder import EnginePair, pair_outcome


@pytest.mark.cpu
def test_every_difference_is_listed_with_its_cause(request: pytest.FixtureRequest) -> None:
    pair = EnginePair("llama-tiny-as-shipped", "hf", "torchprime", "cpu")
    verdict = pair_outcome(request.config, pair).verdict.pairs[0]
    failed = {rung.rung: rung for rung in verdict.rungs if rung.result is Result.FAIL}
    assert verdict.headline_rung is not None
    assert verdict.headline_rung.rung == "data"
    assert "another text, cut or order of data" in failed["data"].explanation
    assert "unrelated draws" in failed["init"].explanation
    assert "hf divides by all 1024 labels" in failed["forward"].explanation
    assert "weight_decay of the 5 norm weights: 0.0 in hf, 0.1 in torchprime" in (
        failed["optimizer"].explanation
    )
    assert "aten::_local_scalar_dense" in failed["graph"].explanation
    for name in ("environment", "sharding", "schedule"):
        assert verdict.rung(name).result is Result.PASS
    for name in ("loss_curve", "grad_norm_curve"):
        assert verdict.rung(name).result is Result.INVALID
