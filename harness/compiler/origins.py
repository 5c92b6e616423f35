"""Where an operation comes from, out of the metadata that torch_xla writes into a module."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import groupby

from harness.compiler.hlo_text import Instruction, Module

_OPERATION = re.compile(r"(aten|xla|prim|torch_xla)__")
_CLASS = re.compile(r"[A-Z]")
_FUNCTION = re.compile(r"einsum_linear_(forward|backward)")
"""What torch_xla calls the two halves of its own linear layer (`XLAPatchedLinear`)."""
_LAYER = re.compile(r"(?<=[./_])\d+(?=[./_]|$)")


def origin(instruction: Instruction) -> str:
    """Where an instruction comes from, free of what changes between runs and machines.

    torch_xla numbers each scope ("LlamaMLP.7/aten__mm"), and a source path depends on where a
    package is installed.
    """
    metadata = instruction.attributes.get("metadata", "")
    op_name = _metadata(metadata, "op_name")
    *scopes, operation = op_name.split("/")
    if scopes:
        return "/".join([*(re.sub(r"\.\d+$", "", scope) for scope in scopes), operation])
    source = "/".join(_metadata(metadata, "source_file").split("/")[-2:])
    return f"{operation} ({source})" if operation and source else operation or source


UNNAMED = "(unnamed)"
"""Path of what does not say where it comes from."""

DATA = "xla__device_data"
"""What torch_xla calls an argument of a module. A gather of a weight is called so, too."""


class Consumers:
    """What instructions are for, where they do not say where they come from."""

    def __init__(self, module: Module) -> None:
        self.users: dict[str, list[Instruction]] = defaultdict(list)
        for computation in module.computations:
            for instruction in computation.instructions:
                for operand in instruction.operands:
                    self.users[operand].append(instruction)

    def origin(self, instruction: Instruction) -> str:
        """The origin of the nearest instruction that uses this one's result and has one.

        That of the weight's update is as near as that of the layer that multiplies with it: one
        within a module of the model is preferred.
        """
        seen, edge = {instruction.name}, [instruction]
        unnamed = ""
        while edge:
            found = [o for i in edge if (o := origin(i)) and o.rpartition("/")[2] != DATA]
            if within := next((o for o in found if module_path(o) != o), None):
                return within
            unnamed = unnamed or next(iter(found), "")
            users = [user for i in edge for user in self.users[i.name]]
            edge = [u for u in {u.name: u for u in users}.values() if u.name not in seen]
            seen |= {u.name for u in edge}
        return unnamed or origin(instruction)


def _metadata(metadata: str, key: str) -> str:
    match = re.search(rf'\b{key}="((?:[^"\\]|\\.)*)"', metadata)
    return match[1] if match else ""


def module_path(op_name: str) -> str:
    """The module that an operation belongs to, with the number of its layer as "*".

    Scopes that are called after a class, as torchprime opens them beside those of the probe, are
    left out. An operation without a module stays as it is, so that it still says something.

    >>> module_path("LlamaForCausalLM/model/layers/3/mlp/up_proj/aten__mm")
    'model/layers/*/mlp/up_proj'
    >>> module_path("aten__mm (autograd/graph.py)")
    'aten__mm (autograd/graph.py)'
    """
    if "/" not in op_name.partition(" (")[0]:
        return op_name
    parts = op_name.split("/")
    scopes = [p for p in parts[:-1] if not (_OPERATION.match(p) or _FUNCTION.fullmatch(p))]
    named = [part for part in scopes if not _CLASS.match(part)]
    path = "/".join(part for part, _ in groupby(named))  # torchprime names linear layers again
    return _LAYER.sub("*", path or parts[-1])
