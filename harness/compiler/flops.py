"""Floating-point operations of matrix products, from shapes alone."""

from __future__ import annotations

import math
import re

from harness.base.errors import BadInput
from harness.compiler.hlo_text import Array, Computation, Instruction, Module, arrays

_MATMUL_CALL = re.compile(r"matmul|gemm", re.IGNORECASE)


def flops(computation: Computation, instruction: Instruction) -> int:
    """Floating-point operations of one matrix product: 2·M·N·K, a multiplication and an addition.

    dot          2 × elements of the result × sizes of the contracted dimensions (K)
    convolution  2 × pairs of an input and a kernel element that meet; see `_convolution`. The TPU
                 compiler writes every matrix product as a convolution.
    custom call  to a library's matmul or gemm: K from the numbers of elements, since
                 (B·M·K)·(B·K·N) / (B·M·N) = B·K², with batch B the result's dimensions but the
                 last two
    """
    if instruction.opcode == "dot":
        lhs = _operand(computation, instruction, 0).dims
        contracted = _ints(instruction.attributes.get("lhs_contracting_dims", "{}"))
        return 2 * arrays(instruction.shape)[0].elements * math.prod(lhs[d] for d in contracted)
    if instruction.opcode == "convolution":
        return _convolution(computation, instruction)
    if _MATMUL_CALL.search(instruction.target):
        out = arrays(instruction.shape)[0]
        inputs = math.prod(_operand(computation, instruction, i).elements for i in (0, 1))
        outputs = out.elements * math.prod(out.dims[:-2])
        k = math.isqrt(inputs // max(1, outputs))
        if k == 0 or k * k * outputs != inputs:
            raise BadInput(
                f"The FLOPs of the custom call %{instruction.name} to {instruction.target} do "
                f"not follow from its shapes ({instruction.shape}): teach "
                "harness/compiler/flops.py what it computes."
            )
        return 2 * out.elements * k
    return 0


def product_flops(module: Module, computation: Computation, instruction: Instruction) -> int:
    """FLOPs of the matrix products of one execution of an operation and of all that it calls."""
    found = flops(computation, instruction)
    for name in instruction.calls:
        body = module.by_name[name]
        found += sum(product_flops(module, body, inner) for inner in body.instructions)
    return found


def _convolution(computation: Computation, instruction: Instruction) -> int:
    """2 × batch × output features × input features of the kernel × pairs of positions that meet.

    Positions are counted along each spatial dimension. A kernel position that falls into padding
    or between the elements of a dilated input does no work; a TPU's batched matrix product is
    such a convolution, whose kernel meets one input element in each place.
    """
    lhs, rhs = (_operand(computation, instruction, i).dims for i in (0, 1))
    out = arrays(instruction.shape)[0].dims
    inputs, kernel, output = re.split("_|->", instruction.attributes["dim_labels"])
    window = dict(
        part.split("=") for part in instruction.attributes.get("window", "{}")[1:-1].split()
    )
    spatial = [label for label in kernel if label.isdigit()]

    def along(key: str, default: str) -> list[str]:
        return window[key].split("x") if key in window else [default] * len(spatial)

    pairs = 1
    for label, stride, pad, dilate, kernel_dilate in zip(
        sorted(spatial, key=int),
        along("stride", "1"),
        along("pad", "0_0"),
        along("lhs_dilate", "1"),
        along("rhs_dilate", "1"),
        strict=True,
    ):
        pairs *= meeting_positions(
            size=lhs[inputs.index(label)],
            kernel=rhs[kernel.index(label)],
            output=out[output.index(label)],
            stride=int(stride),
            pad=int(pad.split("_")[0]),
            dilate=int(dilate),
            kernel_dilate=int(kernel_dilate),
        )
    features = rhs[kernel.index("i")]  # per group, so that grouped convolutions come out right
    return 2 * out[output.index("b")] * out[output.index("f")] * features * pairs


def meeting_positions(
    *, size: int, kernel: int, output: int, stride: int, pad: int, dilate: int, kernel_dilate: int
) -> int:
    """Pairs (output position o, kernel position k) that meet an element of the input.

    Pair (o, k) reads position p = o·stride + k·kernel_dilate - pad of the dilated input, which
    holds an element where p is a multiple of `dilate` from 0 to (size - 1)·dilate.
    """
    common = math.gcd(stride, dilate)
    period = dilate // common  # the o that hit an element, for a fixed k, are this far apart
    last = (size - 1) * dilate
    count = 0
    for k in range(kernel):
        shift = k * kernel_dilate - pad
        if shift % common:
            continue
        first = -(shift // common) * pow(stride // common, -1, period) % period
        low, high = max(0, -(shift // stride)), min(output - 1, (last - shift) // stride)
        count += max(0, (high - first) // period - (low - 1 - first) // period)
    return count


def _operand(computation: Computation, instruction: Instruction, index: int) -> Array:
    return arrays(computation.by_name[instruction.operands[index]].shape)[0]


def _ints(braces: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", braces)]
