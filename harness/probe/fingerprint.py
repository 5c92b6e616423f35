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

The graph holds no literal, whatever the size of the tensors, and no more than one small piece of
the model is in it (`fingerprints`). Its operations are those that no device gets wrong easily: no
shift by a tensor, no shift of a negative number, signs by a mask. `harness.probe.known_answers`
has the device show that it computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

VERSION = 1
"""Raised whenever equal tensors get other numbers than before: such Records are not compared."""

SKETCH_SIZE = 8
"""Number of sign vectors: the estimate of |x - y| has a relative standard error of about
sqrt(2 / SKETCH_SIZE) / 2, a quarter."""

PIECE = 2**22
"""Elements that one graph takes in: small tensors go together, a larger tensor is alone in its
graph. What such a piece may need beside its tensors is a copy of them as fp32 and their hashes:
8 bytes an element, 32 MiB, which is 0.2 % of the 16 GB of the smallest TPU."""

_POSITIVE = 0x7FFFFFFF
_LOWEST_SIGN_BIT = 6  # the low bits of a product are the least random


@dataclass(frozen=True)
class Pending:
    """Fingerprints of one piece that may still be lazy. Row i belongs to tensor `order[i]`.

    floats: [tensors, SKETCH_SIZE + 1] float32 (float64 for such tensors), the sketch, then the norm
    bits:   [tensors] int32
    """

    floats: torch.Tensor
    bits: torch.Tensor
    order: tuple[int, ...]

    def read(self) -> dict[int, dict[str, Any]]:
        """Transfer to the host: `bits`, `sketch` and `norm` by the tensor's index."""
        floats, bits = self.floats.cpu().tolist(), self.bits.cpu().tolist()
        return {
            index: {"bits": b & 0xFFFFFFFF, "sketch": row[:-1], "norm": row[-1]}
            for index, row, b in zip(self.order, floats, bits, strict=True)
        }


def fingerprints(
    tensors: Sequence[torch.Tensor],
    sharding: Sequence[str],
    materialise: Callable[[list[torch.Tensor]], None],
) -> list[dict[str, Any]]:
    """A dict with `bits`, `sketch` and `norm` per tensor, in order; `norm` and `sketch` are floats.

    tensors:     what to take fingerprints of, on one device
    sharding:    the sharding of each, any label: only tensors of equal label share an operation
    materialise: computes lazy tensors, and nothing else that is pending
    """
    found: dict[int, dict[str, Any]] = {}
    pending = []
    for piece in pieces(tensors, sharding):
        pending.append(fingerprint_piece(tensors, piece))
        materialise([pending[-1].floats, pending[-1].bits])
    for part in pending:
        found |= part.read()
    return [found[index] for index in range(len(tensors))]


def pieces(
    tensors: Sequence[torch.Tensor], sharding: Sequence[str], size: int = PIECE
) -> Iterator[list[list[int]]]:
    """Cuts `tensors` into pieces of at most `size` elements, or of one tensor that is larger.

    A piece is lists of indices, and the tensors of one list have equal shape, dtype and sharding.
    Large tensors of one kind give one graph, which is compiled once and executed for each.
    """
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for index, (tensor, label) in enumerate(zip(tensors, sharding, strict=True)):
        kinds.setdefault((tuple(tensor.shape), tensor.dtype, label), []).append(index)
    piece: list[list[int]] = []
    room = size
    for (shape, *_), indices in kinds.items():
        elements = max(1, math.prod(shape))
        at_once = max(1, size // elements)
        for start in range(0, len(indices), at_once):
            alike = indices[start : start + at_once]
            if piece and elements * len(alike) > room:
                yield piece
                piece, room = [], size
            piece.append(alike)
            room -= elements * len(alike)
    if piece:
        yield piece


def fingerprint_piece(tensors: Sequence[torch.Tensor], piece: list[list[int]]) -> Pending:
    """Fingerprints of the tensors that `piece` names, lazily on an XLA device."""
    rows = [_fingerprint_rows(_stacked([tensors[i] for i in alike])) for alike in piece]
    order = tuple(index for alike in piece for index in alike)
    floats, bits = zip(*rows, strict=True)
    return Pending(torch.cat(floats), torch.cat(bits), order)


def norms(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """L2 norms [tensors], as in a fingerprint, lazily on an XLA device.

    Nothing is stacked but the norms: this is for tensors within the trainer's own graph.
    Raises ValueError when there are no tensors.
    """
    if not tensors:
        raise ValueError("there is nothing to take a norm of")
    return torch.cat([_norms(_accumulable(tensor.detach()[None])) for tensor in tensors])


def _stacked(tensors: list[torch.Tensor]) -> torch.Tensor:
    """[tensors, *shape]; a scalar's shape is [1]."""
    rows = torch.stack([tensor.detach() for tensor in tensors])
    return rows if rows.dim() > 1 else rows[:, None]


def _fingerprint_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Floats [n, SKETCH_SIZE + 1] and bits [n] of rows [n, *shape]."""
    values = _accumulable(rows)
    hashes = _mix(_positions(rows))
    # Sums, not a matrix product: a TPU multiplies matrices in bfloat16.
    sketch = [
        _sum(torch.where((hashes & (1 << bit)).bool(), -values, values))
        for bit in range(_LOWEST_SIGN_BIT, _LOWEST_SIGN_BIT + SKETCH_SIZE)
    ]
    return torch.stack([*sketch, _norms(values)], 1), _bits(_bit_patterns(rows))


def _bits(patterns: torch.Tensor) -> torch.Tensor:
    """Bits [n] of int32 patterns [n, *shape]. The signs go in by themselves: see `_mix`."""
    hashes = _mix(_positions(patterns))
    mixed = _mix((patterns & _POSITIVE) ^ hashes)
    # No two positions below 2^31 have the same hash: two flipped signs never cancel.
    return _sum(mixed + torch.where(patterns < 0, hashes, torch.zeros_like(hashes)))


def _norms(values: torch.Tensor) -> torch.Tensor:
    return _sum(values * values).sqrt()


def _sum(rows: torch.Tensor) -> torch.Tensor:
    """Sums [n] over rows [n, *shape], of the same dtype."""
    return rows.sum(tuple(range(1, rows.dim())), dtype=rows.dtype)


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


def _positions(rows: torch.Tensor) -> torch.Tensor:
    """1, 2, 3 … modulo 2^31, as int32 in the shape of one row, row-major."""
    if rows.device.type == "xla":
        return _xla_positions()(rows)
    count = rows[0].numel()
    positions = torch.arange(1, count + 1, device=rows.device) & _POSITIVE
    return positions.to(torch.int32).reshape(rows.shape[1:])


@cache
def _xla_positions() -> Any:
    """Positions as an XLA operation on rows: a sum of iotas, which shards like what it meets.

    torch_xla lowers `torch.arange` to a literal of 8 bytes an element.
    """
    import torch_xla.core.xla_builder as xb
    import torch_xla.core.xla_op_registry as registry

    def positions(rows: Any) -> Any:
        builder, shape = rows.builder(), rows.shape().sizes[1:]

        def number(value: int) -> Any:
            return xb.Op.scalar(builder, value, xb.Type.S32)

        total = None
        for dimension in range(len(shape)):
            stride = math.prod(shape[dimension + 1 :]) & _POSITIVE
            iota = xb.Op.iota(builder, xb.Shape.create(xb.Type.S32, shape), dimension)
            part = iota * number(stride)
            total = part if total is None else total + part
        return (total + number(1)) & number(_POSITIVE)

    return registry.register("parity_positions", positions)


def _bit_patterns(rows: torch.Tensor) -> torch.Tensor:
    """The elements' bit patterns as int32 [n, *shape]; a float64 is two of them, [n, *shape, 2]."""
    if rows.device.type == "xla":
        return _xla_bitcast(rows.element_size())(rows).to(torch.int32)
    if rows.element_size() == 2:
        return rows.contiguous().view(torch.int16).to(torch.int32)
    patterns = rows.contiguous().view(torch.int32)
    return patterns if rows.element_size() == 4 else patterns.unflatten(-1, (-1, 2))


@cache
def _xla_bitcast(element_size: int) -> Any:
    """An XLA operation that reinterprets floats as integers.

    `Tensor.view(dtype)` would do, but torch_xla runs it on the host, transfers included.
    """
    import torch_xla.core.xla_builder as xb
    import torch_xla.core.xla_op_registry as registry

    kind = {2: xb.Type.S16, 4: xb.Type.S32, 8: xb.Type.S32}[element_size]
    return registry.register(f"parity_bits_{element_size}", lambda x: x.bitcast(kind))
