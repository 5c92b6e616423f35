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
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

SKETCH_SIZE = 8
"""Number of sign vectors: the estimate of |x - y| has a relative standard error of about
sqrt(2 / SKETCH_SIZE) / 2, a quarter."""

_POSITIVE = 0x7FFFFFFF
_LOWEST_SIGN_BIT = 6  # the low bits of a product are the least random


@dataclass(frozen=True)
class Pending:
    """Fingerprints that may still be lazy. Row i belongs to tensor `order[i]`.

    floats: [tensors, SKETCH_SIZE + 1] float32 (float64 for such tensors), the sketch, then the norm
    bits:   [tensors] int32
    """

    floats: torch.Tensor
    bits: torch.Tensor
    order: tuple[int, ...]

    def read(self) -> list[dict[str, Any]]:
        """Transfer to the host: a dict with `bits`, `sketch` and `norm` per tensor, in order."""
        floats, bits = self.floats.cpu().tolist(), self.bits.cpu().tolist()
        rows = {
            index: {"bits": b & 0xFFFFFFFF, "sketch": row[:-1], "norm": row[-1]}
            for index, row, b in zip(self.order, floats, bits, strict=True)
        }
        return [rows[index] for index in sorted(rows)]


def fingerprint(tensors: Sequence[torch.Tensor], sharding: Sequence[str] | None = None) -> Pending:
    """Fingerprints of `tensors`, lazily on an XLA device.

    Tensors of equal shape, dtype and `sharding` (any label, one per tensor) are stacked, so that
    the graph grows with the number of kinds of tensors and not with the number of layers.
    Raises ValueError when there are no tensors.
    """
    if not tensors:
        raise ValueError("there is nothing to take a fingerprint of")
    floats, bits, order = [], [], []
    for indices, rows in _stacked(tensors, sharding):
        group_floats, group_bits = _fingerprint_rows(rows)
        floats.append(group_floats)
        bits.append(group_bits)
        order += indices
    return Pending(torch.cat(floats), torch.cat(bits), tuple(order))


def norms(
    tensors: Sequence[torch.Tensor], sharding: Sequence[str] | None = None
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """L2 norms [tensors], as in a fingerprint and as lazily; entry i belongs to `order[i]`.

    Raises ValueError when there are no tensors.
    """
    if not tensors:
        raise ValueError("there is nothing to take a norm of")
    groups = list(_stacked(tensors, sharding))
    values = torch.cat([_norms(rows if rows.dtype == torch.float64 else rows.float())[:, 0]
                        for _, rows in groups])  # fmt: skip
    return values, tuple(index for indices, _ in groups for index in indices)


def _stacked(
    tensors: Sequence[torch.Tensor], sharding: Sequence[str] | None
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Indices and flat rows of the tensors of each kind."""
    labels = sharding or [""] * len(tensors)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, (tensor, label) in enumerate(zip(tensors, labels, strict=True)):
        groups.setdefault((tuple(tensor.shape), tensor.dtype, label), []).append(index)
    for indices in groups.values():
        yield indices, torch.stack([tensors[i].detach().reshape(-1) for i in indices])


def _norms(values: torch.Tensor) -> torch.Tensor:
    return (values * values).sum(1, keepdim=True).sqrt()


def _fingerprint_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Floats [rows, SKETCH_SIZE + 1] and bits [rows] of a matrix whose rows are flat tensors."""
    values = rows if rows.dtype == torch.float64 else rows.float()
    hashes = _position_hashes(rows.shape[1], rows.device)
    shifts = torch.arange(SKETCH_SIZE, dtype=torch.int32, device=rows.device) + _LOWEST_SIGN_BIT
    signs = 1 - 2 * ((hashes >> shifts[:, None]) & 1)
    # A product and a sum, not a matrix product: a TPU multiplies matrices in bfloat16.
    sketch = (values[:, None, :] * signs.to(values.dtype)).sum(2)
    return torch.cat([sketch, _norms(values)], 1), _bits(_bit_patterns(rows))


def _bits(patterns: torch.Tensor) -> torch.Tensor:
    """Bits [rows] of int32 patterns [rows, n]. The signs go in by themselves: see `_mix`."""
    hashes = _position_hashes(patterns.shape[1], patterns.device)
    mixed = _mix((patterns & _POSITIVE) ^ hashes)
    # No two positions below 2^31 have the same hash: two flipped signs never cancel.
    return (mixed + torch.where(patterns < 0, hashes, 0)).sum(1, dtype=torch.int32)


def _position_hashes(length: int, device: torch.device) -> torch.Tensor:
    """A pseudo-random positive int32 for each position, another one for each."""
    return _mix(torch.arange(1, length + 1, dtype=torch.int32, device=device))


def _mix(numbers: torch.Tensor) -> torch.Tensor:
    """A one-to-one, pseudo-random map of the non-negative int32 onto themselves.

    Kept below 2^31: torch_xla's right shift of a negative number rounds otherwise than torch's.
    """
    mixed = (numbers * -1640531535) & _POSITIVE
    mixed = mixed ^ (mixed >> 15)
    mixed = (mixed * -2048144789) & _POSITIVE
    return mixed ^ (mixed >> 13)


def _bit_patterns(rows: torch.Tensor) -> torch.Tensor:
    """The elements' bit patterns as int32; a float64 is two of them."""
    if rows.device.type == "xla":
        return _xla_bitcast(rows.element_size())(rows).to(torch.int32)
    if rows.element_size() == 2:
        return rows.contiguous().view(torch.int16).to(torch.int32)
    return rows.contiguous().view(torch.int32)


@cache
def _xla_bitcast(element_size: int) -> Any:
    """An XLA operation that reinterprets floats as integers.

    `Tensor.view(dtype)` would do, but torch_xla runs it on the host, transfers included.
    """
    import torch_xla.core.xla_builder as xb
    import torch_xla.core.xla_op_registry as registry

    kind = {2: xb.Type.S16, 4: xb.Type.S32}[element_size]
    return registry.register(f"parity_bits_{element_size}", lambda x: x.bitcast(kind))
