"""Order-sensitive fingerprints of many tensors, computed where the tensors live.

Two numbers a tensor would be enough to see that tensors differ; these say by how much:

- `bits`: the sum over all positions of a hash of the position and of the bit pattern there, modulo
  2^32. Integer sums do not depend on the order of summation, so equal tensors have equal bits under
  any sharding, and unequal ones have unequal bits but for one chance in about 2^31.
- `sketch`: K sums of the elements, each under its own pseudo-random signs. For two tensors x and
  y, the mean over k of (sketch_k(x) - sketch_k(y))^2 is an unbiased estimate of |x - y|^2
  (Alon, Matias, Szegedy 1996, "tug of war"). It is linear, so the sketch of an update is the
  difference of two sketches, and it sees every permutation.
- `norm`: the L2 norm, accumulated in fp32.

A position is the element's index in row-major order, as an int32. It is computed in the tensor's
own shape, so that a sharded tensor is neither reshaped nor gathered. A tensor of more than 2^31
elements has positions 2^31 apart that share a hash: that two such elements changed places would
not be seen.

Every tensor has a graph of its own: it holds no literal, whatever the size of the tensor, and
tensors of one shape, dtype and sharding share one compilation. For that, every sum names its dtype:
without one, torch_xla 2.9 hashes a sum by the operation that its tensor came from, and compiles the
same graph again for what `addcmul_` or `addcdiv_` has updated. Its operations are those that no
device gets wrong easily: no shift by a tensor, no shift of a negative number, signs by a mask.
`harness.probe.known_answers` has the device show that it computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

VERSION = 1
"""Raised whenever equal tensors get other numbers than before: such Records are not compared."""

SKETCH_SIZE = 8
"""Number of sign vectors: the estimate of |x - y| has a relative standard error of about
sqrt(2 / SKETCH_SIZE) / 2, a quarter."""

_POSITIVE = 0x7FFFFFFF  # all bits of an int32 but its sign
_SIGN_BITS = [1 << bit for bit in range(6, 6 + SKETCH_SIZE)]
"""Bits of a position's hash that are signs: the lowest bits of a product are the least random."""


@dataclass(frozen=True)
class Pending:
    """The fingerprint of one tensor, which may still be lazy.

    floats: [SKETCH_SIZE + 1] float32 (float64 for such a tensor), the sketch, then the norm
    bits:   scalar int32
    """

    floats: torch.Tensor
    bits: torch.Tensor

    def read(self) -> dict[str, Any]:
        """Transfer to the host: `bits`, `sketch` and `norm`."""
        *sketch, norm = self.floats.cpu().tolist()
        return {"bits": self.bits.cpu().item() & 0xFFFFFFFF, "sketch": sketch, "norm": norm}


def fingerprints(
    tensors: Sequence[torch.Tensor], materialise: Callable[[list[torch.Tensor]], None]
) -> list[dict[str, Any]]:
    """A dict with `bits`, `sketch` and `norm` per tensor, in order.

    materialise: computes lazy tensors, and nothing else that is pending
    """
    pending = []
    for tensor in tensors:
        pending.append(fingerprint(tensor))
        materialise([pending[-1].floats, pending[-1].bits])
    return [each.read() for each in pending]


def fingerprint(tensor: torch.Tensor) -> Pending:
    """The fingerprint of a tensor of any shape, lazily on an XLA device."""
    tensor = tensor.detach()
    tensor = tensor if tensor.dim() else tensor.reshape(1)
    return Pending(sums(tensor), _bits(_bit_patterns(tensor)))


def sums(tensor: torch.Tensor, size: int = SKETCH_SIZE) -> torch.Tensor:
    """The sketch of a tensor and its norm, without its bits: [size + 1], as lazily."""
    values = _accumulable(tensor.detach())
    hashes = _mix(_positions(tensor))
    # Sums, not a matrix product: a TPU multiplies matrices in bfloat16. Eight of them, not one over
    # a dimension of eight: the TPU's compiler writes that out, 1.5 GB for an embedding on 4 chips.
    sketch = [
        torch.where((hashes & bit).bool(), -values, values).sum(dtype=values.dtype)
        for bit in _SIGN_BITS[:size]
    ]
    return torch.stack([*sketch, norm(tensor)])


def norm(tensor: torch.Tensor) -> torch.Tensor:
    """The L2 norm, as in a fingerprint and as lazily; a scalar."""
    values = _accumulable(tensor.detach())
    return (values * values).sum(dtype=values.dtype).sqrt()


def _bits(patterns: torch.Tensor) -> torch.Tensor:
    """Bits of int32 patterns. The signs go in by themselves: see `_mix`."""
    hashes = _mix(_positions(patterns))
    mixed = _mix((patterns & _POSITIVE) ^ hashes)
    # No two positions below 2^31 have the same hash: two flipped signs never cancel.
    signs = torch.where(patterns < 0, hashes, torch.zeros_like(hashes))
    return (mixed + signs).sum(dtype=torch.int32)


def _accumulable(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _mix(numbers: torch.Tensor) -> torch.Tensor:
    """A one-to-one, pseudo-random map of the non-negative int32 onto themselves.

    Kept below 2^31: torch_xla's right shift of a negative number rounds otherwise than torch's.
    """
    mixed = (numbers * -1640531535) & _POSITIVE
    mixed = mixed ^ (mixed >> 15)
    mixed = (mixed * -2048144789) & _POSITIVE
    return mixed ^ (mixed >> 13)


def _positions(tensor: torch.Tensor) -> torch.Tensor:
    """1, 2, 3 … modulo 2^31, as int32 in the shape of `tensor`, row-major."""
    if tensor.device.type == "xla":
        return _xla_positions()(tensor)
    positions = torch.arange(1, tensor.numel() + 1, device=tensor.device) & _POSITIVE
    return positions.to(torch.int32).reshape(tensor.shape)


@cache
def _xla_positions() -> Any:
    """Positions as an XLA operation: a sum of iotas, which is sharded like what it meets.

    torch_xla lowers `torch.arange` to a literal of 8 bytes an element.
    """
    import torch_xla.core.xla_builder as xb
    import torch_xla.core.xla_op_registry as registry

    def positions(tensor: Any) -> Any:
        builder, shape = tensor.builder(), tensor.shape().sizes

        def number(value: int) -> Any:
            return xb.Op.scalar(builder, value, xb.Type.S32)

        total = number(1)
        for dimension in range(len(shape)):
            stride = math.prod(shape[dimension + 1 :]) & _POSITIVE
            iota = xb.Op.iota(builder, xb.Shape.create(xb.Type.S32, shape), dimension)
            total = total + iota * number(stride)
        return total & number(_POSITIVE)

    return registry.register("parity_positions", positions)


def _bit_patterns(tensor: torch.Tensor) -> torch.Tensor:
    """The elements' bit patterns as int32; a float64 is two of them, in a last dimension of 2."""
    if tensor.device.type == "xla":
        return _xla_bitcast(tensor.element_size())(tensor).to(torch.int32)
    if tensor.element_size() == 2:
        return tensor.contiguous().view(torch.int16).to(torch.int32)
    patterns = tensor.contiguous().view(torch.int32)
    return patterns if tensor.element_size() == 4 else patterns.unflatten(-1, (-1, 2))


@cache
def _xla_bitcast(element_size: int) -> Any:
    """An XLA operation that reinterprets floats as integers.

    `Tensor.view(dtype)` would do, but torch_xla runs it on the host, transfers included.
    """
    import torch_xla.core.xla_builder as xb
    import torch_xla.core.xla_op_registry as registry

    kind = {2: xb.Type.S16, 4: xb.Type.S32, 8: xb.Type.S32}[element_size]
    return registry.register(f"parity_bits_{element_size}", lambda x: x.bitcast(kind))
