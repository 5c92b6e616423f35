"""Llama 3.0 and 3.1: everything that the harness knows of the family, in one file.

`case.model.options.rope_scaling` makes a 3.1 of a 3.0, and `attention_dropout` drops a share of the
attention. Also the reference trainer imports this file, in an interpreter without pydantic or
Hydra.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.base.errors import BadInput, CannotTrain
from harness.models.family import Family, InEngine, Model, dense_flops_per_token

if TYPE_CHECKING:
    import numpy as np
    import torch


ROPE_SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_positions")
"""Keys of `options.rope_scaling`: how Llama 3.1 stretches the wavelengths of its rotary embeddings.

A wavelength longer than original_positions / low_freq_factor is `factor` times as long, one shorter
than original_positions / high_freq_factor stays as it is, and those between are interpolated. Llama
3.1 has 8, 1, 4 and 8192 (its config.json, `rope_scaling`).
"""


def rope_scaling(m: Model) -> dict[str, Any] | None:
    """The model's `options.rope_scaling`; None for Llama 3.0, which has none."""
    return (m.options or {}).get("rope_scaling")


def attention_dropout(m: Model) -> float:
    """The share of attention weights that `options.attention_dropout` drops in training."""
    return float((m.options or {}).get("attention_dropout", 0.0))


def drops(m: Model) -> dict[str, float]:
    """The share that each part drops in training."""
    share = attention_dropout(m)
    return {"model.layers.*.self_attn.attention_dropout": share} if share else {}


def check(m: Model, sharp: bool = False) -> None:
    """Raise BadInput for a shape that no Llama has.

    sharp: its rope_scaling may have no wavelengths between those that are stretched and those that
           are not, as Llama 4's
    """
    if m.hidden_size % m.heads or (m.hidden_size // m.heads) % 2:
        raise BadInput(
            f"case.model.heads={m.heads} does not divide hidden_size={m.hidden_size} into "
            "heads of even size, which rotary embeddings need"
        )
    if m.heads % m.kv_heads:
        raise BadInput(
            f"case.model.kv_heads={m.kv_heads} does not divide case.model.heads={m.heads}"
        )
    unknown = sorted(set(m.options or {}) - {"rope_scaling", "attention_dropout"})
    if unknown:
        raise BadInput(
            f"case.model.options.{unknown[0]}: a Llama has only rope_scaling and "
            "attention_dropout; drop the key"
        )
    dropped = (m.options or {}).get("attention_dropout", 0.0)
    if not isinstance(dropped, int | float) or not 0 <= dropped < 1:
        raise BadInput(
            f"case.model.options.attention_dropout={dropped}: it has to be at least 0 and below 1"
        )
    if (scaling := rope_scaling(m)) is not None:
        _check_rope_scaling(scaling, sharp)


def _check_rope_scaling(scaling: Any, sharp: bool) -> None:
    key = "case.model.options.rope_scaling"
    if not isinstance(scaling, dict) or set(scaling) != set(ROPE_SCALING):
        raise BadInput(f"{key}={scaling}: it has exactly {', '.join(ROPE_SCALING)}")
    for name, value in scaling.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise BadInput(f"{key}.{name}={value}: it has to be positive and finite")
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    if high < low or (high == low and not sharp):
        raise BadInput(
            f"{key}.high_freq_factor={high}: it has to be above low_freq_factor={low}, between "
            "which it interpolates"
        )


def shapes(m: Model) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, in the model's order."""
    head_dim = m.hidden_size // m.heads
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (m.vocab_size, m.hidden_size)
    }
    for i in range(m.layers):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (m.heads * head_dim, m.hidden_size),
            f"{layer}.self_attn.k_proj.weight": (m.kv_heads * head_dim, m.hidden_size),
            f"{layer}.self_attn.v_proj.weight": (m.kv_heads * head_dim, m.hidden_size),
            f"{layer}.self_attn.o_proj.weight": (m.hidden_size, m.heads * head_dim),
            **dense_shapes(f"{layer}.mlp", m.hidden_size, m.intermediate_size),
            f"{layer}.input_layernorm.weight": (m.hidden_size,),
            f"{layer}.post_attention_layernorm.weight": (m.hidden_size,),
        }
    shapes["model.norm.weight"] = (m.hidden_size,)
    if not m.tie_embeddings:
        shapes["lm_head.weight"] = (m.vocab_size, m.hidden_size)
    return shapes


def dense_shapes(block: str, size: int, inner: int) -> dict[str, tuple[int, ...]]:
    """Of a SwiGLU feed-forward block, from `size` through `inner` and back."""
    return {
        f"{block}.gate_proj.weight": (inner, size),
        f"{block}.up_proj.weight": (inner, size),
        f"{block}.down_proj.weight": (size, inner),
    }


def draw(m: Model, name: str, normal: np.ndarray) -> np.ndarray:
    """Norm weights around 1, matrices around 0."""
    return 1 + m.norm_std * normal if normal.ndim == 1 else m.init_std * normal


def flops_per_token(m: Model, sequence_length: int) -> float:
    """As of any dense transformer."""
    return dense_flops_per_token(
        layers=m.layers,
        hidden_size=m.hidden_size,
        intermediate_size=m.intermediate_size,
        heads=m.heads,
        kv_heads=m.kv_heads,
        head_dim=m.hidden_size // m.heads,
        vocab_size=m.vocab_size,
        sequence_length=sequence_length,
    )


def hf_config(m: Model) -> dict[str, Any]:
    """The model's keys of config.json, as transformers' LlamaConfig reads them."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": m.vocab_size,
        "hidden_size": m.hidden_size,
        "intermediate_size": m.intermediate_size,
        "num_hidden_layers": m.layers,
        "num_attention_heads": m.heads,
        "num_key_value_heads": m.kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": m.rms_norm_eps,
        "rope_theta": m.rope_theta,
        "max_position_embeddings": m.max_positions,
        "tie_word_embeddings": m.tie_embeddings,
        "attention_bias": False,
        "attention_dropout": attention_dropout(m),
        **_hf_rope_scaling(m),
    }


def _hf_rope_scaling(m: Model) -> dict[str, Any]:
    """As LlamaConfig names it."""
    if (scaling := rope_scaling(m)) is None:
        return {}
    factors = {name: float(scaling[name]) for name in ROPE_SCALING[:-1]}
    positions = {"original_max_position_embeddings": scaling["original_positions"]}
    return {"rope_scaling": {"rope_type": "llama3", **factors, **positions}}


def torchprime_overrides(m: Model) -> dict[str, Any]:
    """torchprime's Hydra overrides. Raises CannotTrain for what its Llama cannot be."""
    if m.tie_embeddings:
        raise CannotTrain("case.model.tie_embeddings: torchprime's Llama has an untied head")
    if (share := attention_dropout(m)) > 0:
        raise CannotTrain(
            f"case.model.options.attention_dropout={share}: torchprime's Llama drops nothing"
        )
    scaling = rope_scaling(m)
    return {
        "model": "llama-3-8b" if scaling is None else "llama-3.1-8b",
        "model.vocab_size": m.vocab_size,
        "model.hidden_size": m.hidden_size,
        "model.intermediate_size": m.intermediate_size,
        "model.num_hidden_layers": m.layers,
        "model.num_attention_heads": m.heads,
        "model.num_key_value_heads": m.kv_heads,
        "model.rms_norm_eps": m.rms_norm_eps,
        "model.rope_theta": m.rope_theta,
        "model.max_position_embeddings": m.max_positions,
        **_torchprime_rope_scaling(scaling),
    }


def _torchprime_rope_scaling(scaling: dict[str, Any] | None) -> dict[str, Any]:
    """As its llama-3.1-8b.yaml names it."""
    if scaling is None:
        return {}
    factors = {f"model.rope_scaling.{name}": scaling[name] for name in ROPE_SCALING[:-1]}
    return {**factors, "model.rope_scaling.original_context_len": scaling["original_positions"]}


def feed_forward(size: int, inner: int) -> Any:
    """A module: the SwiGLU feed-forward block (Shazeer 2020)."""
    from torch import nn
    from torch.nn import functional as F

    class MLP(nn.Module):
        """Three matrices, under transformers' names."""

        def __init__(self) -> None:
            super().__init__()
            self.gate_proj = nn.Linear(size, inner, bias=False)
            self.up_proj = nn.Linear(size, inner, bias=False)
            self.down_proj = nn.Linear(inner, size, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    return MLP()


def causal_weights(scores: torch.Tensor, apart: torch.Tensor | None) -> torch.Tensor:
    """The softmax, in fp32 or better, of [batch, heads, length, length] scores of attention.

    apart: what else than the future does not attend to what, True where; None for nothing
    """
    import torch

    length = scores.shape[-1]
    hidden = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    hidden = hidden if apart is None else hidden | apart
    scores = scores.masked_fill(hidden, float("-inf"))
    return (scores if scores.dtype == torch.float64 else scores.float()).softmax(-1)


def reference(
    model: dict[str, Any], another_block: tuple[str, Callable[[], Any]] | None = None
) -> Any:
    """The Llama that defines "the same": plain PyTorch, no transformers, no torchprime.

    Its classes are in here because torch is: the harness itself has none.

    another_block: name of each layer's feed-forward block and what makes one, in a family that is a
                   Llama but for these
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    class RMSNorm(nn.Module):
        """Root mean square norm, computed in fp32 or better (Zhang and Sennrich 2019)."""

        def __init__(self, size: int, eps: float) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wide = x if x.dtype == torch.float64 else x.float()
            wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
            return self.weight * wide.to(x.dtype)

    def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotary position embedding of [batch, heads, sequence, head_dim], halves as in Llama."""
        left, right = x.chunk(2, -1)
        return x * cos + torch.cat((-right, left), -1) * sin

    def stretched(
        frequency: torch.Tensor,
        factor: float,
        low_freq_factor: float,
        high_freq_factor: float,
        original_positions: float,
    ) -> torch.Tensor:
        """Rotary frequencies as Llama 3.1 scales them, see ROPE_SCALING."""
        turns = original_positions * frequency / (2 * math.pi)
        if high_freq_factor == low_freq_factor:
            return torch.where(turns < low_freq_factor, frequency / factor, frequency)
        kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
        kept = kept.clamp(0, 1)
        return (1 - kept) * frequency / factor + kept * frequency

    def separated(
        mask: torch.Tensor | None, position_ids: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Which key no query attends to, and which pairs are of two documents; None for neither."""
        apart = None if mask is None else (mask == 0)[:, None, None, :]
        if position_ids is not None:
            document = (position_ids == 0).cumsum(-1)
            others = (document[:, :, None] != document[:, None, :])[:, None]
            apart = others if apart is None else apart | others
        return apart

    class Attention(nn.Module):
        """Causal self-attention with grouped key and value heads; softmax in fp32 or better."""

        def __init__(self, m: dict[str, Any]) -> None:
            super().__init__()
            size, self.heads, self.kv_heads = m["hidden_size"], m["heads"], m["kv_heads"]
            self.head_dim = size // self.heads
            self.scale = self.head_dim**-0.5
            self.attention_dropout = (m["options"] or {}).get("attention_dropout", 0.0)
            self.q_proj = nn.Linear(size, self.heads * self.head_dim, bias=False)
            self.k_proj = nn.Linear(size, self.kv_heads * self.head_dim, bias=False)
            self.v_proj = nn.Linear(size, self.kv_heads * self.head_dim, bias=False)
            self.o_proj = nn.Linear(self.heads * self.head_dim, size, bias=False)

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
                projection(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
                for projection in (self.q_proj, self.k_proj, self.v_proj)
            )
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
            k, v = (self.repeat(t) for t in (k, v))
            scores = q @ k.transpose(2, 3) * self.scale
            weights = causal_weights(scores, apart).to(v.dtype)
            if self.attention_dropout:
                weights = F.dropout(weights, self.attention_dropout, self.training)
            mixed = weights @ v
            return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))

        def repeat(self, x: torch.Tensor) -> torch.Tensor:
            """[batch, kv_heads, …] to [batch, heads, …]: each head beside its copies."""
            batch, heads, length, size = x.shape
            copies = self.heads // self.kv_heads
            x = x[:, :, None].expand(batch, heads, copies, length, size)
            return x.reshape(batch, heads * copies, length, size)

    size, inner = model["hidden_size"], model["intermediate_size"]
    block, make_block = another_block or ("mlp", lambda: feed_forward(size, inner))

    class Layer(nn.Module):
        """One pre-norm decoder layer."""

        def __init__(self, m: dict[str, Any]) -> None:
            super().__init__()
            self.self_attn = Attention(m)
            self.add_module(block, make_block())
            self.input_layernorm = RMSNorm(m["hidden_size"], m["rms_norm_eps"])
            self.post_attention_layernorm = RMSNorm(m["hidden_size"], m["rms_norm_eps"])

        def forward(
            self,
            x: torch.Tensor,
            cos: torch.Tensor,
            sin: torch.Tensor,
            apart: torch.Tensor | None = None,
        ) -> torch.Tensor:
            x = x + self.self_attn(self.input_layernorm(x), cos, sin, apart)
            return x + self.get_submodule(block)(self.post_attention_layernorm(x))

    class Decoder(nn.Module):
        """Embedding, layers and the final norm; parameter names are Hugging Face's."""

        def __init__(self, m: dict[str, Any]) -> None:
            super().__init__()
            self.embed_tokens = nn.Embedding(m["vocab_size"], m["hidden_size"])
            self.layers = nn.ModuleList(Layer(m) for _ in range(m["layers"]))
            self.norm = RMSNorm(m["hidden_size"], m["rms_norm_eps"])
            self.head_dim, self.theta = m["hidden_size"] // m["heads"], m["rope_theta"]
            self.scaling = (m["options"] or {}).get("rope_scaling")

        def frequencies(self, wide: torch.dtype, device: torch.device) -> torch.Tensor:
            """Of the rotary embeddings, radians by position [head_dim / 2]."""
            exponent = torch.arange(0, self.head_dim, 2, device=device).to(wide) / self.head_dim
            frequency = 1.0 / self.theta**exponent
            return frequency if self.scaling is None else stretched(frequency, **self.scaling)

        def forward(
            self,
            tokens: torch.Tensor,
            mask: torch.Tensor | None = None,
            position_ids: torch.Tensor | None = None,
        ) -> torch.Tensor:
            x = self.embed_tokens(tokens)
            wide = torch.float64 if x.dtype == torch.float64 else torch.float32
            position = torch.arange(tokens.shape[1], device=x.device).to(wide)
            if position_ids is not None:
                position = position_ids.to(wide)
            angle = position[..., None] * self.frequencies(wide, x.device)
            angle = torch.cat((angle, angle), -1)
            if position_ids is not None:
                angle = angle[:, None]  # the same in all heads of a row
            cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
            apart = separated(mask, position_ids)
            for layer in self.layers:
                x = layer(x, cos, sin) if apart is None else layer(x, cos, sin, apart)
            return self.norm(x)

    class Llama(nn.Module):
        """A Llama with its language-model head."""

        def __init__(self, m: dict[str, Any]) -> None:
            super().__init__()
            self.model = Decoder(m)
            self.lm_head = nn.Linear(m["hidden_size"], m["vocab_size"], bias=False)
            self.tied = m["tie_embeddings"]
            self.tie()

        def tie(self) -> None:
            """Share the embeddings with the head, where the model does."""
            if self.tied:
                self.lm_head.weight = self.model.embed_tokens.weight

        def forward(
            self,
            tokens: torch.Tensor,
            labels: torch.Tensor,
            mask: torch.Tensor | None = None,
            position_ids: torch.Tensor | None = None,
            smoothing: float = 0.0,
        ) -> torch.Tensor:
            """Sum of the cross-entropies of all labels that are predicted and not -100."""
            logits = self.lm_head(self.model(tokens, mask, position_ids))
            logits = logits if logits.dtype == torch.float64 else logits.float()
            predicted, wanted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            return F.cross_entropy(
                predicted, wanted, ignore_index=-100, reduction="sum", label_smoothing=smoothing
            )

    return Llama(model)


FAMILY = Family(
    name="llama",
    check=check,
    shapes=shapes,
    draw=draw,
    config=hf_config,
    flops_per_token=flops_per_token,
    engines={
        "hf": InEngine("LlamaDecoderLayer"),
        "torchprime": InEngine("LlamaDecoderLayer", torchprime_overrides),
    },
    reference=reference,
    drops=drops,
)
