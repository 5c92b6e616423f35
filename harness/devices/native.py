"""This machine's processor without XLA: one process of eager PyTorch, and no torch_xla imported.

Numerics of a version of a trainer are judged here in a minute, by whoever has no torch_xla: its
losses, gradients, updates and schedule. What is XLA's own is not there to be judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.base.processors import processors
from harness.devices.device import Device

PJRT = "host"
"""There is no PJRT: what the probe calls a process that computes in eager PyTorch."""

KIND = "eager CPU"

IMPORTS_XLA = "USE_TORCH_XLA"
"""transformers and accelerate both look for torch_xla, and train by it, unless this is 0
(`is_torch_xla_available`)."""


def imports_xla(environment: Mapping[str, str]) -> bool:
    """Whether a run with these variables may have torch_xla imported."""
    return environment.get(IMPORTS_XLA) != "0"


def environment(devices: int, fast_compile: bool, inherited: Mapping[str, str]) -> dict[str, str]:
    """No XLA, no GPU, and one thread, so that the order of sums is that of any other machine."""
    return {IMPORTS_XLA: "0", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def kind_of(attributes: Mapping[str, Any], accelerator_type: str | None) -> str:
    """There is one kind."""
    return KIND


DEVICE = Device(
    name="cpu-native",
    title="processor without XLA",
    pjrt=PJRT,
    environment=environment,
    count=lambda: 1,
    missing=lambda: None,
    shared=True,
    at_once=lambda devices: processors(),  # each run computes in one thread
    matmul_precision="float32",
    kind_of=kind_of,
    only_kind=KIND,
    step_time=None,
    # Measured: launches of a trainer have equal bits, of one thread.
    deterministic=frozenset({KIND}),
    host_clock="on a shared processor other processes take a part of each step",
    xla=False,
)
