"""Makes a CPU mesh pass for several slices, so that a mesh across slices can be tried on it.

Devices of a TPU say which slice they are of and where they are in it, and torch_xla orders a
`HybridMesh` by that. Those of a CPU mesh say neither: here they are cut into slices in their order.
"""

from __future__ import annotations

from typing import Any


def cut_into_slices(slices: int) -> None:
    """Give each device of a CPU mesh the index of its slice."""
    import numpy as np
    import torch_xla.distributed.spmd as xs
    import torch_xla.runtime as xr

    attributes = xr.global_runtime_device_attributes

    def with_slices() -> list[dict[str, Any]]:
        found = attributes()
        size = len(found) // slices
        return [
            {**device, "slice_index": int(device["name"].rpartition(":")[2]) // size}
            for device in found
        ]

    def in_a_row(mesh: xs.HybridMesh, devices: Any) -> Any:
        return np.array(devices).reshape(-1, 1, 1)

    xr.global_runtime_device_attributes = with_slices
    xs.HybridMesh._get_physical_tpu_mesh = in_a_row
