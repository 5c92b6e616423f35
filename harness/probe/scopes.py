"""Names the operations of a compiled graph after the modules that they come from.

torch_xla writes its current scope into the HLO's metadata, which changes nothing that is computed.
Only for the run whose graph is dumped: a scope costs a Python call per module.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.modules import module as module_hooks

from harness.probe.parameters import canonical_name


def name_operations() -> None:
    """Open a scope around the forward pass of every named module."""
    import torch_xla

    names: dict[int, str] = {}
    open_scopes: list[tuple[int, Any]] = []

    def enter(module: torch.nn.Module, inputs: Any) -> None:
        if not names:
            names.update({id(m): canonical_name(n) for n, m in module.named_modules() if n})
            names[id(module)] = ""
        name = names.get(id(module))
        if name:
            scope = torch_xla._XLAC.profiler.scope_pusher(name.split(".")[-1])
            open_scopes.append((id(module), scope))

    def leave(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if open_scopes and open_scopes[-1][0] == id(module):
            open_scopes.pop()

    module_hooks.register_module_forward_pre_hook(enter)
    module_hooks.register_module_forward_hook(leave, always_call=True)
