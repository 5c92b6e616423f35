"""Qwen 3: a Llama whose queries and keys are normalised, each head by itself.

torchprime has none: hf is compared with the reference, and releases of transformers with each
other.
"""

from __future__ import annotations

from typing import Any

from harness.base.errors import BadInput
from harness.models import llama
from harness.models.family import Family, InEngine, Model


def check(m: Model) -> None:
    """Raise BadInput for a shape that no Qwen 3 has here: heads of hidden_size / heads."""
    if m.options:
        raise BadInput(f"case.model.options={m.options}: a Qwen 3 has none; drop the key")
    llama.check(m)


def shapes(m: Model) -> dict[str, tuple[int, ...]]:
    """Llama's parameters, and after each layer's projections the norms of its heads."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in llama.shapes(m).items():
        found[name] = shape
        if name.endswith(".o_proj.weight"):
            attention = name.removesuffix("o_proj.weight")
            found[f"{attention}q_norm.weight"] = (m.hidden_size // m.heads,)
            found[f"{attention}k_norm.weight"] = (m.hidden_size // m.heads,)
    return found


def hf_config(m: Model) -> dict[str, Any]:
    """The model's keys of config.json, as transformers' Qwen3Config reads them."""
    return {
        **llama.hf_config(m),
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": m.hidden_size // m.heads,
    }


def reference(model: dict[str, Any]) -> Any:
    """Llama's module with the norms of its heads between projection and rotation."""
    import torch
    from torch import nn

    class HeadNorm(nn.Module):
        """Root mean square norm over each head, computed in fp32 or better."""

        def __init__(self, size: int, eps: float) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """`x` is [batch, length, heads · size], head beside head."""
            heads = x.unflatten(-1, (-1, self.weight.shape[0]))
            wide = heads if x.dtype == torch.float64 else heads.float()
            wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
            return (self.weight * wide.to(x.dtype)).flatten(-2)

    def normalised(norm: HeadNorm) -> Any:
        return lambda projection, inputs, output: norm(output)

    module = llama.reference(model)
    for layer in module.model.layers:
        attention = layer.self_attn
        attention.q_norm = HeadNorm(attention.head_dim, model["rms_norm_eps"])
        attention.k_norm = HeadNorm(attention.head_dim, model["rms_norm_eps"])
        attention.q_proj.register_forward_hook(normalised(attention.q_norm))
        attention.k_proj.register_forward_hook(normalised(attention.k_norm))
    return module


FAMILY = Family(
    name="qwen3",
    check=check,
    shapes=shapes,
    draw=llama.draw,
    config=hf_config,
    flops_per_token=llama.flops_per_token,
    engines={"hf": InEngine("Qwen3DecoderLayer")},
    reference=reference,
)
