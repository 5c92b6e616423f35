"""Fingerprints whose answers are known: the device computes them before anything rests on it.

A device may compute an operation wrongly without a word: int32 `tensor >> tensor` gave 0 for every
element on an NVIDIA H200, which made every sketch of an earlier form blind to permutations. So
before step 0 the device is given a small, fixed set of tensors, by the same code as the model's
parameters, and what it answers goes into the Record beside what numpy says
(`harness.probe.expected`). Judging is the ladder's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from harness.probe.expected import fingerprint_of
from harness.probe.fingerprint import VERSION, fingerprints
from harness.probe.runtime import Runtime

ODD = (3, 43)
"""Shape of what is not sharded: an odd number of elements in both dimensions."""

WIDTH = 6
"""Elements in a row of what is sharded by rows."""

UNIT = {torch.float64: 2.0**-53}
"""Largest relative rounding error of one addition, where it is not that of a float32."""

PATTERNS = {2: torch.int16, 4: torch.int32, 8: torch.int32}
"""Integers that an element's bits are read as, by its size in bytes."""


def ask(runtime: Runtime, dtypes: Iterable[torch.dtype]) -> dict[str, Any]:
    """What goes into the Record: the version of fingerprints, and each tensor's two answers."""
    tensors = [tensor for dtype in dtypes for tensor in _tensors(dtype, runtime.devices())]
    on_device = [runtime.place(values, sharded) for _, values, sharded in tensors]
    answers = fingerprints(on_device, runtime.materialise)
    answered = [
        {"name": name, "device": answer, **_expected(values)}
        for (name, values, _), answer in zip(tensors, answers, strict=True)
    ]
    return {"version": VERSION, "tensors": answered}


def _tensors(dtype: torch.dtype, devices: int) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """Names, values on the host, and whether to shard them."""
    name = str(dtype).removeprefix("torch.")
    generator = np.random.default_rng(0)
    odd = torch.from_numpy(generator.standard_normal(ODD)).to(dtype)
    yield f"{name}, odd length", odd, False
    yield f"{name}, two elements exchanged", _exchanged(odd), False
    yield f"{name}, one bit flipped", _flipped(odd), False
    yield f"{name}, infinity", _with(odd, [math.inf]), False
    special = [math.nan, math.inf, -math.inf, 0.0, -0.0, torch.finfo(dtype).tiny / 2]
    yield f"{name}, NaN, infinities, zeros, a subnormal", _with(odd, special), False
    rows = devices * max(1, 8 // devices)
    even = torch.from_numpy(generator.standard_normal((rows, WIDTH))).to(dtype)
    sharded = devices > 1
    yield f"{name}, even length{', sharded' if sharded else ''}", even, sharded


def _exchanged(tensor: torch.Tensor) -> torch.Tensor:
    other = tensor.clone()
    other[0, 1], other[2, 2] = tensor[2, 2], tensor[0, 1]
    return other


def _flipped(tensor: torch.Tensor) -> torch.Tensor:
    patterns = tensor.clone().view(PATTERNS[tensor.element_size()])
    patterns[-1, -1] ^= 1
    return patterns.view(tensor.dtype)


def _with(tensor: torch.Tensor, values: list[float]) -> torch.Tensor:
    other = tensor.clone()
    other[1, : len(values)] = torch.tensor(values, dtype=tensor.dtype)
    return other


def _expected(tensor: torch.Tensor) -> dict[str, Any]:
    """The answer of the host, and how far rounding may take a sum over the elements from it.

    n additions, each rounded by at most u of a partial sum, in any order: n u times the sum of
    the absolute values (Higham 2002, Accuracy and Stability of Numerical Algorithms, 4.2).
    """
    values = tensor.double().numpy()
    patterns = tensor.view(PATTERNS[tensor.element_size()]).numpy()
    unit = UNIT.get(tensor.dtype, 2.0**-24)
    total = float(np.abs(values[np.isfinite(values)]).sum())
    return {"host": fingerprint_of(values, patterns), "rounding": values.size * unit * total}
