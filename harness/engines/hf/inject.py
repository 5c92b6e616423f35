"""Makes identical in the Trainer what its command line cannot be asked for: mesh and sharding.

This file is copied into the run, and runs inside the trainer's process.
"""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import Any

import torch

from harness.probe.inject import when_imported
from harness.probe.saved import Found


def inject(
    mesh: list[tuple[str, int]] | None,
    dcn: dict[str, int],
    sharding: dict[str, list[Any]] | None,
    einsum_linear: bool,
    workarounds: list[str],
    meta: bool,
) -> None:
    """The Trainer has one mesh of its own and shards the largest dimension of each parameter.

    mesh:          axes of the mesh, name and size, where its own mesh is to be replaced: devices
                   are numbered along the last one first
    dcn:           over how many slices each axis of it lies, where it lies across some
    sharding:      partition spec by parameter pattern (`*` is a layer number); None leaves its own
    einsum_linear: torch_xla's einsum lowering on its plain `nn.Linear` modules
    workarounds:   names of functions in `WORKAROUNDS` to call
    meta:          a new model is made without weights
    """
    for name in workarounds:
        WORKAROUNDS[name]()

    def without_weights(models: Any) -> None:
        make = models.PreTrainedModel._from_config.__func__

        @functools.wraps(make)
        def _from_config(cls: Any, *args: Any, **kwargs: Any) -> Any:
            with torch.device("meta"):
                return make(cls, *args, **kwargs)

        models.PreTrainedModel._from_config = classmethod(_from_config)

    if meta:
        when_imported("transformers.modeling_utils", without_weights)

    def patch(trainer: Any) -> None:
        wrap = trainer.Trainer._wrap_model

        @functools.wraps(wrap)
        def _wrap_model(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            if einsum_linear:
                _einsum_linear(model)
            if sharding is not None and self.model_wrapped is self.model:
                _mark(model, sharding)
            return wrap(self, model, *args, **kwargs)

        trainer.Trainer._wrap_model = _wrap_model
        if mesh is not None:
            axes = dict(mesh)
            init = trainer.Trainer.__init__

            @functools.wraps(init)
            def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
                with _own_mesh(axes, dcn):
                    init(self, *args, **kwargs)

            trainer.Trainer.__init__ = __init__
            if axes.get("data", 1) > 1:
                _cut_rows(trainer, ("data", "fsdp"))

    when_imported("transformers.trainer", patch)


def _cut_rows(trainer: Any, axes: tuple[str, ...]) -> None:
    """Rows are cut over these axes of the mesh that is put in the place of the Trainer's own.

    It names fsdp where it cuts batches, and where FSDPv2 cuts what layers put out, as its own mesh
    has nothing else.
    """
    import torch_xla.distributed.spmd as xs
    from torch_xla.experimental.spmd_fully_sharded_data_parallel import SpmdFullyShardedDataParallel

    load, wrap = trainer.tpu_spmd_dataloader, SpmdFullyShardedDataParallel.__init__

    def tpu_spmd_dataloader(dataloader: Any) -> Any:
        found = load(dataloader)
        sharding = xs.ShardingSpec(xs.get_global_mesh(), (axes, None))
        found._parallel_loader_kwargs["input_sharding"] = sharding
        return found

    def shard_output(output: Any, mesh: Any) -> None:
        first = output[0] if isinstance(output, tuple) else getattr(output, "logits", output)
        xs.mark_sharding(first, mesh, (axes, *[None] * (first.dim() - 1)))

    @functools.wraps(wrap)
    def __init__(self: Any, module: Any, **options: Any) -> None:
        wrap(self, module, **{**options, "shard_output": shard_output})

    trainer.tpu_spmd_dataloader = tpu_spmd_dataloader
    SpmdFullyShardedDataParallel.__init__ = __init__


def _fsdp_xla_environment() -> None:
    """Up to transformers 4.45: XLA's FSDP is not announced to accelerate as torch's."""

    def patch(training_args: Any) -> None:
        arguments = training_args.TrainingArguments
        complete = arguments.__post_init__

        @functools.wraps(complete)
        def __post_init__(self: Any) -> None:
            complete(self)
            os.environ.pop("ACCELERATE_USE_FSDP", None)

        arguments.__post_init__ = __post_init__

    when_imported("transformers.training_args", patch)


def _fsdp_xla_wrap() -> None:
    """From transformers 5.3 on: create the optimizer that was put off, and then left out."""

    def patch(trainer: Any) -> None:
        create = trainer.Trainer.create_scheduler

        @functools.wraps(create)
        def create_scheduler(self: Any, num_training_steps: int, optimizer: Any = None) -> Any:
            if self.optimizer is None:
                self.create_optimizer()
                self.optimizer = self.accelerator.prepare(self.optimizer)
            return create(self, num_training_steps, optimizer)

        trainer.Trainer.create_scheduler = create_scheduler

    when_imported("transformers.trainer", patch)


WORKAROUNDS = {
    "fsdp_xla_environment": _fsdp_xla_environment,
    "fsdp_xla_wrap": _fsdp_xla_wrap,
}


def _einsum_linear(model: torch.nn.Module) -> None:
    """torch_xla's einsum lowering for modules that are exactly `nn.Linear`."""
    from torch_xla.distributed.spmd.xla_sharding import XLAPatchedLinear

    def forward(self: torch.nn.Linear, values: torch.Tensor) -> torch.Tensor:
        return XLAPatchedLinear.apply(values, self.weight, self.bias)

    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.forward = functools.partial(forward, module)  # type: ignore[method-assign]


def _mark(model: torch.nn.Module, table: dict[str, list[Any]]) -> None:
    """Annotate parameters by the table before FSDPv2 sees them; it leaves those alone."""
    import torch_xla.core.xla_model as xm
    import torch_xla.distributed.spmd as xs

    model.to(xm.xla_device())
    mesh = xs.get_global_mesh()
    for name, parameter in model.named_parameters():
        spec = matching(table, name)
        if spec is not None:
            axes = tuple(tuple(a) if isinstance(a, list) else a for a in spec)
            xs.mark_sharding(parameter, mesh, axes)


def matching(patterns: dict[str, Any], name: str) -> Any:
    """The entry of a sharding table for parameter `name`; None where no pattern matches."""
    return patterns.get(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name))


class _own_mesh:
    """While active, whatever mesh is made global is the one with these axes instead."""

    def __init__(self, axes: dict[str, int], dcn: dict[str, int]) -> None:
        self.axes, self.dcn = axes, dcn

    def __enter__(self) -> None:
        import numpy as np
        import torch_xla.distributed.spmd as xs

        self.module, self.original = xs, xs.set_global_mesh
        if self.dcn:
            outer = tuple(self.dcn.get(axis, 1) for axis in self.axes)
            mesh = xs.HybridMesh(
                ici_mesh_shape=tuple(
                    s // n for s, n in zip(self.axes.values(), outer, strict=True)
                ),
                dcn_mesh_shape=outer,
                axis_names=tuple(self.axes),
            )
        else:
            size = int(np.prod(list(self.axes.values())))
            mesh = xs.Mesh(np.arange(size), tuple(self.axes.values()), tuple(self.axes))
        xs.set_global_mesh = lambda _: self.original(mesh)

    def __exit__(self, *exception: Any) -> None:
        self.module.set_global_mesh = self.original


WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What `from_pretrained` looks for, each also in parts, of which `NAME.index.json` tells."""


def load_saved(folder: str) -> Found:
    """What `AutoModelForCausalLM.from_pretrained` makes of a checkpoint of the Trainer's.

    Without the configuration that was saved beside them, weights are not loaded: by any other the
    model might be of any size.
    """
    how, place = "AutoModelForCausalLM.from_pretrained", Path(folder)
    stored = _stored(place)
    if not (place / "config.json").is_file():
        return Found(how, stored, f"{place.name} has no config.json")
    import transformers

    auto = "dtype" if _release(transformers.__version__) >= (4, 56) else "torch_dtype"
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, **{auto: "auto"}
    )
    other = [name for name, *_ in info.get("mismatched_keys", ())]
    return Found(
        how,
        stored,
        missing=[*info["missing_keys"], *other],
        unexpected=[*info["unexpected_keys"], *other],
        parameters={name: p.detach() for name, p in model.named_parameters()},
    )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _stored(place: Path) -> list[str]:
    """Names of the tensors in a checkpoint's files of weights."""
    for name in WEIGHTS:
        if (index := place / f"{name}.index.json").is_file():
            return list(json.loads(index.read_text())["weight_map"])
        if (file := place / name).is_file():
            return _names(file)
    return []


def _names(file: Path) -> list[str]:
    if file.suffix == ".bin":
        return list(torch.load(file, map_location="cpu", weights_only=True))
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        return list(tensors.keys())
