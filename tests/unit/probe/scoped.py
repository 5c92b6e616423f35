"""Runs in the engine's interpreter: a tiny model's graph with and without scopes, as JSON.

`python scoped.py OUT.json`. What is expected of it is asserted in test_scopes.py, by a Python that
has no torch.
"""

from __future__ import annotations

import json
import re
import sys

import torch
import torch_xla
from torch_xla.utils.checkpoint import checkpoint

from harness.probe.scopes import module_path, name_operations


class Layer(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(4, 4)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.up(values)) + values


class Wrapper(torch.nn.Module):  # type: ignore[misc]
    """As FSDPv2 wraps a layer."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self._orig_module = module

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self._orig_module(values))


class Model(torch.nn.Module):  # type: ignore[misc]
    """Two layers, of which the second is computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([Wrapper(Layer()), Layer()])
        self.head = torch.nn.Linear(4, 2)

    def forward(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        values = self.layers[0](values)
        values = checkpoint(self.layers[1], values)
        return {"loss": self.head(values).sum()}


def graph() -> str:
    """The HLO of the gradients of one step."""
    torch.manual_seed(0)
    model = Model().to(torch_xla.device())
    model(torch.ones(2, 4, device=torch_xla.device()))["loss"].backward()
    gradients = [p.grad for p in model.parameters()]
    return str(torch_xla._XLAC._get_xla_tensors_hlo(gradients))


def main(out: str) -> None:
    """Write the names of operations, and both graphs without them."""
    plain = graph()
    name_operations()
    scoped = graph()
    names = sorted(set(re.findall(r'op_name="([^"]*)"', scoped)))
    bare = [re.sub(r", metadata=\{[^}]*\}|\.\d+", "", text) for text in (plain, scoped)]
    paths = [module_path(n) for n in ("", "_orig_module.model.layers.0._orig_module.mlp")]
    with open(out, "w") as stream:
        json.dump({"names": names, "same": bare[0] == bare[1], "paths": paths}, stream)


if __name__ == "__main__":
    main(sys.argv[1])
