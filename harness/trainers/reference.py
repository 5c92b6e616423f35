"""The executable definition of "the same": a trainer in plain PyTorch, of any model family.

No transformers, no torchprime. On an XLA mesh it is the embedded second engine; on the host in
float64 it says which of two engines that disagree deviates. `reference.py TRAINING.json`, where
the file holds a `harness.engines.reference` training.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

WEIGHTS, TRAINING = "model.safetensors", "training.pt"
"""What is saved: weights by canonical names, and all else that a resume needs."""


def module_of(t: dict[str, Any]) -> Any:
    """The model, built by its family's own file: an `nn.Module` as `Family.reference` says."""
    spec = importlib.util.spec_from_file_location("parity_family", t["family"])
    assert spec is not None
    assert spec.loader is not None
    family = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = family  # dataclasses look their module up
    spec.loader.exec_module(family)
    return getattr(family, t["builder"])(t["model"])


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


def place_on_mesh(model: Any, t: dict[str, Any]) -> tuple[Any, Any]:
    """Move the model to the XLA mesh by the case's table; the device, and the input's sharding."""
    import torch_xla
    import torch_xla.distributed.spmd as xs
    import torch_xla.runtime as xr

    xr.use_spmd()
    axes = t["mesh"]
    if t["dcn"]:
        outer = tuple(t["dcn"].get(axis, 1) for axis in axes)
        inner = tuple(size // n for size, n in zip(axes.values(), outer, strict=True))
        mesh = xs.HybridMesh(ici_mesh_shape=inner, dcn_mesh_shape=outer, axis_names=tuple(axes))
    else:
        count = math.prod(axes.values())
        mesh = xs.Mesh(np.arange(count), tuple(axes.values()), tuple(axes))
    xs.set_global_mesh(mesh)
    model.to(torch_xla.device())
    if t["remat"]:
        recompute_layers(model, _by_xla)
    model.tie()  # moving to an XLA device makes new parameters, and so unties what was tied
    for name, parameter in model.named_parameters():
        xs.mark_sharding(parameter, mesh, partition_spec(t, name))
    rows = tuple(axis for axis in ("data", "fsdp") if axis in axes)
    keep_rows(model, mesh, (rows, None, "tensor" if axes.get("tensor", 1) > 1 else None))
    return torch_xla.device(), xs.ShardingSpec(mesh, (rows, None))


def partition_spec(t: dict[str, Any], name: str) -> tuple[Any, ...]:
    """The case's partition spec of a parameter."""
    spec = t["sharding"][".".join("*" if part.isdigit() else part for part in name.split("."))]
    return tuple(tuple(a) if isinstance(a, list) else a for a in spec)


def keep_rows(model: Any, mesh: Any, spec: tuple[Any, ...]) -> None:
    """Have each layer put out the rows that it was given, as the trainers' layers do.

    The partitioner is free otherwise to gather the activations of all rows and to leave the weights
    where they are, which moves more bytes as batches grow.

    spec: partition spec of a layer's output, [batch, length, hidden]
    """
    import torch_xla.distributed.spmd as xs

    def pin(module: Any, inputs: Any, output: torch.Tensor) -> None:
        xs.mark_sharding(output, mesh, spec)

    for module in layers_of(model):
        module.register_forward_hook(pin)


def recompute_layers(model: Any, checkpoint: Callable[[Any], Any]) -> None:
    """Have `checkpoint` let each layer compute its activations again in the backward pass."""
    for module in layers_of(model):
        checkpoint(module)


def layers_of(model: Any) -> list[Any]:
    """The outermost numbered modules: an expert in a layer is none."""
    return [
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2].isdigit() and not any(map(str.isdigit, name.split(".")[:-1]))
    ]


def _by_xla(module: Any) -> None:
    from torch_xla.distributed.fsdp import checkpoint_module

    checkpoint_module(module)


def _eagerly(module: Any) -> None:
    from torch.utils.checkpoint import checkpoint

    module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)


def beside(batch: dict[str, Any]) -> dict[str, Any]:
    """What the model is given beside tokens and labels, as `Family.reference` names it."""
    names = {"attention_mask": "mask", "position_ids": "position_ids"}
    return {names[name]: batch[name] for name in batch if name in names}


def save(t: dict[str, Any], model: Any, optimizer: Any) -> None:
    """Save all that a resume needs, between two steps, when the next one has its batches."""
    folder = Path(t["save_to"])
    folder.mkdir(parents=True)
    held = (*model.named_parameters(), *model.named_buffers())
    save_file({name: tensor.detach().cpu() for name, tensor in held}, folder / WEIGHTS)
    states = optimizer.state_dict()["state"]
    kept = {i: {k: v.cpu() for k, v in state.items()} for i, state in states.items()}
    # Groups are those of the case: their learning rate is set in every step.
    torch.save({"optimizer": kept, "generators": generators(t)}, folder / TRAINING)


def generators(t: dict[str, Any]) -> dict[str, Any]:
    """States of the random number generators: the host's, and on a mesh the device's."""
    states: dict[str, Any] = {"host": torch.get_rng_state()}
    if not t["eager"]:
        import torch_xla.core.xla_model as xm

        states["device"] = xm.get_rng_state()
    return states


def resume_optimizer(t: dict[str, Any], model: Any, optimizer: Any) -> Callable[[], None]:
    """Load the optimizer's state, cut as its parameters are; returns what sets generators back."""
    saved = torch.load(Path(t["resume_from"]) / TRAINING, weights_only=True)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": saved["optimizer"], "param_groups": groups})
    if not t["eager"]:
        import torch_xla.distributed.spmd as xs

        for name, parameter in model.named_parameters():
            for value in optimizer.state[parameter].values():
                if value.shape == parameter.shape:
                    xs.mark_sharding(value, xs.get_global_mesh(), partition_spec(t, name))

    def set_generators() -> None:
        torch.set_rng_state(saved["generators"]["host"])
        if not t["eager"]:
            import torch_xla.core.xla_model as xm

            xm.set_rng_state(saved["generators"]["device"])

    return set_generators


def main(path: str) -> None:
    """Train what the file at `path` describes."""
    t = json.loads(Path(path).read_text())
    torch.manual_seed(t["seed"])
    with torch.device("meta" if t["weights"] is None else "cpu"):
        model = module_of(t)
    if t["resume_from"] is not None:
        t["weights"] = str(Path(t["resume_from"]) / WEIGHTS)
    if t["weights"] is not None:
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
            {name: torch.from_numpy(array) for name, array in zip(arrays.files, row, strict=True)}
            for row in zip(*(arrays[name] for name in arrays.files), strict=True)
        ]
    rows = rows[t["first_step"] * t["accumulation"] * t["micro_batch"] :]
    loader: Any = DataLoader(rows, batch_size=t["micro_batch"], drop_last=True)  # type: ignore[arg-type]
    if t["eager"]:
        if t["remat"]:
            recompute_layers(model, _eagerly)
    else:
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
    set_generators = None
    if t["resume_from"] is not None:
        set_generators = resume_optimizer(t, model, optimizer)
    model.train()
    cast = {
        "enabled": t["autocast"] is not None,
        "dtype": getattr(torch, t["autocast"] or "bfloat16"),
    }
    smoothing = {"smoothing": t["label_smoothing"]} if t["label_smoothing"] else {}
    batches = iter(loader)
    for step in range(t["first_step"], t["steps"]):
        micro = [next(batches) for _ in range(t["accumulation"])]
        if step == t["save_at"]:
            save(t, model, optimizer)
        if set_generators is not None and step == t["first_step"]:
            set_generators()
        count = sum((batch["labels"][:, 1:] != -100).sum() for batch in micro)
        for batch in micro:
            with torch.autocast(batch["labels"].device.type, **cast):
                loss = model(batch["input_ids"], batch["labels"], **beside(batch), **smoothing)
            (loss / count).backward()
        if t["max_norm"] is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), t["max_norm"])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(t, step)
        optimizer.step()
        optimizer.zero_grad()
        if not t["eager"]:
            torch_xla.sync()


if __name__ == "__main__":
    main(sys.argv[1])
