"""What a trainer reads that follows from its batch and from constants alone, computed on the host.

A step that is traced without values has those of its rows all the same: they were on the host. A
number of labels, or whether a mask masks anything, can be told from them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

KEPT = 64
"""Tensors whose values are kept, the newest: those of a few batches."""


class HostValues:
    """Values of tensors that were brought to the device, by the number of their data.

    Whole numbers and booleans alone: tokens, labels and masks, and no weights.
    """

    def __init__(self) -> None:
        self.values: OrderedDict[int, torch.Tensor] = OrderedDict()

    def keep(self, number: int, tensor: torch.Tensor) -> None:
        """The data `number` is what `tensor` holds on the host."""
        on_host = tensor.device.type not in ("meta", "xla")
        if on_host and not tensor.dtype.is_floating_point:
            self.values[number] = tensor.detach()
            while len(self.values) > KEPT:
                self.values.popitem(last=False)

    def of(self, order: Sequence[int], scalars: Mapping[int, torch.Tensor]) -> list[Any] | None:
        """Values of the arguments of a module; None where one of them is not known.

        order:   the numbers of their data
        scalars: those of them that are on the device for real, by their place in the order
        """
        found = []
        for place, number in enumerate(order):
            value = scalars.get(place, self.values.get(number))
            if value is None:
                return None
            found.append(value)
        return found


def computed(proto: bytes, arguments: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The only output of a module for `arguments`, on the host's processor.

    proto: a serialized HloModuleProto; how it would be sharded is left out
    None where the interpreter's jaxlib, which torch_xla is released with, cannot compute it.
    """
    try:
        from jaxlib import _jax, xla_client

        client = _client(xla_client)
        device = client.local_devices()[0]
        code = _jax.mlir.hlo_to_stablehlo(proto)
        devices = _jax.DeviceList((device,))
        module = client.compile_and_load(code, devices, xla_client.CompileOptions())
        buffers = [client.buffer_from_pyval(value.numpy(), device) for value in arguments]
        (output,) = module.execute(buffers)
        return torch.from_numpy(_copied(output))
    except Exception:  # of a jaxlib of another version: then the value is as unknown as any
        return None


_made: list[Any] = []


def _client(xla_client: Any) -> Any:
    """One client for all that is read."""
    if not _made:
        _made.append(xla_client.make_cpu_client())
    return _made[0]


def _copied(output: Any) -> Any:
    import numpy

    return numpy.array(output)  # a buffer of XLA's is read-only
