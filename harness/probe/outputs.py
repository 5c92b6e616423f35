"""Watches what each part of the model computes in the first forward pass of step 0.

So little is kept of an output that its memory is free again at once: the sums of a fingerprint,
which become outputs of step 0's own graph. Later steps keep their graph.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch.nn.modules import module as module_hooks

from harness.probe.fingerprint import sums
from harness.probe.parameters import canonical_name

DEPTH = 1
"""Parts of a layer that are told apart: its attention and its norms, not the matrices in them, nor
the experts, which an engine may give only the tokens that chose them. That keeps step 0 of a large
model small: five outputs a layer."""

SKETCH = 2
"""Sums of a sketch here. Which output is the first that differs is seen by orders of magnitude, and
each sum is one more pass over all outputs that the compiler has to place in step 0."""


class Outputs:
    """The outputs of the modules of one model, in the order in which they were computed."""

    def __init__(self) -> None:
        self.taken: dict[str, tuple[list[int], torch.Tensor]] = {}
        self._hook: Any = None

    def watch(self, root: torch.nn.Module) -> None:
        """Watch the forward pass of `root` that is about to begin, until `stop`."""
        # What is wrapped has the name of its wrapper, and returns before it.
        modules = root.named_modules()
        named = {id(module): canonical_name(f"{name}.").strip(".") for name, module in modules}
        names = {key: name for key, name in named.items() if name and _after_layer(name) <= DEPTH}
        thread = threading.get_ident()

        def leave(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            name = names.get(id(module))
            first = first_of(output)
            if name is None or name in self.taken or threading.get_ident() != thread:
                return
            if is_plain(first):
                self.taken[name] = (list(first.shape), sums(first, SKETCH))

        self._hook = module_hooks.register_module_forward_hook(leave)

    def stop(self) -> None:
        """No more: what comes now is a second forward pass, or a checkpoint's."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def read(self) -> list[dict[str, Any]]:
        """The fields of a `harness.record.evidence.Output` for each, and forget them."""
        taken, self.taken = self.taken, {}
        described = []
        for name, (shape, lazy) in taken.items():
            *sketch, norm = lazy.cpu().tolist()
            described.append({"name": name, "shape": shape, "sketch": sketch, "norm": norm})
        return described


def _after_layer(name: str) -> int:
    """How deep a module lies below the outermost numbered one: 0 for model.layers.3 itself."""
    parts = name.split(".")
    numbered = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return 0 if numbered is None else len(parts) - 1 - numbered


def first_of(output: Any) -> Any:
    """The first of what a module returned: of several values the one that goes on to the next."""
    return output[0] if isinstance(output, tuple | list) and output else output


def is_plain(value: Any) -> bool:
    """Whether a module's output is a tensor of numbers, and not one that only stands for them:
    functions are traced with such ones, as the body of a scan is."""
    return (
        type(value) is torch.Tensor
        and value.is_floating_point()
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)
        and torch._C._len_torch_dispatch_stack() == 0
    )
