"""A mixture of experts: who agrees with whom, and faults in which experts a token goes through.

What cannot be trained on the mesh, as experts have shapes that depend on values, is trained on the
processor without XLA.
"""

from __future__ import annotations

from typing import Any

import pytest

from harness.ladder.ladder import names
from harness.ladder.result import Result
from harness.ladder.verdict import PairVerdict
from harness.plugins.ladder import EnginePair, pair_outcome

LLAMA4 = ("llama4-tiny", "torchprime", "hf", "cpu")
ON_THE_HOST = [EnginePair(*LLAMA4)]
"""transformers' rotary embeddings call `torch.polar`, which torch_xla does not lower."""

NATIVE = EnginePair("mixtral-tiny", "hf", "reference", "cpu-native")
PAIRS = [
    pytest.param(NATIVE, id="native"),
    *(
        pytest.param(EnginePair(case, a, b, device), id=name, marks=pytest.mark.slow)
        for name, case, a, b, device in (
            ("mesh", "mixtral-tiny", "torchprime", "reference", "cpu"),
            ("llama4-native", "llama4-tiny", "hf", "reference", "cpu-native"),
            # A fault is seeded into the second: in torchprime other modules compute with experts.
            ("llama4-mesh", *LLAMA4),
            ("deepseek3-native", "deepseek3-tiny", "hf", "reference", "cpu-native"),
        )
    ),
]
BLOCKS = {
    "mixtral-tiny": "layers.0.block_sparse_moe",
    "llama4-tiny": "layers.0",  # transformers' experts put out tokens, and no batch of rows
    "deepseek3-tiny": "layers.1.mlp",
}
"""By case the first experts, or the layer that they are in."""


def judged(pair: EnginePair, config: Any, fault: str = "") -> PairVerdict:
    seeded = f"engine.{pair.b}.faults=[{{name: {fault}}}]"
    words = ("float64=never", seeded) if fault else ()
    return pair_outcome(config, pair, *words).verdict.pairs[0]


def failures(verdict: PairVerdict, pair: EnginePair) -> list[str]:
    """Rungs that fail, but for what is known of a pair."""
    known = ["graph"] if pair in ON_THE_HOST else []
    return [r.rung for r in verdict.rungs if r.result is Result.FAIL and r.rung not in known]


@pytest.mark.cpu
@pytest.mark.parametrize("pair", PAIRS)
def test_they_agree(pair: EnginePair, request: pytest.FixtureRequest) -> None:
    verdict = judged(pair, request.config)
    assert failures(verdict, pair) == [], verdict.headline
    assert verdict.rung("routing").result is Result.PASS
    if pair in ON_THE_HOST:
        assert "aten::polar" in verdict.rung("graph").explanation
    else:
        assert verdict.result is Result.PASS, verdict.headline


@pytest.mark.cpu
@pytest.mark.parametrize("pair", PAIRS)
def test_a_router_that_picks_other_experts(
    pair: EnginePair, request: pytest.FixtureRequest
) -> None:
    """Its logits are right: only what it chooses is wrong, and nothing below it is blamed."""
    verdict = judged(pair, request.config, "other_experts")
    assert failures(verdict, pair) == ["routing"], verdict.headline
    assert verdict.rung("routing").metric == "experts"
    above = names()[: names().index("routing")]
    assert all(verdict.rung(r).result in (Result.PASS, Result.NOT_EXERCISED) for r in above)


@pytest.mark.cpu
@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_rotary_embeddings_of_another_base(
    pair: EnginePair, request: pytest.FixtureRequest
) -> None:
    """The attention of the first layer is what differs, however this family rotates."""
    verdict = judged(pair, request.config, "rope_theta")
    assert verdict.headline_rung is not None
    assert verdict.headline_rung.rung == "forward", verdict.headline
    assert "that of model.layers.0.self_attn" in verdict.rung("forward").explanation


@pytest.mark.cpu
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["expert_order", "dropped_tokens"])
@pytest.mark.parametrize("pair", PAIRS)
def test_experts_that_compute_otherwise(
    fault: str, pair: EnginePair, request: pytest.FixtureRequest
) -> None:
    """The first router is right, and the second one is given what is not: `forward` names where."""
    verdict = judged(pair, request.config, fault)
    assert failures(verdict, pair) == ["forward"], verdict.headline
    assert f"model.{BLOCKS[pair.case]}" in verdict.rung("forward").explanation
    routing = verdict.rung("routing")
    assert routing.result is Result.INCONCLUSIVE
    assert "routers before it that agree: 1" in routing.explanation
