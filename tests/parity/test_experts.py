"""A mixture of experts: who agrees with whom, and faults in which experts a token goes through.

torchprime and the reference are trained on the mesh; hf on the processor without XLA, as its
experts have shapes that depend on values.
"""

from __future__ import annotations

from typing import Any

import pytest

from harness.ladder.ladder import names
from harness.ladder.result import Result
from harness.ladder.verdict import PairVerdict
from harness.plugins.ladder import EnginePair, pair_outcome

CASE = "mixtral-tiny"
NATIVE = EnginePair(CASE, "hf", "reference", "cpu-native")
MESH = EnginePair(CASE, "torchprime", "reference", "cpu")
PAIRS = [pytest.param(NATIVE, id="native"), pytest.param(MESH, marks=pytest.mark.slow, id="mesh")]


def judged(pair: EnginePair, config: Any, fault: str = "") -> PairVerdict:
    seeded = f"engine.{pair.b}.faults=[{{name: {fault}}}]"
    words = ("float64=never", seeded) if fault else ()
    return pair_outcome(config, pair, *words).verdict.pairs[0]


@pytest.mark.cpu
@pytest.mark.parametrize("pair", PAIRS)
def test_they_agree(pair: EnginePair, request: pytest.FixtureRequest) -> None:
    verdict = judged(pair, request.config)
    assert verdict.result is Result.PASS, verdict.headline
    assert verdict.rung("routing").result is Result.PASS


@pytest.mark.cpu
@pytest.mark.parametrize("pair", PAIRS)
def test_a_router_that_picks_other_experts(
    pair: EnginePair, request: pytest.FixtureRequest
) -> None:
    """Its logits are right: only what it chooses is wrong, and nothing below it is blamed."""
    verdict = judged(pair, request.config, "other_experts")
    failing = [r.rung for r in verdict.rungs if r.result is Result.FAIL]
    assert failing == ["routing"], verdict.headline
    assert verdict.rung("routing").metric == "experts"
    above = names()[: names().index("routing")]
    assert all(verdict.rung(r).result in (Result.PASS, Result.NOT_EXERCISED) for r in above)


@pytest.mark.cpu
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["expert_order", "dropped_tokens"])
@pytest.mark.parametrize("pair", PAIRS)
def test_experts_that_compute_otherwise(
    fault: str, pair: EnginePair, request: pytest.FixtureRequest
) -> None:
    """The first router is right, and the second one is given what is not: `forward` names where."""
    verdict = judged(pair, request.config, fault)
    failing = [r.rung for r in verdict.rungs if r.result is Result.FAIL]
    assert failing == ["forward"], verdict.headline
    assert "model.layers.0.block_sparse_moe" in verdict.rung("forward").explanation
    routing = verdict.rung("routing")
    assert routing.result is Result.INCONCLUSIVE
    assert "routers before it that agree: 1" in routing.explanation
