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
    assert {"init", "forward", "optimizer"} <= set(failed)
    assert failed["data"].findings[1].step == 0
    assert failed["init"].findings[0].parameter == "lm_head.weight"
    assert failed["forward"].metric == "loss"
    decay = failed["optimizer"].findings[0]
    assert (decay.step, decay.a, decay.b) == (0, "0.0", "0.1")
    for name in ("environment", "sharding", "schedule"):
        assert verdict.rung(name).result is Result.PASS
    for name in ("loss_curve", "grad_norm_curve"):
        assert verdict.rung(name).result is Result.INVALID
