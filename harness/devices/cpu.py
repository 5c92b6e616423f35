"""The CPU mesh: as many XLA devices as are asked for, made of this machine's processors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.base.processors import processors
from harness.devices.device import Device
from harness.record.termination import STARVED, Sign

FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
"""XLA flags: compilations take a quarter of the time, losses agree to seven digits, steps are as
fast as without."""

PJRT = "CPU"


def environment(devices: int, fast_compile: bool, inherited: Mapping[str, str]) -> dict[str, str]:
    """So many devices; JAX, which torch_xla imports, has to leave any accelerator alone."""
    chosen = {"PJRT_DEVICE": PJRT, "CPU_NUM_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    if fast_compile:
        chosen["XLA_FLAGS"] = f"{inherited.get('XLA_FLAGS', '')} {FAST_COMPILE}".strip()
    return chosen


def kind_of(attributes: Mapping[str, Any], accelerator_type: str | None) -> str:
    """There is one kind."""
    return PJRT


THREADS = 2
"""Devices, of all runs together, that one processor carries. Each device of a mesh is a thread that
waits for the others in every collective, for 10 s at most: two runs of four devices each, on two
processors, were seen to be ended by that limit, and one was not."""


def at_once(devices: int) -> int:
    """As many runs as have no more than THREADS devices on a processor, and one in any case."""
    return max(1, THREADS * processors() // devices)


DEVICE = Device(
    name="cpu",
    title="CPU mesh",
    pjrt=PJRT,
    environment=environment,
    count=None,
    missing=lambda: None,
    knows_slices=False,
    traces=True,
    shared=True,
    at_once=at_once,
    matmul_precision="float32",
    kind_of=kind_of,
    only_kind=PJRT,
    # Most of a step there is host tracing, on processors that are shared with everything else: who
    # wants to know asks for it.
    step_time=None,
    # Measured: launches of a trainer have equal bits. XLA:CPU reduces in a fixed order.
    deterministic=frozenset({PJRT}),
    host_clock="on a CPU mesh a step is mostly host tracing",
    signs=(
        # XLA:CPU ends the process itself, after a fixed time (rendezvous.cc).
        Sign(
            (re.compile("rendezvous"), re.compile("Termination timeout")),
            STARVED,
            "a collective of the CPU mesh waited for longer than XLA's fixed limit: this machine "
            "is too busy, the trainer is not at fault; run it again with less beside it",
        ),
    ),
)
