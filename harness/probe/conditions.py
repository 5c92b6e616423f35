"""Makes a run compute like another device, so that the ladder can be tried on its numerics.

Not a fault: it belongs to the device, and both sides of a comparison have it. What a device does
differently is done in torch_xla's kernels, below autograd, so that forward and backward passes of
every trainer meet it, however their modules are written.

- bf16_products: the operands of every product of float32 matrices that asks for no precision are
  rounded to the 8 significand bits of a bfloat16, and summed in float32, as on a TPU. One that asks
  for more is left alone.
- tf32_products: the same with the 11 significand bits of TF32, as on an NVIDIA GPU.
- random_scatter: gradients of an embedding, `index_add` and `scatter_add` add in an order of their
  own in every launch, as with atomic additions: such a device does not compute alike twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from harness.base.conditions import parts_of
from harness.probe.products import DEFAULT, asked_by

Kernel = Callable[..., Any]
Change = Callable[..., tuple[Any, ...]]
"""The arguments of an operation to those that its own kernel is to get."""

SIGNIFICANDS = {"bf16_products": 8, "tf32_products": 11}
"""Significand bits of operands, the implicit one included: bfloat16 stores 7, TF32 10."""

_library: Any = None  # kernels are registered for as long as it lives


def compute_like(condition: str) -> None:
    """Change torch_xla's kernels in this process, for good."""
    global _library
    import torch_xla  # noqa: F401  # registers the kernels that are changed

    _library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():  # of kernels that are replaced
        warnings.simplefilter("ignore")
        for part in parts_of(condition):
            if part in SIGNIFICANDS:
                _round_products(SIGNIFICANDS[part])
            else:
                _scatter_in_random_order()


def _change(operation: str, change: Change, key: str = "XLA") -> Kernel:
    """Let the kernel of an operation get `change(*arguments)`; returns the kernel itself."""
    kernel = torch.library.get_kernel(f"aten::{operation}", key)

    def changed(keys: Any, *arguments: Any) -> Any:
        return kernel.call_boxed(keys, *change(*arguments))

    _library.impl(operation, changed, key, with_keyset=True, allow_override=True)
    return kernel


# --- products ---------------------------------------------------------------------------------


def _round_products(bits: int) -> None:
    def rounded(tensor: torch.Tensor) -> torch.Tensor:
        return _xla_round(bits)(tensor) if tensor.dtype == torch.float32 else tensor

    def product(x: torch.Tensor, y: torch.Tensor) -> tuple[Any, ...]:
        # XLA makes an outer product one of elements, which no device rounds.
        return (x, y) if x.dim() > 1 and x.shape[-1] == 1 else (rounded(x), rounded(y))

    narrow = _AskingForNothing()

    def where_narrow(operation: str, change: Change) -> Change:
        return lambda *arguments: change(*arguments) if narrow(operation) else arguments

    for operation in ("mm", "bmm", "mv", "dot"):
        _change(operation, where_narrow(operation, product))
    for operation in ("addmm", "baddbmm"):
        changed = where_narrow(operation, lambda added, *rest: (added, *product(*rest)))
        _change(operation, changed)

    def einsum(equation: str, operands: Sequence[torch.Tensor], *rest: Any) -> tuple[Any, ...]:
        return (equation, [rounded(operand) for operand in operands], *rest)

    _change("einsum", where_narrow("einsum", einsum))
    _round_einsum_gradients(rounded, narrow)


class _AskingForNothing:
    """Whether an operation asks for no precision, which its HLO says: see `asked_by`.

    It is asked as the first product is made, and not before: no device may be touched until the
    trainer has chosen SPMD.
    """

    def __init__(self) -> None:
        self.known: dict[str, bool] = {}
        self.asking = False  # an operation that is looked at is left alone

    def __call__(self, operation: str) -> bool:
        if self.asking:
            return False
        if operation not in self.known:
            self.asking = True
            try:
                self.known[operation] = asked_by(operation) == DEFAULT
            finally:
                self.asking = False
        return self.known[operation]


def _round_einsum_gradients(
    rounded: Callable[[torch.Tensor], torch.Tensor], narrow: Callable[[str], bool]
) -> None:
    """torch_xla lowers the gradient of an einsum in one piece, from the operands that it has seen.

    So these are rounded ahead of it, and so is the gradient that comes to it.
    """

    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
            return rounded(x)

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient

    class RoundedGradient(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
            return rounded(gradient)

    kernel = torch.library.get_kernel("aten::einsum", "AutogradXLA")

    def einsum(keys: Any, equation: str, operands: Sequence[torch.Tensor], *rest: Any) -> Any:
        if len(operands) == 1 or not narrow("einsum"):  # one operand: a sum, and no product
            return kernel.call_boxed(keys, equation, operands, *rest)
        seen = [Rounded.apply(operand) for operand in operands]
        return RoundedGradient.apply(kernel.call_boxed(keys, equation, seen, *rest))

    _library.impl("einsum", einsum, "AutogradXLA", with_keyset=True, allow_override=True)


@cache
def _xla_round(bits: int) -> Any:
    """An XLA operation that rounds float32 to `bits` significand bits, to nearest, ties to even.

    By their bit patterns: XLA drops a conversion to a narrower type and back.
    """
    import torch_xla.core.xla_builder as xb
    import torch_xla.core.xla_op_registry as registry

    dropped = 24 - bits

    def round_(x: Any) -> Any:
        def number(value: int) -> Any:
            return xb.Op.scalar(x.builder(), value, xb.Type.S32)

        pattern = x.bitcast(xb.Type.S32)
        odd = (pattern & number(2**dropped)) / number(2**dropped)  # there is no shift to be had
        nearest = pattern + number(2 ** (dropped - 1) - 1) + odd
        return (nearest & number(-(2**dropped))).bitcast(xb.Type.F32)

    return registry.register(f"parity_round_{bits}", round_)


# --- scatter-adds -----------------------------------------------------------------------------


def _scatter_in_random_order() -> None:
    generator = torch.Generator()
    generator.seed()  # anew in every launch

    @cache
    def order(count: int, device: torch.device) -> torch.Tensor:
        return torch.randperm(count, generator=generator).to(device)

    def shuffled(tensor: torch.Tensor, dimension: int) -> torch.Tensor:
        places = order(tensor.shape[dimension], tensor.device)
        return torch.index_select(tensor, dimension, places)

    def embedding(gradient: torch.Tensor, indices: torch.Tensor, *rest: Any) -> tuple[Any, ...]:
        rows = gradient.reshape(-1, gradient.shape[-1])
        return (shuffled(rows, 0), shuffled(indices.reshape(-1), 0), *rest)

    def index_add(
        x: torch.Tensor, dimension: int, index: torch.Tensor, source: torch.Tensor, *rest: Any
    ) -> tuple[Any, ...]:
        return (x, dimension, shuffled(index, 0), shuffled(source, dimension), *rest)

    def scatter_add(
        x: torch.Tensor, dimension: int, index: torch.Tensor, source: torch.Tensor
    ) -> tuple[Any, ...]:
        source = source[tuple(slice(size) for size in index.shape)]
        return (x, dimension, shuffled(index, dimension), shuffled(source, dimension))

    _change("embedding_dense_backward", embedding)
    _change("index_add", index_add)
    _change("scatter_add", scatter_add)
