"""Names the operations of a compiled graph after the modules that they come from.

torch_xla writes its current scope into the HLO's metadata, which changes nothing that is computed.
Only for the run whose graph is dumped: a scope costs a Python call per module and per node of the
backward pass.

    model/layers/1/mlp/gate_proj/aten__mm             forward
    backward/model/layers/1/mlp/gate_proj/aten__mm    backward, and what is computed again in it
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules import module as module_hooks

WRAPPERS = {"_orig_module", "_orig_mod", "module"}
"""Names under which wrappers (FSDPv2, checkpointing, compilation) hold what they wrap."""

BACKWARD = "backward"


def module_path(name: str) -> str:
    """The path of a module by its name, without wrappers.

    >>> module_path("_orig_module.model.layers.0._orig_module.mlp")
    'model/layers/0/mlp'
    """
    return "/".join(part for part in name.split(".") if part and part not in WRAPPERS)


@dataclass
class _Call:
    """A module's forward pass: its path, and the autograd nodes that were made in it."""

    module: int
    path: str
    first: int
    scope: Any


class Scopes:
    """The scopes that are open, in each thread."""

    def __init__(self, push: Callable[[str], Any], next_node: Callable[[], int]) -> None:
        self.push, self.next_node = push, next_node
        self.paths: dict[int, str] = {}
        self.local = threading.local()

    @property
    def calls(self) -> list[_Call]:
        """Modules whose forward pass this thread is in."""
        return self._mine("calls")

    @property
    def spans(self) -> list[tuple[int, int, str]]:
        """Nodes of each call that ended since the outermost began; inner calls come first."""
        return self._mine("spans")

    @property
    def labels(self) -> list[str]:
        """Paths of the backward nodes that this thread is in."""
        return self._mine("labels")

    def _mine(self, name: str) -> list[Any]:
        if not hasattr(self.local, name):
            setattr(self.local, name, [])
        mine: list[Any] = getattr(self.local, name)
        return mine

    def enter(self, module: torch.nn.Module, inputs: Any) -> None:
        """A forward pass begins."""
        if not self.calls and id(module) not in self.paths:
            self.paths.update({id(m): module_path(n) for n, m in module.named_modules()})
        path = self.paths.get(id(module))
        if path is not None:
            within = self.calls[-1].path if self.calls else (self.labels or [""])[-1]
            self.calls.append(_Call(id(module), path, self.next_node(), self.open(path, within)))

    def leave(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        """A forward pass ends. At the end of the outermost, its backward pass gets its names."""
        if not self.calls or self.calls[-1].module != id(module):
            return
        call = self.calls.pop()
        self.spans.append((call.first, self.next_node(), call.path))
        if not self.calls:
            self.name_backward(output)
            self.spans.clear()

    def open(self, path: str, within: str) -> Any:
        """A scope of what `path` adds to the one that is open; None where that is nothing."""
        if within and (path + "/").startswith(within + "/"):
            path = path[len(within) + 1 :]
        return self.push(path) if path else None

    def name_backward(self, output: Any) -> None:
        """Open a scope around each backward node of the calls that just ended."""
        begin = min(first for first, _, _ in self.spans)
        todo = [t.grad_fn for t in _tensors(output)]
        seen: set[Any] = set()
        while todo:
            node = todo.pop()
            # A parameter's node has the largest number that there is.
            if node is None or node in seen or node._sequence_nr() < begin:
                continue
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
            number = node._sequence_nr()
            path = next((p for first, last, p in self.spans if first <= number < last), None)
            if path is not None:
                self._watch(node, path)

    def _watch(self, node: Any, path: str) -> None:
        open_scopes: list[Any] = []

        def before(gradients: Any) -> None:
            name = f"{BACKWARD}/{path}" if path else BACKWARD
            open_scopes.append(self.open(path, self.labels[-1]) if self.labels else self.push(name))
            self.labels.append(path)

        def after(inputs: Any, outputs: Any) -> None:
            self.labels.pop()
            open_scopes.pop()

        node.register_prehook(before)
        node.register_hook(after)


def _tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in a module's output, however it is packed."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for part in value.values() for t in _tensors(part)]
    if isinstance(value, list | tuple):
        return [t for part in value for t in _tensors(part)]
    return []


def name_operations() -> None:
    """Open a scope around the forward and backward pass of every named module."""
    import torch_xla

    scopes = Scopes(torch_xla._XLAC.profiler.scope_pusher, torch._C._autograd._get_sequence_nr)
    module_hooks.register_module_forward_pre_hook(scopes.enter)
    module_hooks.register_module_forward_hook(scopes.leave, always_call=True)
