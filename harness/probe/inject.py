"""Makes identical what an engine cannot be asked for: the one place that knows engines.

Everything injected here is observed again, and judged, like anything else.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.abc
import importlib.machinery
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from harness.probe.spec import Spec


def when_imported(name: str, action: Callable[[ModuleType], None]) -> None:
    """Run `action` on module `name` right after its own code, whenever it is imported."""
    if name in sys.modules:
        action(sys.modules[name])
        return

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
            if fullname != name:
                return None
            sys.meta_path.remove(self)
            found = importlib.util.find_spec(fullname)
            if found is None or found.loader is None:
                return found
            execute = found.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                action(module)

            found.loader.exec_module = exec_module  # type: ignore[method-assign]
            return found

    sys.meta_path.insert(0, Finder())


def inject(spec: Spec) -> None:
    """Prepare what `spec` wants to be made identical in its engine."""
    spec = with_faulty_sharding(spec)
    if spec.engine == "torchprime":
        _torchprime(spec)
    elif spec.engine == "hf":
        _hugging_face(spec)


def with_faulty_sharding(spec: Spec) -> Spec:
    """The spec with the entries of its table that the fault `sharding` replaces.

    Raises KeyError where the engine takes no table from here, or the table has no such pattern.
    """
    for fault in spec.faults:
        if fault.name == "sharding":
            table = dict(spec.sharding or {})
            for pattern, axes in fault.arguments.items():
                if pattern not in table:
                    raise KeyError(f"the fault `sharding` finds no pattern {pattern} to replace")
                table[pattern] = axes
            spec = dataclasses.replace(spec, sharding=table)
    return spec


def matching(patterns: dict[str, Any], name: str) -> Any:
    """The entry of a sharding table for parameter `name`; None where no pattern matches."""
    return patterns.get(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name))


def _torchprime(spec: Spec) -> None:
    """torchprime builds its model under a default dtype, then initialises it by itself."""

    def patch(model_utils: Any) -> None:
        initialise = model_utils.initialize_model_class

        @functools.wraps(initialise)
        def initialize_model_class(config: Any) -> Any:
            model = initialise(config)
            if spec.weights is not None:
                _load(model, spec.weights)
            return model

        model_utils.initialize_model_class = initialize_model_class
        if spec.dtype not in (None, "bfloat16"):
            # train.py asserts that it was asked for bfloat16; the model is built under this.
            under = model_utils.set_default_dtype
            model_utils.set_default_dtype = lambda _: under(getattr(torch, str(spec.dtype)))

    # The module moved between the trees of June and September 2025.
    when_imported("torchprime.torch_xla_models.model.model_utils", patch)
    when_imported("torchprime.torch_xla_models.model_utils", patch)


def _load(model: torch.nn.Module, weights: str) -> None:
    """Copy Hugging Face weights into a model on the device, in the model's own dtype."""
    from safetensors.torch import load_file

    state = load_file(weights)
    dtypes = {name: p.dtype for name, p in model.named_parameters()}
    model.load_state_dict({n: t.to(dtypes.get(n, t.dtype)) for n, t in state.items()})


def _hugging_face(spec: Spec) -> None:
    """The Trainer has one mesh of its own and shards the largest dimension of each parameter."""

    def patch(trainer: Any) -> None:
        wrap = trainer.Trainer._wrap_model

        @functools.wraps(wrap)
        def _wrap_model(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
            if spec.einsum_linear:
                _einsum_linear(model)
            if spec.sharding is not None and self.model_wrapped is self.model:
                _mark(model, spec.sharding)
            return wrap(self, model, *args, **kwargs)

        trainer.Trainer._wrap_model = _wrap_model
        if spec.mesh is not None:
            init = trainer.Trainer.__init__

            @functools.wraps(init)
            def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
                with _own_mesh(dict(spec.mesh or {})):
                    init(self, *args, **kwargs)

            trainer.Trainer.__init__ = __init__

    when_imported("transformers.trainer", patch)


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


class _own_mesh:
    """While active, whatever mesh is made global is the one with these axes instead."""

    def __init__(self, axes: dict[str, int]) -> None:
        self.axes = axes

    def __enter__(self) -> None:
        import numpy as np
        import torch_xla.distributed.spmd as xs

        self.module, self.original = xs, xs.set_global_mesh
        size = int(np.prod(list(self.axes.values())))
        mesh = xs.Mesh(np.arange(size), tuple(self.axes.values()), tuple(self.axes))
        xs.set_global_mesh = lambda _: self.original(mesh)

    def __exit__(self, *exception: Any) -> None:
        self.module.set_global_mesh = self.original
