"""Fingerprints by other means: numpy on the host, whole numbers that cannot overflow, exact sums.

The definition is that of `harness.probe.fingerprint`, without its operations. What a device
computed is held against this (`harness.probe.known_answers`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

SKETCH_SIZE = 8
_POSITIVE = 2**31 - 1
_LOWEST_SIGN_BIT = 6
"""As in `harness.probe.fingerprint`, written down a second time: what checks it shares nothing."""


def fingerprint_of(values: NDArray[Any], patterns: NDArray[Any]) -> dict[str, Any]:
    """`bits`, `sketch` and `norm` of a tensor.

    values:   its elements, as floats that hold them exactly
    patterns: their bit patterns, as signed integers of their size; a float64 is two of int32
    """
    flat = np.asarray(values, np.float64).reshape(-1)
    hashes = _mix(_positions(flat.size))
    sketch = [
        _exact_sum(np.where(hashes & (1 << bit), -flat, flat))
        for bit in range(_LOWEST_SIGN_BIT, _LOWEST_SIGN_BIT + SKETCH_SIZE)
    ]
    with np.errstate(all="ignore"):  # what is not finite stays so, silently
        norm = math.sqrt(_exact_sum(flat * flat))
    return {"bits": _bits(patterns.reshape(-1).astype(np.int64)), "sketch": sketch, "norm": norm}


def _bits(patterns: NDArray[np.int64]) -> int:
    hashes = _mix(_positions(patterns.size))
    mixed = _mix((patterns & _POSITIVE) ^ hashes) + np.where(patterns < 0, hashes, 0)
    return int(mixed.sum()) % 2**32


def _positions(count: int) -> NDArray[np.int64]:
    return np.arange(1, count + 1, dtype=np.int64) & _POSITIVE


def _mix(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Products of numbers below 2^31 fit an int64."""
    mixed = (numbers * -1640531535) & _POSITIVE
    mixed = mixed ^ (mixed >> 15)
    mixed = (mixed * -2048144789) & _POSITIVE
    return mixed ^ (mixed >> 13)


def _exact_sum(numbers: NDArray[np.float64]) -> float:
    if np.isfinite(numbers).all():
        return math.fsum(numbers.tolist())
    with np.errstate(all="ignore"):
        return float(numbers.sum())
