"""Hand-written kernels (Pallas, Mosaic) by themselves.

libtpu estimates no cycles of a kernel. Its machine code is made by the kernel's author: compiled
alone, it takes seconds, and its bundles can be counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.compiler.hlo_text import Computation, Instruction, Module
from harness.compiler.schedule import KERNEL, scheduled

_TILING = re.compile(r":[^{}]*\}")


def kernels(module: Module) -> Iterator[tuple[Computation, Instruction]]:
    """The kernels that a module executes."""
    for computation in scheduled(module):
        for instruction in computation.instructions:
            if instruction.target == KERNEL:
                yield computation, instruction


def alone(computation: Computation, kernel: Instruction) -> str:
    """The text of a module that executes nothing but a kernel, on arrays of the same layout."""
    shapes = [_untiled(computation.by_name[name].shape) for name in kernel.operands]
    parameters = [f"  p{n} = {shape} parameter({n})" for n, shape in enumerate(shapes)]
    arguments = ", ".join(f"p{n}" for n in range(len(shapes)))
    kept = {k: v for k, v in kernel.attributes.items() if k not in ("metadata", "sharding")}
    attributes = "".join(f", {key}={value}" for key, value in kept.items())
    call = f"  ROOT k = {_untiled(kernel.shape)} custom-call({arguments}){attributes}"
    return "\n".join(["HloModule kernel", "", "ENTRY main {", *parameters, call, "}", ""])


def _untiled(shape: str) -> str:
    """A shape with its layout, and without what the compiler chooses: tiles and memory space."""
    return _TILING.sub("}", shape)
