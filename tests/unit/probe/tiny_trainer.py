"""A trainer of a few lines in eager PyTorch, for the probe to watch. Run by `watch_runs.py`.

Its argument is a JSON object: `clip` names how it clips, `accumulation` and `divide` how its loss
is scaled, `mask` what its attention masks hold, `repeat` a step that trains on the batch of the
step before once more, `drop` the share that its model drops, `cast` whether it casts operations to
bfloat16, `remat` whether its layers are computed again, `cut` how its passes are cut, `layout` how
it keeps its two matrices, `backward` how it gets its gradients, `save` after how many steps it
saves into `folder`, `resume` after how many steps what is in there was saved, `route` whether its
tokens go through two of four experts, and who chooses these.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import early_import
import torch
import torch.utils.checkpoint
import torch_xla
from torch.utils.data import DataLoader

MAX_NORM = 0.1


def marker(tensor: torch.Tensor) -> None:
    """What `torch_xla.sync` calls, without it."""
    lib = torch_xla._XLAC
    lib._xla_step_marker(lib._xla_get_default_device(), [], wait=False)


CUTS: dict[str, Callable[[torch.Tensor], None]] = {
    "sync": lambda tensor: torch_xla.sync(),
    "marker": marker,
    "materialised": lambda tensor: torch_xla._XLAC._xla_sync_multi([tensor], [], True),
}


def autograd_backward(loss: torch.Tensor, model: Any) -> None:
    """As `loss.backward()`, and a step marker after the pass."""
    torch.autograd.backward([loss])
    torch_xla.sync()


def two_heads(loss: torch.Tensor, model: Any) -> None:
    torch.autograd.backward((loss * 0.25, loss * 0.75))


def within_forward(loss: torch.Tensor, model: Any) -> None:
    """As torch_xla's scan does within the forward pass, of a layer: on what are no scalars."""
    layer = torch.ones(2, 3, requires_grad=True)
    outputs = [layer * 2, layer.sum(0)]
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
    loss.backward()


def autograd_grad(loss: torch.Tensor, model: Any) -> None:
    parameters = list(model.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient


BACKWARD: dict[str, Callable[[torch.Tensor, Any], None]] = {
    "plain": lambda loss, model: loss.backward(),
    "autograd": autograd_backward,
    "two heads": two_heads,
    "within forward": within_forward,
    "grad": autograd_grad,
}


def decided(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which experts each token goes through, and their weights."""
    best, taken = torch.topk(logits.softmax(-1), 2)
    return taken, best


class Deciding(torch.nn.Linear):  # type: ignore[misc]
    """A router that returns its choice and no logits, as some of transformers' do."""

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return decided(torch.nn.functional.linear(tokens.float(), self.weight))


class Model(torch.nn.Module):  # type: ignore[misc]
    """A bigram model."""

    def __init__(self, drop: float, remat: bool, cut: str, route: bool | str) -> None:
        super().__init__()
        self.remat, self.cut, self.route = remat, cut, route
        layers = 2 if drop or remat else 0
        self.layers = torch.nn.ModuleList([torch.nn.Dropout(drop) for _ in range(layers)])
        self.residual_dropout = drop
        self.embed = torch.nn.Embedding(16, 8)
        self.head = torch.nn.Linear(8, 16, bias=False)
        if route:
            self.gate = (
                Deciding(8, 4, bias=False) if route == "gate" else torch.nn.Linear(8, 4, False)
            )

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, **more: Any) -> torch.Tensor:
        hidden = self.embed(input_ids)
        if self.cut:
            CUTS[self.cut](hidden)
            hidden.register_hook(CUTS[self.cut])
        for layer in self.layers:
            if self.remat:
                hidden = torch.utils.checkpoint.checkpoint(layer, hidden, use_reentrant=True)
            else:
                hidden = layer(hidden)
        if self.route:
            hidden = hidden * self.weights(hidden)
        logits = self.head(hidden)[:, :-1].flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten())

    def weights(self, hidden: torch.Tensor) -> torch.Tensor:
        """A sum over the experts of each token, the n-th of which multiplies by n + 1."""
        found = self.gate(hidden.flatten(0, 1))
        taken, best = found if isinstance(found, tuple) else decided(found)
        return (best * (taken + 1)).sum(-1).view(hidden.shape[:2])[..., None]


def to_own_layout(model: Any, name: str) -> None:
    """Keep the matrices fused, stacked or transposed, with equal values."""
    embed, head = model.embed.weight.data, model.head.weight.data
    del model.embed, model.head
    kept = {
        "fused": lambda: torch.cat([embed, head]),
        "stacked": lambda: torch.stack([embed, head]),
        "transposed": lambda: torch.cat([embed.T, head.T], 1),
    }[name]()
    model.table = torch.nn.Parameter(kept)

    def forward(input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        table = model.table.T if name == "transposed" else model.table.flatten(0, -2)
        embed, head = table.split(16)
        logits = (torch.nn.functional.embedding(input_ids, embed) @ head.T)[:, :-1].flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten())

    model.forward = forward


def total(parameters: list[Any]) -> torch.Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in parameters])


def two_calls(parameters: list[Any]) -> None:
    torch.nn.utils.clip_grads_with_norm_(parameters, MAX_NORM, total(parameters))


def two_calls_for_each_group(parameters: list[Any]) -> None:
    norm = total(parameters)
    for parameter in parameters:
        torch.nn.utils.clip_grads_with_norm_([parameter], MAX_NORM, total_norm=norm)


def each_parameter(parameters: list[Any]) -> None:
    for parameter in parameters:
        torch.nn.utils.clip_grad_norm_(parameter, max_norm=MAX_NORM)


def own(parameters: list[Any]) -> None:
    scale = torch.clamp(MAX_NORM / (total(parameters) + 1e-6), max=1.0)
    for parameter in parameters:
        parameter.grad.mul_(scale)


CLIPPING: dict[str, Callable[[list[Any]], Any]] = {
    "plain": lambda ps: torch.nn.utils.clip_grad_norm_(ps, MAX_NORM),
    "imported early": lambda ps: early_import.clip_grad_norm_(ps, MAX_NORM),
    "two calls": two_calls,
    "two calls for each group": two_calls_for_each_group,
    "each parameter": each_parameter,
    "values": lambda ps: torch.nn.utils.clip_grad_value_(ps, 0.01),
    "own": own,
    "none": lambda ps: None,
}


def on_mesh(model: Any, loader: Any) -> Any:
    """Moves the model to all devices; its batches are sharded by rows, and loaded ahead."""
    import torch_xla.distributed.parallel_loader as pl
    import torch_xla.distributed.spmd as xs
    import torch_xla.runtime as xr

    xr.use_spmd()
    count = xr.global_runtime_device_count()
    mesh = xs.Mesh(list(range(count)), (count,), ("fsdp",))
    device = torch_xla.device()
    model.to(device)
    for parameter in model.parameters():
        xs.mark_sharding(parameter, mesh, ("fsdp", None))
    rows = xs.ShardingSpec(mesh, ("fsdp", None))
    return pl.MpDeviceLoader(loader, device, input_sharding=rows)


def main(
    clip: str = "plain", accumulation: int = 1, divide: float = 1.0, repeat: int = -1,
    device: str = "cpu", mask: int | None = None, drop: float = 0.0, cast: bool = False,
    remat: bool = False, cut: str = "", layout: str | None = None, backward: str = "plain",
    save: int | None = None, resume: int = 0, folder: str = "", route: bool | str = False,
) -> None:  # fmt: skip
    """Train four steps, on the host or on a mesh of all devices."""
    torch.manual_seed(0)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 16, (48, 6))]
    if mask is not None:
        rows = [{**row, "attention_mask": torch.full((6,), mask)} for row in rows]
    loader: Any = DataLoader(rows[4 * resume * accumulation :], batch_size=4)
    model: Any = Model(drop, remat, cut, route)
    if layout is not None:
        to_own_layout(model, layout)
    if device == "xla":
        loader = on_mesh(model, loader)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    saved = Path(folder) / "saved.pt"
    if resume:
        found = torch.load(saved, weights_only=True)
        model.load_state_dict(found["weights"])
        optimizer.load_state_dict(found["optimizer"])
    model.train()
    batches: Any = iter(loader)
    held: Any = {}
    for step in range(resume, 4):
        if step == save:
            saved.parent.mkdir()
            kept = {"weights": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(kept, saved)
        for _ in range(accumulation):
            batch = next(batches)
            held = held if step == repeat else batch
            with torch.autocast("cpu", torch.bfloat16, enabled=cast):
                loss = model(**held) / divide
            BACKWARD[backward](loss, model)
        CLIPPING[clip](list(model.parameters()))
        optimizer.step()
        optimizer.zero_grad()
        if device == "xla":
            torch_xla.sync()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
