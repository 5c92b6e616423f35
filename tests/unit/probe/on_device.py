"""Runs in the engine's interpreter: what the probe computes on a mesh of 4 CPU devices, as JSON.

`python on_device.py OUT.json`. What is expected of it is asserted in test_fingerprint.py, by a
Python that has no torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch_xla
import torch_xla.distributed.spmd as xs
import torch_xla.runtime as xr

from harness.probe import fingerprint, known_answers
from harness.probe.expected import fingerprint_of
from harness.probe.runtime import EagerRuntime, XlaRuntime

SHAPES: list[tuple[int, ...]] = [(), (1,), (5,), (129,), (64, 32), (7, 9), (3, 4, 8), (8, 1, 5)]
SHARDED: list[tuple[tuple[int, ...], tuple[Any, ...]]] = [
    ((64, 32), ("x", None)), ((64, 32), (None, "x")), ((64, 32), ("x", "y")),
    ((6, 10), ("x", None)), ((8, 4, 6), (None, "y", "x")), ((128,), ("x",)),
]  # fmt: skip
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    values = np.random.default_rng(len(shape)).standard_normal(shape)
    return torch.tensor(values).to(dtype)


def compare(host: torch.Tensor, placed: torch.Tensor) -> dict[str, Any]:
    (found,) = fingerprint.fingerprints([placed], RUNTIME.materialise)
    patterns = host.reshape(-1).view(known_answers.PATTERNS[host.element_size()])
    expected = fingerprint_of(host.double().numpy(), patterns.numpy())
    return {"device": found, "expected": expected}


def shapes() -> Iterator[dict[str, Any]]:
    for dtype in DTYPES:
        for shape in SHAPES if dtype is torch.float32 else SHAPES[-4:-1]:
            host = tensor(shape, dtype)
            yield {"what": f"{dtype} {shape}", **compare(host, host.to(DEVICE))}
            yield {"what": f"eager {dtype} {shape}", **compare(host, host)}


def shardings() -> Iterator[dict[str, Any]]:
    for shape, spec in SHARDED:
        host = tensor(shape, torch.float32)
        placed = host.to(DEVICE)
        axes = {"x": 4} if "y" not in spec else {"x": 2, "y": 2}
        mesh = xs.Mesh(list(range(4)), tuple(axes.values()), tuple(axes))
        xs.mark_sharding(placed, mesh, spec)
        compared = compare(host, placed)
        yield {"what": f"{shape} {spec}", "sharding": RUNTIME.sharding(placed), **compared}


def graph(shape: tuple[int, ...]) -> dict[str, Any]:
    """The HLO of one tensor's fingerprint; the tensor holds no memory."""
    from torch_xla.core.xla_builder import create_placeholder_tensor

    pending = fingerprint.fingerprint(create_placeholder_tensor(list(shape), torch.bfloat16))
    outputs = [pending.floats, pending.bits]
    return {
        "bytes": len(torch_xla._XLAC._get_xla_tensors_hlo_proto(outputs)),
        "text": torch_xla._XLAC._get_xla_tensors_hlo(outputs),
    }


@contextmanager
def broken(name: str, replacement: Any) -> Iterator[None]:
    with mock.patch.object(fingerprint, name, replacement):
        yield


_mix, _bits, _positions = fingerprint._mix, fingerprint._bits, fingerprint._positions
_accumulable = fingerprint._accumulable
BREAKAGES: dict[str, tuple[str, Any]] = {
    # What a device does whose `tensor >> tensor` is 0: every sign is the same.
    "signs": ("_SIGN_BITS", [0] * 8),
    "one sign": ("_SIGN_BITS", [*fingerprint._SIGN_BITS[:7], 0]),
    "iota": ("_positions", lambda t: torch.zeros_like(_positions(t))),
    "iota that starts at 0": ("_positions", lambda t: _positions(t) - 1),
    "shift": ("_mix", lambda n: (n * -1640531535) & 0x7FFFFFFF),
    "overflow": ("_mix", lambda n: _mix(n.float().to(torch.int32) & 0x7FFFFF00)),
    "sum": ("_bits", lambda p: _bits(p) & 0x7FFFFF),
    "values rounded to bfloat16": ("_accumulable", lambda t: t.bfloat16().float()),
    "NaN taken for 0": ("_accumulable", lambda t: torch.nan_to_num(_accumulable(t))),
    "bit patterns of float32 alone": (
        "_bit_patterns", lambda t: fingerprint._xla_bitcast(4)(t.bfloat16().float()),
    ),
}  # fmt: skip


def answers(dtypes: list[torch.dtype]) -> dict[str, Any]:
    before = RUNTIME.counters()["compilations"]
    answers = known_answers.ask(RUNTIME, dtypes)
    return {**answers, "compilations": RUNTIME.counters()["compilations"] - before}


def answers_of_broken() -> Iterator[tuple[str, Any]]:
    for name, (what, replacement) in BREAKAGES.items():
        with broken(what, replacement):
            yield name, answers([torch.float32])


def updated() -> dict[str, int]:
    """How often one tensor's fingerprint is compiled anew after it was updated in place."""
    updates: dict[str, Callable[[torch.Tensor], Any]] = {
        "": lambda t: None,
        "add_": lambda t: t.add_(1.0),
        "lerp_": lambda t: t.lerp_(t + 1, 0.5),
        "addcmul_": lambda t: t.addcmul_(t, t, value=0.5),
        "addcdiv_": lambda t: t.addcdiv_(t, t, value=0.5),
    }
    found = {}
    for name, update in updates.items():
        tensor = torch.ones(11, 13).to(DEVICE)
        update(tensor)
        torch_xla.sync()
        before = RUNTIME.counters()["compilations"]
        fingerprint.fingerprints([tensor], RUNTIME.materialise)
        found[name] = RUNTIME.counters()["compilations"] - before
    return found


def of_builders() -> dict[str, Any]:
    host = torch.tensor(np.random.default_rng(5).standard_normal((16, 8)).astype(np.float32))
    to: Callable[[torch.dtype], Any] = lambda d: compare(host.to(d), host.to(d).to(DEVICE))  # noqa: E731
    return {str(d).removeprefix("torch."): to(d)["device"] for d in DTYPES[:2]}


def boundaries() -> dict[str, int]:
    """How many boundaries eager training has: at its start, and after it and two updates."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: list[None] = []
    train = torch.nn.Module.train
    EagerRuntime().on_boundary(lambda: seen.append(None))
    model.train()
    start = len(seen)
    for _ in range(2):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    torch.nn.Module.train = train
    return {"start": start, "in all": len(seen)}


if __name__ == "__main__":
    xr.use_spmd()
    RUNTIME, DEVICE = XlaRuntime(boundary=()), torch_xla.device()
    eager = known_answers.ask(EagerRuntime(), [torch.float64, torch.float32])
    output = {
        "shapes": list(shapes()),
        "shardings": list(shardings()),
        "graphs": [graph((64, 32)), graph((128256, 16384)), graph((8, 14336, 4096))],
        "known": {"xla": answers([torch.float32, torch.bfloat16]), "eager": eager},
        "broken": dict(answers_of_broken()),
        "builders": of_builders(),
        "updated": updated(),
        "boundaries": boundaries(),
    }
    with open(sys.argv[1], "w") as file:
        json.dump(output, file)
