"""Compiled steps for tests: the facts of a real tiny step, with what a test changes of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from harness.compiler.compiled import GENERATED, CompiledModule, CompiledStep, compiled_module

DATA = Path(__file__).parent / "compiler" / "data" / "hlo"


def texts(release: str) -> dict[str, str]:
    """The files of a compilation by kind."""
    folder = DATA / f"libtpu-{release}"
    kinds = {
        "optimized": "after_optimizations_after_buffer_assignment",
        "unoptimized": "before_optimizations",
        "buffer_assignment": "after_optimizations-buffer-assignment",
        "usage_report": "after_optimizations-memory-usage-report",
    }
    return {k: next(folder.glob(f"*.{name}.txt")).read_text() for k, name in kinds.items()}


def sample_module(release: str = "0.0.52", slices: int = 1, **changes: Any) -> CompiledModule:
    """The module of the tiny linear layer."""
    outside: dict[str, Any] = {
        "code": GENERATED,
        "executions": 1,
        "seconds": 1.0,
        "compiler_bytes": 2**28,
        "devices": 4,
        "slices": slices,
    }
    graph = changes.pop("graph", {})
    files: dict[str, Any] = texts(release)
    made = compiled_module(**files, **outside)
    return dataclasses.replace(made, graph=dataclasses.replace(made.graph, **graph), **changes)


def sample_step(release: str = "0.0.52", **changes: Any) -> CompiledStep:
    """A step of that one module for v6e:2x2."""
    step = CompiledStep(
        target="v6e:2x2",
        libtpu=release,
        version="TFRT TPU v6 lite",
        flags="",
        devices=4,
        device_kind="TPU v6 lite",
        digest="abc",
        error=None,
        unknown=None,
        modules=(sample_module(release),),
    )
    return dataclasses.replace(step, **changes)
