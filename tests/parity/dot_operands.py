"""Run in an engine's interpreter: which products of one graph get rounded operands, and the sums.

`python dot_operands.py CONDITION[@PRECISION]…` prints a line of JSON for each, from a process of
its own: for each way to write a product, forward and backward: what computes the operands of each
`dot` of its HLO, the precision that it asks for, and the values; the gradients of an embedding,
whose rows are added in the order of the condition; the flags of the process; and what the probe
says that its products ask for.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch_xla
from torch_xla.distributed.spmd.xla_sharding import XLAPatchedLinear

from harness.probe.conditions import compute_like
from harness.probe.products import Products
from harness.probe.runtime import RECORDED_VARIABLES, XlaRuntime, flags

PRODUCTS: dict[str, Callable[[Any, Any], Any]] = {
    "linear": torch.nn.functional.linear,
    "linear with bias": lambda x, w: torch.nn.functional.linear(x, w, torch.ones(24).to(x.device)),
    "torchprime's linear": lambda x, w: XLAPatchedLinear.apply(x, w, None),
    "matmul": lambda x, w: x @ w.T,
    "batched matmul": lambda x, w: x.reshape(8, 16, 32) @ w.T.expand(8, 32, 24),
    "einsum": lambda x, w: torch.einsum("abc,dc->abd", x, w),
    "inner": torch.inner,
    "tensordot": lambda x, w: torch.tensordot(x, w, dims=([2], [1])),
    "einsum with an ellipsis": lambda x, w: torch.einsum("... c, d c -> ... d", x, w),
}
_LINE = re.compile(r"\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = .*? (?P<opcode>[\w\-]+)\((?P<operands>.*)")
_MOVES = {"transpose", "reshape", "broadcast", "copy"}


def operands_of_dots(hlo: str) -> list[str]:
    """The lines that compute the operands of the dots of an HLO text, what moves them apart."""
    lines = {m["name"]: m for m in map(_LINE.match, hlo.splitlines()) if m}

    def origin(name: str) -> str:
        found = lines[name]
        moved = re.findall(r"[A-Za-z][\w\-]*\.\d+", found["operands"])
        return origin(moved[0]) if found["opcode"] in _MOVES else found[0].strip()

    dots = (m for m in lines.values() if m["opcode"] == "dot")
    return [
        origin(name)
        for m in dots
        for name in re.findall(r"[A-Za-z][\w\-]*\.\d+", m["operands"].split("), ")[0])
    ]


def product(multiply: Callable[[Any, Any], Any], x: Any, w: Any) -> dict[str, Any]:
    x, w = (t.to(torch_xla.device()).requires_grad_() for t in (x, w))
    made = Products()
    y = multiply(x, w)
    y.backward(torch.full_like(y, 1.0 + 2.0**-9))  # a bfloat16 does not hold it
    tensors = [y, x.grad, w.grad]
    text = torch_xla._XLAC._get_xla_tensors_hlo(tensors)
    asked = [re.findall(r"operand_precision=\{(\w+,\w+)\}", line) for line in dots_of(text)]
    return {
        "operands": operands_of_dots(text),
        "asked": [words[0] if words else None for words in asked],
        "asking": made.asking(),
        "values": [t.detach().cpu().tolist() for t in tensors],
    }


def dots_of(hlo: str) -> list[str]:
    return [line for line in hlo.splitlines() if " dot(" in line]


def scattered() -> dict[str, Any]:
    device = torch_xla.device()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 4, (8, 64), generator=generator)
    gradient = torch.randn(8, 64, 16, generator=generator)
    table = torch.zeros(4, 16).to(device).requires_grad_()
    torch.nn.functional.embedding(tokens.to(device), table).backward(gradient.to(device))
    flat = tokens.flatten().to(device)
    rows = gradient.reshape(-1, 16).to(device)
    zeros = torch.zeros(4, 16).to(device)
    found = {
        "embedding": table.grad,
        "index_add": zeros.index_add(0, flat, rows),
        "scatter_add": zeros.scatter_add(0, flat[:, None].expand(-1, 16), rows),
    }
    return {name: tensor.cpu().tolist() for name, tensor in found.items()}


def computed(condition: str, precision: str) -> dict[str, Any]:
    XlaRuntime(()).set_precision(precision)
    if condition != "none":
        compute_like(condition)
    generator = torch.Generator().manual_seed(1)
    x, w = (torch.randn(*shape, generator=generator) for shape in ((8, 16, 32), (24, 32)))
    products = {name: product(multiply, x, w) for name, multiply in PRODUCTS.items()}
    inputs = {"x": x.tolist(), "w": w.tolist()}
    return {
        "inputs": inputs,
        "products": products,
        "scattered": scattered(),
        "flags": flags(RECORDED_VARIABLES),
    }


if __name__ == "__main__":
    for word in sys.argv[1:]:
        condition, _, precision = word.partition("@")
        child = os.fork()  # no device has been touched
        if child == 0:
            print(json.dumps(computed(condition, precision or "default")), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            sys.exit(f"{word}: its process failed")
