"""Mixtral: a Llama whose feed-forward blocks are experts, of which a router chooses some a token.

`case.model.options` has `experts`, how many there are in a layer, and `chosen`, how many of them
each token goes through. Nothing is added to the loss for an even use of experts: transformers adds
it where `output_router_logits` is asked for, torchprime where tokens are dropped.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.base.errors import BadInput, CannotTrain
from harness.models import llama
from harness.models.family import Family, InEngine, Model, dense_flops_per_token
from harness.models.router import Router

OPTIONS = ("experts", "chosen")

BLOCK = "block_sparse_moe"
"""Name of a layer's router and experts."""


def check(m: Model) -> None:
    """Raise BadInput for a shape that no Mixtral has."""
    found = m.options or {}
    if set(found) != set(OPTIONS):
        raise BadInput(f"case.model.options={found}: a Mixtral has exactly {', '.join(OPTIONS)}")
    for name, value in found.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadInput(f"case.model.options.{name}={value}: it has to be a number above 0")
    if found["chosen"] >= found["experts"]:
        raise BadInput(
            f"case.model.options.chosen={found['chosen']}: of {found['experts']} experts (experts) "
            "a token goes to some, and not to all"
        )
    llama.check(_without_options(m))


def _without_options(m: Model) -> Model:
    return dataclasses.replace(m, options=None)


def experts(m: Model) -> int:
    """How many experts there are in a layer."""
    return int((m.options or {})["experts"])


def chosen(m: Model) -> int:
    """How many of them each token goes through."""
    return int((m.options or {})["chosen"])


def shapes(m: Model) -> dict[str, tuple[int, ...]]:
    """Llama's parameters, with a router and experts in the place of each layer's MLP."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in llama.shapes(_without_options(m)).items():
        layer, _, part = name.partition(".mlp.")
        if not part:
            found[name] = shape
        elif part == "gate_proj.weight":
            found[f"{layer}.{BLOCK}.gate.weight"] = (experts(m), m.hidden_size)
            for i in range(experts(m)):
                expert = f"{layer}.{BLOCK}.experts.{i}"
                found[f"{expert}.w1.weight"] = (m.intermediate_size, m.hidden_size)
                found[f"{expert}.w2.weight"] = (m.hidden_size, m.intermediate_size)
                found[f"{expert}.w3.weight"] = (m.intermediate_size, m.hidden_size)
    return found


def flops_per_token(m: Model, sequence_length: int) -> float:
    """As of a dense transformer with the experts that a token goes through, and their routers.

    An implementation that computes every expert for each token, as torchprime's `static` and the
    reference do, executes more: these are the model's.
    """
    dense = dense_flops_per_token(
        layers=m.layers,
        hidden_size=m.hidden_size,
        intermediate_size=chosen(m) * m.intermediate_size,
        heads=m.heads,
        kv_heads=m.kv_heads,
        head_dim=m.hidden_size // m.heads,
        vocab_size=m.vocab_size,
        sequence_length=sequence_length,
    )
    return dense + 6.0 * m.layers * m.hidden_size * experts(m)


def router(m: Model) -> Router:
    """One in each layer."""
    names = tuple(f"model.layers.{i}.{BLOCK}.gate" for i in range(m.layers))
    return Router(names, experts(m), chosen(m))


def hf_config(m: Model) -> dict[str, Any]:
    """The model's keys of config.json, as transformers' MixtralConfig reads them."""
    return {
        **llama.hf_config(_without_options(m)),
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": experts(m),
        "num_experts_per_tok": chosen(m),
        "output_router_logits": False,
        "router_jitter_noise": 0.0,
        "sliding_window": None,
    }


def torchprime_overrides(m: Model) -> dict[str, Any]:
    """torchprime's Hydra overrides. Raises CannotTrain for what its Mixtral cannot be.

    Of its implementations `static` is transformers' mathematics: `dropping` has a capacity, leaves
    the chosen experts' weights as they are, and adds to the loss; `gmm` is of another kernel.
    """
    if m.tie_embeddings:
        raise CannotTrain("case.model.tie_embeddings: torchprime's Mixtral has an untied head")
    return {
        **llama.torchprime_overrides(_without_options(m)),
        "model": "mixtral-8x7b",
        "model.num_local_experts": experts(m),
        "model.num_experts_per_tok": chosen(m),
        "model.moe_implementation": "static",
    }


def reference(model: dict[str, Any]) -> Any:
    """Llama's module with a router and experts in each layer; no shape depends on what it chooses.

    Every expert is computed for every token, and counts by the weight that the router gives it: 0
    where it was not chosen.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    size, inner, options = model["hidden_size"], model["intermediate_size"], model["options"]

    class Expert(nn.Module):
        """SwiGLU feed-forward (Shazeer 2020)."""

        def __init__(self) -> None:
            super().__init__()
            self.w1 = nn.Linear(size, inner, bias=False)
            self.w2 = nn.Linear(inner, size, bias=False)
            self.w3 = nn.Linear(size, inner, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.w2(F.silu(self.w1(x)) * self.w3(x))

    class Experts(nn.Module):
        """The experts of a layer, and its router, whose softmax is in fp32 or better."""

        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(size, options["experts"], bias=False)
            self.experts = nn.ModuleList(Expert() for _ in range(options["experts"]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """`x` is [batch, length, hidden]."""
            tokens = x.flatten(0, 1)
            logits = self.gate(tokens)
            wide = logits if logits.dtype == torch.float64 else logits.float()
            weights, taken = torch.topk(wide.softmax(-1), options["chosen"], dim=-1)
            weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
            mixed = torch.zeros_like(tokens)
            for index, expert in enumerate(self.experts):
                weight = weights.masked_fill(taken != index, 0.0).sum(-1, keepdim=True)
                mixed = mixed + expert(tokens) * weight
            return mixed.view_as(x)

    return llama.reference({**model, "options": None}, (BLOCK, Experts))


NOT_BY_XLA = (
    "the Trainer's FSDPv2 does not know what transformers' Mixtral returns, and stops; each of its "
    "experts is given the tokens that chose it, so that shapes depend on values and torch_xla "
    "compiles anew in each step (docs/findings/mixtral.md)"
)

FAMILY = Family(
    name="mixtral",
    check=check,
    shapes=shapes,
    draw=llama.draw,
    config=hf_config,
    flops_per_token=flops_per_token,
    engines={
        "hf": InEngine("MixtralDecoderLayer", not_by_xla=NOT_BY_XLA),
        "torchprime": InEngine(
            "MixtralDecoderLayer", torchprime_overrides, output="model.layers.*[0]"
        ),
    },
    reference=reference,
    router=router,
)
