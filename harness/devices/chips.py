"""What a chip can do at most, and the utilization that follows."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One chip's limits.

    peak_flops:     dense bf16 FLOP/s
    hbm_bytes:      capacity of its high-bandwidth memory, bytes
    hbm_bandwidth:  bytes/s
    ici_bandwidth:  bytes/s over all of its links to other chips, both directions together
    clock:          Hz of its matrix units; None where it is not published
    devices:        PJRT devices that it is: 1, or 2 where each core is a device of its own
    source:         where the numbers are from
    dcn_bandwidth:  bytes/s to chips of other slices, over the data center's network, each way; None
                    where it is not published
    """

    peak_flops: float
    hbm_bytes: float
    hbm_bandwidth: float
    ici_bandwidth: float
    clock: float | None
    source: str
    devices: int = 1
    dcn_bandwidth: float | None = None


def model_flops_utilization(
    tokens_per_second: float, flops_per_token: float, chip: Chip, devices: int
) -> float:
    """The share of the devices' peak FLOP/s that the model used (0 to 1).

    Model FLOPs utilization as PaLM defines it (Chowdhery et al. 2022, arXiv:2204.02311,
    appendix B).

    tokens_per_second: of all `devices` together, which are PJRT's
    Raises ValueError unless all numbers are finite and positive.
    """
    for name, value in (
        ("tokens_per_second", tokens_per_second),
        ("flops_per_token", flops_per_token),
        ("devices", devices),
    ):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be finite and positive, not {value}")
    return tokens_per_second * flops_per_token / (chip.peak_flops * devices / chip.devices)
