"""A hash of a batch that can be computed from hashes of its parts.

On several hosts one trainer may load the whole batch on each, and another a part of it. Whether
both train on the same batch must not depend on how it was cut.

The hash of rows with hashes r0 … rn-1 is the polynomial r0 xⁿ⁻¹ + … + rn-1 modulo a prime. So the
hash of two batches one after the other is `first * x ** len(second) + second`. Two batches that
were not made to collide have equal hashes with a probability of 2⁻⁶¹ times their number of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

PRIME = 2**61 - 1
BASE = 0x1B8F2D4C6A97E35D % PRIME
DIGITS = 16
"""Hexadecimal digits that are kept of a SHA-256: 64 bits."""


def of_array(*arrays: np.ndarray) -> str:
    """The hash of arrays of whole numbers, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array, dtype=np.int64).tobytes())
    return digest.hexdigest()[:DIGITS]


def of_rows(rows: Iterable[str]) -> str:
    """The hash of rows, given the hexadecimal hash of each, in order."""
    return joined([(f"{int(row, 16) % PRIME:0{DIGITS}x}", 1) for row in rows])


def joined(parts: Sequence[tuple[str, int]]) -> str:
    """The hash of batches one after the other, given the hash and number of rows of each."""
    value = 0
    for part, rows in parts:
        value = (value * pow(BASE, rows, PRIME) + int(part, 16)) % PRIME
    return f"{value:0{DIGITS}x}"
