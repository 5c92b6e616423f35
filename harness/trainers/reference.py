"""The executable definition of "the same": a Llama trainer in plain PyTorch.

No transformers, no torchprime. On an XLA mesh it is the embedded second engine; on the host in
float64 it says which of two engines that disagree deviates. `reference.py TRAINING.json`, where
the file holds a `harness.engines.reference` training.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader


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


class Attention(nn.Module):
    """Causal self-attention with grouped key and value heads; softmax in fp32 or better."""

    def __init__(self, m: dict[str, Any]) -> None:
        super().__init__()
        size, self.heads, self.kv_heads = m["hidden_size"], m["heads"], m["kv_heads"]
        self.head_dim = size // self.heads
        self.scale = self.head_dim**-0.5
        self.q_proj = nn.Linear(size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(size, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(size, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_dim, size, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            projection(x).view(batch, length, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (self.repeat(t) for t in (k, v))
        scores = q @ k.transpose(2, 3) * self.scale
        future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
        wide = scores if scores.dtype == torch.float64 else scores.float()
        mixed = wide.softmax(-1).to(v.dtype) @ v
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))

    def repeat(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, kv_heads, …] to [batch, heads, …]: each head beside its copies."""
        batch, heads, length, size = x.shape
        copies = self.heads // self.kv_heads
        x = x[:, :, None].expand(batch, heads, copies, length, size)
        return x.reshape(batch, heads * copies, length, size)


class MLP(nn.Module):
    """SwiGLU feed-forward (Shazeer 2020)."""

    def __init__(self, m: dict[str, Any]) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(m["hidden_size"], m["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(m["hidden_size"], m["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(m["intermediate_size"], m["hidden_size"], bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, m: dict[str, Any]) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(m), MLP(m)
        self.input_layernorm = RMSNorm(m["hidden_size"], m["rms_norm_eps"])
        self.post_attention_layernorm = RMSNorm(m["hidden_size"], m["rms_norm_eps"])

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, layers and the final norm; parameter names are Hugging Face's."""

    def __init__(self, m: dict[str, Any]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(m["vocab_size"], m["hidden_size"])
        self.layers = nn.ModuleList(Layer(m) for _ in range(m["layers"]))
        self.norm = RMSNorm(m["hidden_size"], m["rms_norm_eps"])
        self.head_dim, self.theta = m["hidden_size"] // m["heads"], m["rope_theta"]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(tokens)
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        frequency = torch.arange(0, self.head_dim, 2, device=x.device).to(wide) / self.head_dim
        position = torch.arange(tokens.shape[1], device=x.device).to(wide)
        angle = position[:, None] * (1.0 / self.theta**frequency)
        angle = torch.cat((angle, angle), -1)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


class Llama(nn.Module):
    """A Llama with its language-model head."""

    def __init__(self, m: dict[str, Any]) -> None:
        super().__init__()
        self.model = Decoder(m)
        self.lm_head = nn.Linear(m["hidden_size"], m["vocab_size"], bias=False)
        if m["tie_embeddings"]:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum of the cross-entropies of all labels that are predicted and not -100."""
        logits = self.lm_head(self.model(tokens))
        logits = logits if logits.dtype == torch.float64 else logits.float()
        predicted, wanted = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        return F.cross_entropy(predicted, wanted, ignore_index=-100, reduction="sum")


def learning_rate(t: dict[str, Any], step: int) -> float:
    """Learning rate that 0-based `step` uses: linear warm-up from 0, then the decay."""
    peak, warmup = t["learning_rate"], t["warmup_steps"]
    if step < warmup:
        return float(peak * step / max(1, warmup))
    progress = (step - warmup) / max(1, t["steps"] - warmup)
    decay = {
        "linear": 1 - progress,
        "constant": 1.0,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
    }
    return float(peak * decay[t["schedule"]])


def place_on_mesh(model: Llama, t: dict[str, Any]) -> tuple[Any, Any]:
    """Move the model to the XLA mesh by the case's table; the device, and the input's sharding."""
    import torch_xla
    import torch_xla.distributed.spmd as xs
    import torch_xla.runtime as xr

    xr.use_spmd()
    axes = t["mesh"]
    count = math.prod(axes.values())
    mesh = xs.Mesh(np.arange(count), tuple(axes.values()), tuple(axes))
    xs.set_global_mesh(mesh)
    model.to(torch_xla.device())
    if t["model"]["tie_embeddings"]:
        # Moving to an XLA device makes new parameters, and so unties what was tied.
        model.lm_head.weight = model.model.embed_tokens.weight
    for name, parameter in model.named_parameters():
        spec = t["sharding"][".".join("*" if part.isdigit() else part for part in name.split("."))]
        xs.mark_sharding(
            parameter, mesh, tuple(tuple(a) if isinstance(a, list) else a for a in spec)
        )
    rows = tuple(axis for axis in ("data", "fsdp") if axis in axes)
    return torch_xla.device(), xs.ShardingSpec(mesh, (rows, None))


def main(path: str) -> None:
    """Train what the file at `path` describes."""
    t = json.loads(Path(path).read_text())
    torch.manual_seed(t["seed"])
    model = Llama(t["model"])
    # In float64 too the weights are those that the engines start from, as they round them.
    rounded = getattr(torch, t["weights_dtype"])
    state = {
        name: tensor.to(rounded).to(torch.float64)
        for name, tensor in load_file(t["weights"]).items()
    }
    model.to(torch.float64).load_state_dict(state, strict=not t["model"]["tie_embeddings"])
    model.to(getattr(torch, t["dtype"]))

    with np.load(t["rows"]) as arrays:
        rows = [
            {"input_ids": torch.from_numpy(a), "labels": torch.from_numpy(b)}
            for a, b in zip(arrays["input_ids"], arrays["labels"], strict=True)
        ]
    loader: Any = DataLoader(rows, batch_size=t["micro_batch"], drop_last=True)  # type: ignore[arg-type]
    if t["device"] == "xla":
        import torch_xla
        import torch_xla.distributed.parallel_loader as pl

        device, input_sharding = place_on_mesh(model, t)
        loader = pl.MpDeviceLoader(loader, device, input_sharding=input_sharding)

    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=0.0,
        betas=tuple(t["betas"]),
        eps=t["eps"],
        weight_decay=t["weight_decay"],
    )
    model.train()
    batches = iter(loader)
    for step in range(t["steps"]):
        micro = [next(batches) for _ in range(t["accumulation"])]
        count = sum((batch["labels"][:, 1:] != -100).sum() for batch in micro)
        for batch in micro:
            (model(batch["input_ids"], batch["labels"]) / count).backward()
        if t["max_norm"] is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), t["max_norm"])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(t, step)
        optimizer.step()
        optimizer.zero_grad()
        if t["device"] == "xla":
            torch_xla.sync()


if __name__ == "__main__":
    main(sys.argv[1])
