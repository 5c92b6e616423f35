"""TPUs, without importing torch: what chips this machine has, and what each kind can do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.devices.chips import Chip
from harness.devices.device import Device
from harness.record.outcome import BUSY, GONE, Sign

GOOGLE = "0x1ae0"
"""PCI vendor of TPU chips."""

# PCI device ids by which torch_xla tells chips (torch_xla/_internal/tpu.py): v2 and v3 on,
# to v7.
TPU_DEVICES = frozenset({"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"})

PJRT = "TPU"

GIB = 2**30

# Peak bf16 FLOP/s, HBM and bidirectional ICI bandwidth of v5e and later: the specification tables
# of Google's pages (`source`). Clocks are those at which the matrix units (MXU) that a page counts
# reach its peak: peak / (MXUs · side² · 2). v6e's page counts two MXUs of 256 × 256 in a chip; the
# bundles that libtpu compiles for it run at half of what that comes to, so that there are four.
CHIPS = {
    "tpu v4": Chip(
        275e12, 32 * GIB, 1200e9, 600e9, 1.05e9,
        "cloud.google.com/tpu/docs/v4; 6 links of 50 GB/s each way, 1050 MHz: Jouppi et al. 2023, "
        "arXiv:2304.01433, table 4",
    ),
    "tpu v5e": Chip(
        197e12, 16 * GIB, 819e9, 400e9, 1.5e9, "cloud.google.com/tpu/docs/v5e; 4 MXUs of 128 × 128"
    ),
    "tpu v5p": Chip(
        459e12, 95 * GIB, 2765e9, 1200e9, 1.75e9,
        "cloud.google.com/tpu/docs/v5p; 2 cores of 4 MXUs of 128 × 128",
    ),
    "tpu v6e": Chip(
        918e12, 32 * GIB, 1638e9, 800e9, 1.75e9, "cloud.google.com/tpu/docs/v6e"
    ),
    "tpu7x": Chip(
        2307e12, 192 * GIB, 7380e9, 1200e9, None,
        "cloud.google.com/tpu/docs/tpu7x; each of its two TensorCores is a PJRT device",
        devices=2,
    ),
}  # fmt: skip


def chip(name: str) -> Chip | None:
    """The chip that libtpu calls so ("v6e", "tpu7x"); None where it is not known here."""
    return CHIPS.get(f"tpu {name}") or CHIPS.get(name)


# What accelerator types begin with (v5litepod-16), and the kind that each is. v5e and v6e are
# called both ways, by Cloud TPU and by GKE.
KINDS = {
    "v2": "TPU v2", "v3": "TPU v3", "v4": "TPU v4", "v5litepod": "TPU v5e", "v5e": "TPU v5e",
    "v5p": "TPU v5p", "v6e": "TPU v6e", "tpu7x": "TPU7x",
}  # fmt: skip


def tpu_chips(pci: Path = Path("/sys/bus/pci/devices")) -> int:
    """Number of TPU chips that are attached to this host."""
    chips = 0
    for device in pci.glob("*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            kind = (device / "device").read_text().strip()
        except OSError:
            continue
        chips += vendor == GOOGLE and kind in TPU_DEVICES
    return chips


def why_no_tpu(pci: Path = Path("/sys/bus/pci/devices")) -> str | None:
    """Why nothing can run on a TPU here; None if something can."""
    if tpu_chips(pci):
        return None
    return (
        f"this machine has no TPU: no PCI device of vendor {GOOGLE} is in {pci}. Run on a TPU VM; "
        "the CPU mesh is what runs elsewhere (-m cpu)"
    )


def environment(devices: int, fast_compile: bool, inherited: Mapping[str, str]) -> dict[str, str]:
    """Whatever chips the VM has. Never run on a chip."""
    return {"PJRT_DEVICE": PJRT}


def is_tpu(attributes: Mapping[str, Any]) -> bool:
    """A TPU has a place on its slice (`coords`) and in its chip (`core_on_chip`)."""
    return "coords" in attributes and "core_on_chip" in attributes


def kind_of(attributes: Mapping[str, Any], accelerator_type: str | None) -> str:
    """The kind by the VM's accelerator type, where the device is a TPU by its own attributes.

    Another device, whose PJRT plugin is loaded in libtpu's place, is called by the attributes that
    it has. Nothing is made up: an accelerator type that is not known is told as it is.

    >>> kind_of({"coords": [0, 0, 0], "core_on_chip": 0}, "v5litepod-16")
    'TPU v5e'
    """
    if is_tpu(attributes):
        if not accelerator_type:
            return "TPU of unknown type"
        family = accelerator_type.partition("-")[0]
        return KINDS.get(family.lower(), f"TPU {family}")
    own = {k: v for k, v in sorted(attributes.items()) if k != "name" and isinstance(v, str)}
    told = ", ".join(f"{key} {value}" for key, value in own.items())
    return f"PJRT plugin ({told or 'without attributes'})"


DEVICE = Device(
    name="tpu",
    title="TPU chips",
    pjrt=PJRT,
    environment=environment,
    count=tpu_chips,
    missing=why_no_tpu,
    shared=False,
    # xla::PrecisionConfig::DEFAULT; torch_xla.backends.set_mat_mul_precision asks for more.
    matmul_precision="bfloat16",
    kind_of=kind_of,
    # The smallest that three launches a side confirm nearly always where launches differ by 0.6 %,
    # and six where they differ by 1 %, as on a quiet CPU mesh (docs/findings/step-time.md). By the
    # clock of a TPU they should differ by less; that was never measured.
    step_time=0.03,
    # From the environment or the VM's metadata, as torch_xla itself finds it to load libtpu.
    accelerator_type="torch_xla._internal.tpu:get_tpu_type",
    # SparseCores have planes of their own ("/device:TPU:0 SparseCore 0"): they do not run the step.
    planes=re.compile(r"/device:TPU:\d+"),
    is_own=is_tpu,
    signs=(
        # In libtpu 0.0.21, and as users saw them: jax-ml/jax#10192, google/gvisor#11545.
        Sign(
            (
                re.compile(
                    r"TPU is already in use by|libtpu\.so already in use"
                    r"|libtpu multi-process lockfile"
                    r"|open\(/dev/(vfio|accel)\S*\): Device or resource busy"
                ),
            ),
            BUSY,
            "another process has the TPU: `sudo lsof -w /dev/accel* /dev/vfio/*` names it. End it, "
            "or wait for it, and run again",
        ),
        # libtpu's session master, of a slice of which it lost a chip or a host. Not the
        # coordination service's "heartbeat timeout": a trainer that crashes on another host gives
        # that too.
        Sign(
            (
                re.compile(
                    r"SLICE_FAILURE_(CHIP_DRIVER_ERROR|WORKER_UNAVAILABLE|FLAPPING_TASK_ERROR)"
                    r"|Slice health check failed"
                ),
            ),
            GONE,
            "a chip or a host of the slice was lost while it was in use: run again on a healthy "
            "slice",
        ),
    ),
    chips=CHIPS,
)
