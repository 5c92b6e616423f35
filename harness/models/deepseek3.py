"""DeepSeek v3: attention of low rank, and many small experts that are chosen in groups.

`case.model.options` has

    dense_layers   so many layers at the beginning have no experts
    experts        how many there are in a layer that has any
    chosen         through how many of them each token goes, beside those that all share
    groups         into how many groups the experts are cut, in their order
    chosen_groups  of how many of these the experts of a token are
    expert_size    size of an expert's feed-forward block
    shared         how many experts' sizes the one has that all tokens share
    weight_scale   what the chosen experts' weights, which sum to one, are multiplied by
    q_rank         rank of the queries' projection
    kv_rank        rank that keys and values are projected from
    nope_dim       size of the part of each head of queries and keys that is not rotated
    rope_dim       size of the part that is; of the keys all heads share it
    value_dim      size of each head of values
    rope_scaling   YaRN's; left out for none

Scores get a constant bias before experts are chosen, and not in their weights: DeepSeek moves it
between steps so that experts are used evenly, which no trainer here does. It is drawn around 0.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from harness.base.errors import BadInput, CannotTrain
from harness.models import llama
from harness.models.family import Family, InEngine, Model
from harness.models.llama4 import rotated
from harness.models.router import Router

if TYPE_CHECKING:
    import numpy as np
    import torch

COUNTS = (
    "experts", "chosen", "groups", "chosen_groups", "expert_size", "shared", "q_rank", "kv_rank",
    "nope_dim", "rope_dim", "value_dim",
)  # fmt: skip
OPTIONS = ("dense_layers", *COUNTS, "weight_scale")
ROPE_SCALING = ("factor", "beta_fast", "beta_slow", "mscale", "original_positions")
"""Keys of `options.rope_scaling`, as YaRN (Peng et al. 2023, arXiv:2309.00071) calls them.

A wavelength that turns more than `beta_fast` times within the original positions stays, one that
turns less than `beta_slow` times is `factor` times as long, and those between are interpolated. The
attention's scores are multiplied by (0.1 · mscale · ln factor + 1)². DeepSeek v3 has 40, 32, 1, 1
and 4096 (its config.json, `rope_scaling`, where `mscale_all_dim` is `mscale`).
"""

LOW_RANK_EPS = 1e-6
"""Epsilon of the norms within attention, whatever `rms_norm_eps` is: DeepSeek's and transformers'
modules leave them at their default."""

BIAS = "e_score_correction_bias"
"""Name of what is added to scores, in a router."""


def check(m: Model) -> None:
    """Raise BadInput for a shape that no DeepSeek v3 has."""
    found, key = m.options or {}, "case.model.options"
    if set(found) - {"rope_scaling"} != set(OPTIONS):
        raise BadInput(
            f"{key}={found}: a DeepSeek v3 has exactly {', '.join(OPTIONS)}, and rope_scaling "
            "where it has any"
        )
    for name in ("dense_layers", *COUNTS):
        value, least = found[name], int(name != "dense_layers")
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise BadInput(f"{key}.{name}={value}: it has to be a number of at least {least}")
    if not _positive(found["weight_scale"]):
        raise BadInput(
            f"{key}.weight_scale={found['weight_scale']}: it has to be positive and finite"
        )
    _check_experts(found, key)
    if found["dense_layers"] >= m.layers:
        raise BadInput(
            f"{key}.dense_layers={found['dense_layers']}: of case.model.layers={m.layers} none is "
            "left to have experts"
        )
    if found["rope_dim"] % 2:
        raise BadInput(f"{key}.rope_dim={found['rope_dim']}: rotary embeddings need an even size")
    if m.kv_heads != m.heads:
        raise BadInput(
            f"case.model.kv_heads={m.kv_heads}: a DeepSeek v3 has as many as heads ({m.heads})"
        )
    if m.tie_embeddings:
        raise BadInput("case.model.tie_embeddings: a DeepSeek v3 has a head of its own")
    if (scaling := found.get("rope_scaling")) is not None:
        _check_rope_scaling(scaling, f"{key}.rope_scaling")
    llama.check(dataclasses.replace(m, options=None))


def _check_experts(found: dict[str, Any], key: str) -> None:
    size, rest = divmod(found["experts"], found["groups"])
    if rest or size < 2:
        raise BadInput(
            f"{key}.groups={found['groups']}: it has to divide experts={found['experts']} into "
            "groups of two at least, by which a group is scored"
        )
    if found["chosen_groups"] > found["groups"]:
        raise BadInput(
            f"{key}.chosen_groups={found['chosen_groups']}: there are {found['groups']} (groups)"
        )
    most = min(found["chosen_groups"] * size, found["experts"] - 1)
    if found["chosen"] > most:
        raise BadInput(
            f"{key}.chosen={found['chosen']}: of {found['experts']} experts in "
            f"{found['chosen_groups']} of {found['groups']} groups a token goes to {most} at most"
        )


def _check_rope_scaling(scaling: Any, key: str) -> None:
    if not isinstance(scaling, dict) or set(scaling) != set(ROPE_SCALING):
        raise BadInput(f"{key}={scaling}: it has exactly {', '.join(ROPE_SCALING)}")
    for name, value in scaling.items():
        if not _positive(value):
            raise BadInput(f"{key}.{name}={value}: it has to be positive and finite")
    if scaling["factor"] <= 1 or scaling["beta_fast"] <= scaling["beta_slow"]:
        raise BadInput(f"{key}={scaling}: factor has to be above 1, and beta_fast above beta_slow")


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def shapes(m: Model) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, in the model's order."""
    o, size = m.options or {}, m.hidden_size
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (m.vocab_size, size)}
    for i in range(m.layers):
        layer = f"model.layers.{i}"
        attention, block = f"{layer}.self_attn", f"{layer}.mlp"
        found |= {
            f"{attention}.q_a_proj.weight": (o["q_rank"], size),
            f"{attention}.q_a_layernorm.weight": (o["q_rank"],),
            f"{attention}.q_b_proj.weight": (
                m.heads * (o["nope_dim"] + o["rope_dim"]),
                o["q_rank"],
            ),
            f"{attention}.kv_a_proj_with_mqa.weight": (o["kv_rank"] + o["rope_dim"], size),
            f"{attention}.kv_a_layernorm.weight": (o["kv_rank"],),
            f"{attention}.kv_b_proj.weight": (
                m.heads * (o["nope_dim"] + o["value_dim"]),
                o["kv_rank"],
            ),
            f"{attention}.o_proj.weight": (size, m.heads * o["value_dim"]),
        }
        if i < o["dense_layers"]:
            found |= llama.dense_shapes(block, size, m.intermediate_size)
        else:
            for expert in range(o["experts"]):
                found |= llama.dense_shapes(f"{block}.experts.{expert}", size, o["expert_size"])
            found[f"{block}.gate.weight"] = (o["experts"], size)
            inner = o["shared"] * o["expert_size"]
            found |= llama.dense_shapes(f"{block}.shared_experts", size, inner)
        found[f"{layer}.input_layernorm.weight"] = (size,)
        found[f"{layer}.post_attention_layernorm.weight"] = (size,)
    return {**found, "model.norm.weight": (size,), "lm_head.weight": (m.vocab_size, size)}


def constants(m: Model) -> dict[str, tuple[int, ...]]:
    """The biases of scores."""
    o = m.options or {}
    layers = range(o["dense_layers"], m.layers)
    return {f"model.layers.{i}.mlp.gate.{BIAS}": (o["experts"],) for i in layers}


def draw(m: Model, name: str, normal: np.ndarray) -> np.ndarray:
    """As a Llama's; biases around 0."""
    return m.init_std * normal if name.endswith(BIAS) else llama.draw(m, name, normal)


def flops_per_token(m: Model, sequence_length: int) -> float:
    """As `dense_flops_per_token` counts, with the experts that a token goes through.

    An implementation that computes every expert for each token, as the reference does, executes
    more: these are the model's.
    """
    o, size = m.options or {}, m.hidden_size
    head = o["nope_dim"] + o["rope_dim"]
    attention = (
        size * (o["q_rank"] + o["kv_rank"] + o["rope_dim"])
        + o["q_rank"] * m.heads * head
        + o["kv_rank"] * m.heads * (o["nope_dim"] + o["value_dim"])
        + m.heads * o["value_dim"] * size
    )
    mixed = m.layers - o["dense_layers"]
    through = 3 * (o["chosen"] + o["shared"]) * o["expert_size"] + o["experts"]
    blocks = size * (mixed * through + o["dense_layers"] * 3 * m.intermediate_size)
    weights = m.layers * attention + blocks + size * m.vocab_size
    scores = 6 * m.layers * m.heads * (head + o["value_dim"]) * sequence_length
    return float(6 * weights + scores)


def router(m: Model) -> Router:
    """One in each layer that has experts."""
    o = m.options or {}
    names = tuple(f"model.layers.{i}.mlp.gate" for i in range(o["dense_layers"], m.layers))
    return Router(names, o["experts"], o["chosen"])


def hf_config(m: Model) -> dict[str, Any]:
    """The model's keys of config.json, as transformers' DeepseekV3Config reads them."""
    o = m.options or {}
    scaling = o.get("rope_scaling")
    yarn = {} if scaling is None else {"rope_scaling": _hf_rope_scaling(scaling)}
    return {
        **llama.hf_config(dataclasses.replace(m, options=None)),
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "moe_intermediate_size": o["expert_size"],
        "n_shared_experts": o["shared"],
        "n_routed_experts": o["experts"],
        "routed_scaling_factor": float(o["weight_scale"]),
        "kv_lora_rank": o["kv_rank"],
        "q_lora_rank": o["q_rank"],
        "qk_rope_head_dim": o["rope_dim"],
        "v_head_dim": o["value_dim"],
        "qk_nope_head_dim": o["nope_dim"],
        "n_group": o["groups"],
        "topk_group": o["chosen_groups"],
        "num_experts_per_tok": o["chosen"],
        "first_k_dense_replace": o["dense_layers"],
        "norm_topk_prob": True,
        "rope_interleave": True,
        **yarn,
    }


def _hf_rope_scaling(scaling: dict[str, Any]) -> dict[str, Any]:
    """As DeepseekV3Config names it. Equal `mscale`s leave the rotation itself as it is."""
    return {
        "rope_type": "yarn",
        **{name: float(scaling[name]) for name in ROPE_SCALING[:-1]},
        "mscale_all_dim": float(scaling["mscale"]),
        "original_max_position_embeddings": scaling["original_positions"],
    }


def torchprime_overrides(m: Model) -> dict[str, Any]:
    """Raises CannotTrain: torchprime's is another model, in several ways."""
    raise CannotTrain(
        "case.model.family=deepseek3: torchprime's is another model: its attention divides by the "
        "root of a value's size and leaves YaRN's factor out, its positions, router and loss are "
        "in bfloat16, and its experts drop tokens (docs/findings/deepseek.md); compare with "
        "engines=[hf,reference]"
    )


def reference(model: dict[str, Any]) -> Any:
    """Llama's module with attention of low rank, and experts; no shape depends on what is chosen.

    Every expert is computed for every token, and counts by the weight that the router gives it: 0
    where it was not chosen.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    size, heads, o = model["hidden_size"], model["heads"], model["options"]
    scaling = o.get("rope_scaling")
    module = llama.reference({**model, "options": None}, ("mlp", nn.Identity))
    Norm: Any = type(module.model.norm)

    def wide(x: torch.Tensor) -> torch.Tensor:
        return x if x.dtype == torch.float64 else x.float()

    class Attention(nn.Module):
        """Causal self-attention of low rank (DeepSeek 2024, arXiv:2405.04434, section 2.1)."""

        def __init__(self) -> None:
            super().__init__()
            self.parts = (o["nope_dim"], o["rope_dim"])
            self.scale = sum(self.parts) ** -0.5
            if scaling is not None:
                self.scale *= (0.1 * scaling["mscale"] * math.log(scaling["factor"]) + 1) ** 2
            self.q_a_proj = nn.Linear(size, o["q_rank"], bias=False)
            self.q_a_layernorm = Norm(o["q_rank"], LOW_RANK_EPS)
            self.q_b_proj = nn.Linear(o["q_rank"], heads * sum(self.parts), bias=False)
            self.kv_a_proj_with_mqa = nn.Linear(size, o["kv_rank"] + o["rope_dim"], bias=False)
            self.kv_a_layernorm = Norm(o["kv_rank"], LOW_RANK_EPS)
            both = heads * (o["nope_dim"] + o["value_dim"])
            self.kv_b_proj = nn.Linear(o["kv_rank"], both, bias=False)
            self.o_proj = nn.Linear(heads * o["value_dim"], size, bias=False)

        def forward(
            self,
            x: torch.Tensor,
            cos: torch.Tensor,
            sin: torch.Tensor,
            apart: torch.Tensor | None = None,
        ) -> torch.Tensor:
            """`apart` is [batch, 1, length, length]: what does not attend to what, in any order."""
            batch, length, _ = x.shape

            def by_head(projected: torch.Tensor) -> torch.Tensor:
                return projected.view(batch, length, heads, -1).transpose(1, 2)

            q = by_head(self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))))
            low, shared = self.kv_a_proj_with_mqa(x).split((o["kv_rank"], o["rope_dim"]), -1)
            kv = by_head(self.kv_b_proj(self.kv_a_layernorm(low)))
            k, v = kv.split((o["nope_dim"], o["value_dim"]), -1)
            left, right = q.split(self.parts, -1)
            of_all = rotated(shared[:, None], cos, sin).expand(batch, heads, length, -1)
            q, k = torch.cat((left, rotated(right, cos, sin)), -1), torch.cat((k, of_all), -1)
            scores = q @ k.transpose(2, 3) * self.scale
            mixed = llama.causal_weights(scores, apart).to(v.dtype) @ v
            return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))

    class TopK(nn.Module):
        """The router (DeepSeek 2024, arXiv:2412.19437, section 2.1.2), in fp32 or better."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(o["experts"], size))
            self.register_buffer(BIAS, torch.zeros(o["experts"]))

        def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """Which experts each of the tokens goes through, and their weights."""
            scores = F.linear(wide(tokens), wide(self.weight)).sigmoid()
            with torch.no_grad():
                taken = torch.topk(self.eligible(scores), o["chosen"], dim=-1)[1]
            weights = scores.gather(1, taken)
            return taken, weights / weights.sum(-1, keepdim=True) * o["weight_scale"]

        def eligible(self, scores: torch.Tensor) -> torch.Tensor:
            """Biased scores, of the groups whose two best have the highest sum; 0 for all others.

            In DeepSeek's own code it is -inf: a 0 is chosen in the place of a negative one.
            """
            biased = scores + self.get_buffer(BIAS)
            grouped = biased.unflatten(-1, (o["groups"], -1))
            of_groups = grouped.topk(2, dim=-1)[0].sum(-1)
            best = of_groups.topk(o["chosen_groups"], dim=-1)[1]
            others = torch.ones_like(of_groups, dtype=torch.bool).scatter(1, best, False)
            return grouped.masked_fill(others[..., None], 0.0).flatten(-2)

    class Experts(nn.Module):
        """The experts of a layer, their router, and those that all tokens share."""

        def __init__(self) -> None:
            super().__init__()
            every = (llama.feed_forward(size, o["expert_size"]) for _ in range(o["experts"]))
            self.experts = nn.ModuleList(every)
            self.gate = TopK()
            self.shared_experts = llama.feed_forward(size, o["shared"] * o["expert_size"])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """`x` is [batch, length, hidden]."""
            tokens = x.flatten(0, 1)
            taken, weights = self.gate(tokens)
            mixed = torch.zeros_like(wide(tokens))
            for index, expert in enumerate(self.experts):
                weight = weights.masked_fill(taken != index, 0.0).sum(-1, keepdim=True)
                mixed = mixed + expert(tokens) * weight
            return mixed.to(x.dtype).view_as(x) + self.shared_experts(x)

    decoder = module.model
    decoder.head_dim, decoder.scaling = o["rope_dim"], scaling
    decoder.frequencies = lambda dtype, device: frequencies(decoder, dtype, device)
    for i, layer in enumerate(decoder.layers):
        layer.self_attn = Attention()
        dense = llama.feed_forward(size, model["intermediate_size"])
        layer.mlp = dense if i < o["dense_layers"] else Experts()
    return module


def frequencies(decoder: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Of the rotary embeddings of `decoder`, radians by position: see ROPE_SCALING."""
    import torch

    size, theta, scaling = decoder.head_dim, decoder.theta, decoder.scaling
    number = torch.arange(size // 2, device=device).to(dtype)
    plain = 1.0 / theta ** (2 * number / size)
    if scaling is None:
        return plain

    def place(turns: float) -> float:
        """Which of the frequencies turns so often within the original positions."""
        wavelength = scaling["original_positions"] / (turns * 2 * math.pi)
        return size * math.log(wavelength) / (2 * math.log(theta))

    low = max(math.floor(place(scaling["beta_fast"])), 0)
    high = min(math.ceil(place(scaling["beta_slow"])), size - 1)
    stretched = ((number - low) / (high - low if high > low else 0.001)).clamp(0, 1)
    return plain / scaling["factor"] * stretched + plain * (1 - stretched)


NOT_BY_XLA = (
    "each of transformers' experts is given the tokens that chose it, so that shapes depend on "
    "values, and torch_xla compiles anew in each step (docs/findings/deepseek.md)"
)

FAMILY = Family(
    name="deepseek3",
    check=check,
    shapes=shapes,
    draw=draw,
    config=hf_config,
    flops_per_token=flops_per_token,
    engines={
        "hf": InEngine("DeepseekV3DecoderLayer", not_by_xla=NOT_BY_XLA),
        "torchprime": InEngine("DeepseekV3DecoderLayer", torchprime_overrides),
    },
    reference=reference,
    router=router,
    constants=constants,
)
