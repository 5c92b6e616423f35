"""What accelerators this machine has, without importing torch."""

from __future__ import annotations

from pathlib import Path

GOOGLE = "0x1ae0"
"""PCI vendor of TPU chips."""

# PCI device ids by which torch_xla tells chips (torch_xla/_internal/tpu.py): v2 and v3 on,
# to v7.
TPU_DEVICES = frozenset({"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"})


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
