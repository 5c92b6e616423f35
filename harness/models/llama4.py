"""Llama 4 text: a Llama with experts, some layers of which have no rotary embeddings.

`case.model.options` has

    experts            how many there are in a layer that has any
    chosen             through how many of them each token goes, beside the expert that all share
    experts_every      of so many layers the last has experts: 1 in Scout, 2 in Maverick
    dense_size         size of the feed-forward blocks of the others
    nope_every         of so many layers the last has no rotary embeddings (4 in both)
    qk_norm            queries and keys are normalised where they are rotated: true in Scout
    attention_chunk    in layers that rotate, a token attends to those of its own chunk of a row
    temperature_scale  how much sharper the attention of layers that do not rotate becomes
    temperature_floor  after each so many tokens of a row
    rope_scaling       as of a Llama 3.1; left out for none

transformers and torchprime keep its parameters under the same names and in the same shapes: the
experts of a layer are two stacks, each laid out as inputs × outputs.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from harness.base.errors import BadInput, CannotTrain
from harness.models import llama
from harness.models.family import Family, InEngine, Model, dense_flops_per_token
from harness.models.router import Router

if TYPE_CHECKING:
    import torch

COUNTS = (
    "experts", "chosen", "experts_every", "dense_size", "nope_every", "attention_chunk",
    "temperature_floor",
)  # fmt: skip
OPTIONS = (*COUNTS, "qk_norm", "temperature_scale")

BLOCK = "feed_forward"
"""Name of a layer's feed-forward block, and of its router and experts."""


def check(m: Model) -> None:
    """Raise BadInput for a shape that no Llama 4 has."""
    found = m.options or {}
    if set(found) - {"rope_scaling"} != set(OPTIONS):
        raise BadInput(
            f"case.model.options={found}: a Llama 4 has exactly {', '.join(OPTIONS)}, and "
            "rope_scaling where it has any"
        )
    for name in COUNTS:
        if not isinstance(found[name], int) or isinstance(found[name], bool) or found[name] < 1:
            raise BadInput(
                f"case.model.options.{name}={found[name]}: it has to be a number above 0"
            )
    if not isinstance(found["qk_norm"], bool):
        raise BadInput(f"case.model.options.qk_norm={found['qk_norm']}: it is true or false")
    scale = found["temperature_scale"]
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 <= scale < math.inf:
        raise BadInput(
            f"case.model.options.temperature_scale={scale}: it has to be finite, and not negative"
        )
    if found["chosen"] >= found["experts"]:
        raise BadInput(
            f"case.model.options.chosen={found['chosen']}: of {found['experts']} experts (experts) "
            "a token goes to some, and not to all"
        )
    if m.tie_embeddings:
        raise BadInput("case.model.tie_embeddings: a Llama 4 has a head of its own")
    llama.check(_as_llama(m), sharp=True)


def _as_llama(m: Model) -> Model:
    scaling = (m.options or {}).get("rope_scaling")
    return dataclasses.replace(m, options=None if scaling is None else {"rope_scaling": scaling})


def _with_experts(layers: int, options: dict[str, Any]) -> list[int]:
    return [i for i in range(layers) if (i + 1) % options["experts_every"] == 0]


def _rotates(layer: int, options: dict[str, Any]) -> bool:
    return (layer + 1) % int(options["nope_every"]) != 0


def shapes(m: Model) -> dict[str, tuple[int, ...]]:
    """Llama's parameters, with another feed-forward block in each layer."""
    options, size, inner = m.options or {}, m.hidden_size, m.intermediate_size
    mixed = _with_experts(m.layers, options)
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in llama.shapes(_as_llama(m)).items():
        layer, _, part = name.partition(".mlp.")
        if not part:
            found[name] = shape
        elif part == "gate_proj.weight":
            block = f"{layer}.{BLOCK}"
            if int(layer.split(".")[-1]) in mixed:
                found[f"{block}.experts.gate_up_proj"] = (options["experts"], size, 2 * inner)
                found[f"{block}.experts.down_proj"] = (options["experts"], inner, size)
                found[f"{block}.router.weight"] = (options["experts"], size)
                found |= llama.dense_shapes(f"{block}.shared_expert", size, inner)
            else:
                found |= llama.dense_shapes(block, size, options["dense_size"])
    return found


def flops_per_token(m: Model, sequence_length: int) -> float:
    """As of a dense transformer with the experts that a token goes through, and their routers.

    An implementation that computes every expert for each token, as all three here do, executes
    more: these are the model's. Attention counts whole rows, also where it is cut into chunks.
    """
    options = m.options or {}
    dense = dense_flops_per_token(
        layers=m.layers,
        hidden_size=m.hidden_size,
        intermediate_size=0,
        heads=m.heads,
        kv_heads=m.kv_heads,
        head_dim=m.hidden_size // m.heads,
        vocab_size=m.vocab_size,
        sequence_length=sequence_length,
    )
    mixed = len(_with_experts(m.layers, options))
    through = 3 * (options["chosen"] + 1) * m.intermediate_size + options["experts"]
    rows = mixed * through + (m.layers - mixed) * 3 * options["dense_size"]
    return dense + 6.0 * m.hidden_size * rows


def router(m: Model) -> Router:
    """One in each layer that has experts."""
    options = m.options or {}
    mixed = _with_experts(m.layers, options)
    names = tuple(f"model.layers.{i}.{BLOCK}.router" for i in mixed)
    return Router(names, options["experts"], options["chosen"])


def hf_config(m: Model) -> dict[str, Any]:
    """The model's keys of config.json, as transformers' Llama4TextConfig reads them."""
    options = m.options or {}
    return {
        **llama.hf_config(_as_llama(m)),
        "architectures": ["Llama4ForCausalLM"],
        "model_type": "llama4_text",
        "head_dim": m.hidden_size // m.heads,
        "intermediate_size_mlp": options["dense_size"],
        "num_local_experts": options["experts"],
        "num_experts_per_tok": options["chosen"],
        "interleave_moe_layer_step": options["experts_every"],
        "no_rope_layers": [int(_rotates(i, options)) for i in range(m.layers)],
        "use_qk_norm": options["qk_norm"],
        "attention_chunk_size": options["attention_chunk"],
        "attn_temperature_tuning": options["temperature_scale"] > 0,
        "attn_scale": float(options["temperature_scale"]),
        "floor_scale": options["temperature_floor"],
        "output_router_logits": False,
        "router_jitter_noise": 0.0,
    }


def torchprime_overrides(m: Model) -> dict[str, Any]:
    """torchprime's Hydra overrides.

    Of its implementations `sequential` computes one expert after the other, as the reference does;
    `original` and `expert_parallelism` are the same mathematics
    (engine.torchprime.arguments.model.moe_implementation).
    """
    options, scaling = m.options or {}, llama.rope_scaling(m)
    overrides = llama.torchprime_overrides(dataclasses.replace(m, options=None))
    if scaling is None:
        overrides["model.rope_scaling"] = None
    else:
        factors = {f"model.rope_scaling.{name}": scaling[name] for name in llama.ROPE_SCALING[:-1]}
        positions = {"+model.rope_scaling.original_context_len": scaling["original_positions"]}
        overrides |= {**factors, **positions}
    return {
        **overrides,
        "model": "llama-4-text-only-scout-17b-16e",
        "model.head_dim": m.hidden_size // m.heads,
        "model.intermediate_size_mlp": options["dense_size"],
        "model.num_local_experts": options["experts"],
        "model.num_experts_per_tok": options["chosen"],
        "model.moe_layers": _with_experts(m.layers, options),
        "model.no_rope_layers": [int(_rotates(i, options)) for i in range(m.layers)],
        "model.use_qk_norm": options["qk_norm"],
        "model.attention_chunk_size": options["attention_chunk"],
        "model.attn_temperature_tuning": options["temperature_scale"] > 0,
        "model.attn_scale": float(options["temperature_scale"]),
        "model.floor_scale": options["temperature_floor"],
        "model.moe_implementation": "sequential",
    }


def torchprime_rows(m: Model, sequence_length: int) -> None:
    """Raise CannotTrain for rows of several chunks: torchprime's layers read their size, and attend
    to all that comes before."""
    chunk = (m.options or {})["attention_chunk"]
    if sequence_length > chunk:
        raise CannotTrain(
            f"case.model.options.attention_chunk={chunk}: torchprime's Llama 4 does not cut its "
            f"attention into chunks, and rows have {sequence_length} tokens "
            "(case.data.sequence_length; docs/findings/llama4.md); compare with "
            "engines=[hf,reference]"
        )


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of [batch, heads, sequence, size], of neighbours.

    `cos` and `sin` are [sequence, size], or one for each row; their second half repeats the first.
    """
    import torch

    cos, sin = (each[..., : x.shape[-1] // 2] for each in (cos, sin))
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def reference(model: dict[str, Any]) -> Any:
    """Llama's module with Llama 4's attention and feed-forward blocks.

    Every expert is computed for every token, whose input counts by the score that the router gives
    it: 0 where it was not chosen. Chunks and temperatures count from the beginning of a row, as in
    transformers, also where positions begin anew in each document.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    size, inner, options = model["hidden_size"], model["intermediate_size"], model["options"]
    heads, kv_heads = model["heads"], model["kv_heads"]
    head_dim = size // heads

    class Attention(nn.Module):
        """Causal self-attention with grouped key and value heads; softmax in fp32 or better."""

        def __init__(self, rotates: bool) -> None:
            super().__init__()
            self.rotates, self.eps = rotates, model["rms_norm_eps"]
            self.q_proj = nn.Linear(size, heads * head_dim, bias=False)
            self.k_proj = nn.Linear(size, kv_heads * head_dim, bias=False)
            self.v_proj = nn.Linear(size, kv_heads * head_dim, bias=False)
            self.o_proj = nn.Linear(heads * head_dim, size, bias=False)

        def forward(
            self,
            x: torch.Tensor,
            cos: torch.Tensor,
            sin: torch.Tensor,
            apart: torch.Tensor | None = None,
        ) -> torch.Tensor:
            """`apart` is [batch, 1, length, length]: what does not attend to what, in any order."""
            batch, length, _ = x.shape
            q, k, v = (
                projection(x).view(batch, length, -1, head_dim).transpose(1, 2)
                for projection in (self.q_proj, self.k_proj, self.v_proj)
            )
            place = torch.arange(length, device=x.device)
            if self.rotates:
                q, k = self.normalised(rotated(q, cos, sin)), self.normalised(rotated(k, cos, sin))
                chunk = place // options["attention_chunk"]
                others = chunk[:, None] != chunk
                apart = others if apart is None else apart | others
            else:
                q = q * temperature(place, q.dtype)[:, None]
            k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
            scores = q @ k.transpose(2, 3) * head_dim**-0.5
            mixed = llama.causal_weights(scores, apart).to(v.dtype) @ v
            return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))

        def normalised(self, x: torch.Tensor) -> torch.Tensor:
            """Root mean square norm of each head, without weights, computed in fp32 or better."""
            if not options["qk_norm"]:
                return x
            wide = x if x.dtype == torch.float64 else x.float()
            return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)

    def temperature(place: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What the query at each place is multiplied by (Nakanishi 2025, arXiv:2501.19399)."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        turns = torch.floor((place.to(wide) + 1) / options["temperature_floor"])
        return (torch.log1p(turns) * options["temperature_scale"] + 1).to(dtype)

    class Stacked(nn.Module):
        """The experts of a layer, one upon the other."""

        def __init__(self) -> None:
            super().__init__()
            self.gate_up_proj = nn.Parameter(torch.empty(options["experts"], size, 2 * inner))
            self.down_proj = nn.Parameter(torch.empty(options["experts"], inner, size))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """`x` is [experts, tokens, hidden], and so is what comes of it."""
            gate, up = torch.bmm(x, self.gate_up_proj).chunk(2, -1)
            return torch.bmm(F.silu(gate) * up, self.down_proj)

    class Experts(nn.Module):
        """Experts, their router, whose sigmoid is in fp32 or better, and the expert of all."""

        def __init__(self) -> None:
            super().__init__()
            self.experts = Stacked()
            self.router = nn.Linear(size, options["experts"], bias=False)
            self.shared_expert = llama.feed_forward(size, inner)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """`x` is [batch, length, hidden]."""
            tokens = x.flatten(0, 1)
            best, taken = torch.topk(self.router(tokens), options["chosen"], dim=-1)
            wide = best if best.dtype == torch.float64 else best.float()
            weights, each = wide.sigmoid().to(x.dtype), range(options["experts"])
            mine = [weights.masked_fill(taken != i, 0.0).sum(-1, keepdim=True) for i in each]
            mixed = self.experts(torch.stack([tokens * weight for weight in mine])).sum(0)
            return (self.shared_expert(tokens) + mixed).view_as(x)

    as_llama = {"rope_scaling": options["rope_scaling"]} if "rope_scaling" in options else None
    module = llama.reference({**model, "options": as_llama}, (BLOCK, nn.Identity))
    mixed = _with_experts(model["layers"], options)
    for i, layer in enumerate(module.model.layers):
        layer.self_attn = Attention(_rotates(i, options))
        dense = llama.feed_forward(size, options["dense_size"])
        layer.feed_forward = Experts() if i in mixed else dense
    return module


FAMILY = Family(
    name="llama4",
    check=check,
    shapes=shapes,
    draw=llama.draw,
    config=hf_config,
    flops_per_token=flops_per_token,
    engines={
        "hf": InEngine("Llama4TextDecoderLayer"),
        "torchprime": InEngine(
            "Llama4TextDecoderLayer", torchprime_overrides, rows=torchprime_rows
        ),
    },
    reference=reference,
    router=router,
)
