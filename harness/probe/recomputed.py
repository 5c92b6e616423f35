"""Which layers of a model are computed again in the backward pass of step 0: checkpointing."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.modules import module as module_hooks

from harness.probe.parameters import canonical_name


class Recomputed:
    """Layers whose parts are called in the first backward pass, whoever calls them.

    layers: by the name of a kind of layer, such as `model.layers.*`, how many of them; None until a
            backward pass was watched
    """

    def __init__(self) -> None:
        self.layers: dict[str, int] | None = None

    @contextlib.contextmanager
    def watched(self, root: torch.nn.Module | None) -> Iterator[None]:
        """Watch a backward pass of `root`, if none was watched yet."""
        if root is None or self.layers is not None:
            yield
            return
        named = {id(module): layer_of(name) for name, module in root.named_modules()}
        found: set[str] = set()

        def called(module: torch.nn.Module, inputs: Any) -> None:
            # On whatever thread: autograd has one of its own for an XLA device.
            if layer := named.get(id(module)):
                found.add(layer)

        hook = module_hooks.register_module_forward_pre_hook(called)
        try:
            yield
        finally:
            hook.remove()
            self.layers = dict(Counter(f"{layer.rpartition('.')[0]}.*" for layer in found))


def layer_of(name: str) -> str:
    """The numbered module that a module is, or lies in: `model.layers.3` of one of its norms; ""
    for none."""
    parts = canonical_name(f"{name}.").strip(".").split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "" if number is None else ".".join(parts[: number + 1])
