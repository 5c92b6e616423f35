"""Runs in the engine's interpreter: trains without values on a mesh of 256 devices, as JSON.

`python staged.py OUT.json FOLDER`. What is expected of it is asserted in test_staging.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.debug.metrics as metrics
import torch_xla.distributed.spmd as xs
import torch_xla.runtime as xr
from torch_xla.experimental.custom_kernel import flash_attention, gmm
from torch_xla.experimental.splash_attention import SplashAttentionConfig, splash_attention

from harness.probe.staging import Staging
from harness.probe.writer import Writer

DEVICES, STEPS, SIZE = 256, 3, 1 << 18
HOST_LABELS = torch.tensor([[-100, 3, 4], [-100, 5, -100]])


def hlo() -> str:
    """What the step that was just traced comes to, as text without numbers that only count."""
    tensors = STAGING._pending()
    return str(torch_xla._XLAC._get_xla_tensors_hlo(sorted(tensors, key=STAGING._alias)))


def kernels_in(tensor: Any) -> int:
    """How many kernels compute a tensor."""
    text = torch_xla._XLAC._get_xla_tensors_hlo([tensor])
    return int(text.count('custom_call_target="tpu_custom_call"'))


def step(model: Any, optimizer: torch.optim.Optimizer, seen: torch.Tensor, rows: Any) -> None:
    for _ in range(2):
        # The second adds to gradients that no Python object holds.
        loss = (model(rows) ** 2).mean()
        xm.optimization_barrier_([loss])
        loss.backward()
        torch_xla.sync()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    seen += 1
    LENGTHS.append(len(hlo()))


STAGING = Staging(DEVICES, STEPS - 1, Writer(Path(sys.argv[2])))
LENGTHS: list[int] = []


def main() -> dict[str, Any]:
    xr.use_spmd()
    STAGING.install()
    device = torch_xla.device()
    mesh = xs.Mesh(list(range(DEVICES)), (DEVICES,), ("fsdp",))
    # A terabyte of weights, made on the meta device.
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Linear(SIZE, SIZE, bias=False), torch.nn.Tanh())
    model.to(device)
    (weight,) = model.parameters()
    xs.mark_sharding(weight, mesh, ("fsdp", None))
    rows = torch.zeros(4, SIZE).to(device)
    seen = torch.zeros(3).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(STEPS - 1):
        step(model, optimizer, seen, rows)
        torch_xla.sync()
    read = [bool(seen.sum() > 0), float(seen.sum()), seen.cpu().tolist(), seen.to("cpu").tolist()]
    read.append(torch.special.bessel_j0(seen).tolist())  # torch_xla does not lower it
    labels = HOST_LABELS.to(device)
    known: list[Any] = [int((labels != -100).sum())]
    known.append(bool((labels[:, 0] == -100).all()))
    known.append(labels.tolist())
    known.append(bool((torch.arange(9, device=device) < 9).all()))
    known.append(float((labels + seen.sum()).sum()))
    step(model, optimizer, seen, rows)
    torch_xla.sync()
    seen[0].item()
    queries = torch.zeros(1, 1, 128, 128).to(device).requires_grad_()
    flash_attention(queries, queries, queries, causal=True).sum().backward()
    rows = torch.zeros(DEVICES, 1, 128, 128).to(device).requires_grad_()
    spread = xs.Mesh(list(range(DEVICES)), (1, DEVICES), ("data", "fsdp"))
    splash_attention(
        rows, rows, rows, SplashAttentionConfig(mesh=str(spread)).to_json()
    ).sum().backward()
    groups = torch.tensor([64, 64], dtype=torch.int32).to(device)
    experts = torch.zeros(2, 128, 128).to(device)
    multiplied = gmm(torch.zeros(128, 128).to(device), experts, groups)
    STAGING.finish()
    return {
        "read": read,
        "known": known,
        "lengths": LENGTHS,
        "executions": metrics.metric_data("ExecuteReplicatedTime"),
        "compilations": metrics.counter_value("UncachedCompile"),
        "sharding": torch_xla._XLAC._get_xla_sharding_spec(weight),
        "moment": torch_xla._XLAC._get_xla_sharding_spec(optimizer.state[weight]["exp_avg"]),
        "kernels": kernels_in(queries.grad),
        "splash": kernels_in(rows.grad),
        "gmm": kernels_in(multiplied),
        "later view": "custom-call" in torch_xla._XLAC._get_xla_tensors_hlo([weight.t() * 2]),
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(main()))
