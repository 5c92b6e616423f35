"""What the probe needs to know of the device: one class for torch_xla, one for eager PyTorch."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from harness.probe.functions import Function, wrap
from harness.probe.products import Products, carry_into_einsum

PROBED_PACKAGES = (
    "torch", "torch_xla", "libtpu", "jax", "numpy", "transformers", "accelerate", "tokenizers",
    "datasets", "huggingface_hub", "safetensors", "hydra-core", "torchax",
)  # fmt: skip
OF_XLA = {"torch_xla", "libtpu", "jax", "torchax"}
"""Those of them that compute nothing where torch_xla is not imported."""
TOLD_OTHERWISE = ("TPU_LIBRARY_PATH", "TPU_ML_PLATFORM", "TPU_ML_PLATFORM_VERSION")
"""Variables that importing libtpu and torch_xla sets: where libtpu is, and torch_xla's name and
version. `versions` has both already."""
RECORDED_VARIABLES = ("XLA_", "PJRT_", "LIBTPU_", "CPU_NUM_DEVICES", "TPU_", "MEGASCALE_NUM_SLICES")
EAGER_VARIABLES = ("USE_TORCH_XLA", "OMP_NUM_THREADS", "MKL_", "ONEDNN_", "ATEN_CPU_CAPABILITY")
"""Beginnings of names of variables that can change what is computed, through XLA and without."""


class Runtime(Protocol):
    """The device side of a process, as far as a probe is concerned."""

    def set_precision(self, precision: str) -> None:
        """Ask for a matmul precision; "default" leaves it as it is."""

    def on_boundary(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever the trainer itself has sent its pending work to the device."""

    def can_execute(self) -> bool:
        """False while the trainer traces one full graph and nothing may be executed."""

    def wait(self) -> None:
        """Block until the device has done all that it was given."""

    def materialise(self, tensors: list[torch.Tensor]) -> None:
        """Compute these tensors, and nothing else that is pending."""

    def counters(self) -> dict[str, Any]:
        """Totals since the start: compilations and their seconds, executions, transfers, fallbacks
        by name."""

    def graphs_sent(self) -> int:
        """Graphs that were given to the device since the start, whoever asked for it."""

    def hold(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """What to keep to read this tensor later; None where keeping it would change the graph."""

    def to_host(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """Tensors that were held, on the host."""

    def generator(self) -> str | None:
        """State of the device's own random number generator; None where it has none."""

    def sharding(self, tensor: torch.Tensor) -> str:
        """The sharding annotation of a live tensor, "" for none."""

    def devices(self) -> int:
        """Number of devices that a tensor can be sharded over."""

    def place(self, tensor: torch.Tensor, sharded: bool) -> torch.Tensor:
        """A host's tensor on the device, its first dimension over all devices if `sharded`."""

    def start_profile(self, folder: str) -> None:
        """Begin to record what the device does."""

    def stop_profile(self) -> None:
        """End the profile, and write it under its folder."""

    def process(self) -> tuple[int, int]:
        """This process's index among all, and their number."""

    def describe(self) -> dict[str, Any]:
        """Device kind and count, processes and mesh; versions and variables that count here."""


class XlaRuntime:
    """torch_xla: lazy tensors, counted by its metrics.

    boundary:         names of the functions that send pending work to the device
    accelerator_type: MODULE:FUNCTION that tells the machine's accelerator type; None for none

    Each method is what `Runtime` says of it.
    """

    def __init__(self, boundary: tuple[str, ...], accelerator_type: str | None = None) -> None:
        import torch_xla
        import torch_xla.core.xla_model as xm
        import torch_xla.debug.metrics as metrics

        self._xla, self._xm, self._metrics = torch_xla, xm, metrics
        self._boundary = boundary
        self._type = accelerator_type

    def set_precision(self, precision: str) -> None:
        if precision != "default":
            from torch_xla.backends import set_mat_mul_precision

            set_mat_mul_precision(precision)
            carry_into_einsum(precision)
        self._products = Products()

    def on_boundary(self, callback: Callable[[], None]) -> None:
        def watched(original: Function) -> Function:
            def sync(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                callback()
                return result

            return sync

        wrap(self._boundary, watched)

    def can_execute(self) -> bool:
        return bool(self._xla._XLAC._get_allow_execution())

    def wait(self) -> None:
        self._xm.wait_device_ops()

    def materialise(self, tensors: list[torch.Tensor]) -> None:
        # Not a step marker: that would advance the seed of dropout masks.
        self._xla._XLAC._xla_sync_multi(tensors, [], True)

    def counters(self) -> dict[str, Any]:
        executions = self._metrics.metric_data("ExecuteReplicatedTime")
        transfers = self._metrics.metric_data("TransferFromDeviceTime")
        names = [n for n in self._metrics.counter_names() if n.startswith("aten::")]
        compiling = self._metrics.metric_data("CompileTime")
        return {
            "compilations": self._metrics.counter_value("UncachedCompile") or 0,
            "compile_seconds": compiling[1] / 1e9 if compiling else 0.0,
            "executions": executions[0] if executions else 0,
            "transfers": transfers[0] if transfers else 0,
            "fallbacks": {name: self._metrics.counter_value(name) or 0 for name in names},
        }

    def graphs_sent(self) -> int:
        # Counted as a graph is given to the device. The counters of executions come later, from
        # the threads that wait for them.
        counted = (self._metrics.counter_value(n) for n in ("UncachedCompile", "CachedCompile"))
        return sum(count or 0 for count in counted)

    def hold(self, tensor: torch.Tensor) -> torch.Tensor | None:
        if tensor.device.type != "xla":
            return tensor.detach().clone()
        # What is still to be computed would be one more output of the graph, and what is donated
        # would be gone.
        lazy = self._xla._XLAC._check_tensor_need_materialization([tensor])[0]
        return None if lazy or self._xla._XLAC._get_buffer_donation(tensor) else tensor

    def to_host(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self._assembled(t) if self.sharding(t) else t.cpu() for t in tensors]

    def _assembled(self, tensor: torch.Tensor) -> torch.Tensor:
        """A sharded tensor out of its shards. `cpu()` would compile a program that gathers it."""
        if self.process()[1] > 1:
            return tensor.cpu()  # other hosts have shards of it
        (shards,) = self._xla._XLAC._get_local_shards([tensor])
        (places,) = self._xla._XLAC._get_local_shard_replica_and_indices([tensor])
        whole = torch.empty(tensor.shape, dtype=tensor.dtype)
        for (shard, _), (_, indices) in zip(shards, places, strict=True):
            if indices is Ellipsis:
                return shard  # each device has all of it
            # The last shard is padded to the size of the others.
            whole[tuple(indices)] = shard[tuple(slice(0, i.stop - i.start) for i in indices)]
        return whole

    def generator(self) -> str | None:
        return str(self._xm.get_rng_state())

    def sharding(self, tensor: torch.Tensor) -> str:
        return str(self._xla._XLAC._get_xla_sharding_spec(tensor))

    def devices(self) -> int:
        import torch_xla.runtime as xr

        return xr.global_runtime_device_count() if xr.is_spmd() else 1

    def place(self, tensor: torch.Tensor, sharded: bool) -> torch.Tensor:
        import torch_xla.distributed.spmd as xs

        on_device = tensor.to(self._xla.device())
        if sharded:
            devices = self.devices()
            mesh = xs.Mesh(list(range(devices)), (devices,), ("all",))
            xs.mark_sharding(on_device, mesh, ("all", *[None] * (tensor.dim() - 1)))
        return on_device

    def start_profile(self, folder: str) -> None:
        import torch_xla.debug.profiler as profiler

        profiler.start_trace(folder)

    def stop_profile(self) -> None:
        import torch_xla.debug.profiler as profiler

        profiler.stop_trace()

    def process(self) -> tuple[int, int]:
        import torch_xla.runtime as xr

        return xr.process_index(), xr.process_count()

    def describe(self) -> dict[str, Any]:
        import torch_xla.distributed.spmd as xs
        import torch_xla.runtime as xr

        mesh = xs.get_global_mesh()
        attributes = xr.global_runtime_device_attributes()
        # What kind that is, the harness says: it knows the devices.
        return {
            "device": xr.device_type(),
            "device_kind": xr.device_type(),
            "attributes": attributes[0] if attributes else {},
            "accelerator_type": called(self._type) if self._type else None,
            "devices": xr.global_runtime_device_count(),
            "processes": self.process()[1],
            "process": self.process()[0],
            "matmul_precision": matmul_precision(),
            "products": self._products.asking(),
            "versions": versions(PROBED_PACKAGES),
            "flags": flags(RECORDED_VARIABLES),
            "mesh": None
            if mesh is None
            else {
                "axes": dict(zip(mesh.axis_names, mesh.mesh_shape, strict=True)),
                "device_order": [int(i) for i in mesh.device_ids],
            },
        }


class EagerRuntime:
    """Eager PyTorch on the host: every value is there as soon as it is asked for."""

    def set_precision(self, precision: str) -> None:
        if precision != "default":
            torch.set_float32_matmul_precision(precision)

    def on_boundary(self, callback: Callable[[], None]) -> None:
        # Nothing is lazy: a finished step is a boundary, and so is the start of training.
        train, inside = torch.nn.Module.train, False

        def watched(module: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
            nonlocal inside
            if inside:  # a module calls this of each of its own, which is one start of training
                return train(module, mode)
            callback()
            inside = True
            try:
                return train(module, mode)
            finally:
                inside = False

        torch.nn.Module.train = watched  # type: ignore[method-assign,assignment]
        register_optimizer_step_post_hook(lambda *_: callback())

    def can_execute(self) -> bool:
        return True

    def wait(self) -> None:
        return None

    def materialise(self, tensors: list[torch.Tensor]) -> None:
        return None

    def counters(self) -> dict[str, Any]:
        return {
            "compilations": 0, "compile_seconds": 0.0, "executions": 0, "transfers": 0,
            "fallbacks": {},
        }  # fmt: skip

    def graphs_sent(self) -> int:
        return 0

    def hold(self, tensor: torch.Tensor) -> torch.Tensor | None:
        return tensor.detach().clone()

    def to_host(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return tensors

    def generator(self) -> str | None:
        return None

    def sharding(self, tensor: torch.Tensor) -> str:
        return ""

    def devices(self) -> int:
        return 1

    def place(self, tensor: torch.Tensor, sharded: bool) -> torch.Tensor:
        return tensor

    def start_profile(self, folder: str) -> None:
        return None

    def stop_profile(self) -> None:
        return None

    def process(self) -> tuple[int, int]:
        return 0, 1

    def describe(self) -> dict[str, Any]:
        return {
            "device": "host",
            "device_kind": "host",
            "attributes": {"instructions": torch.backends.cpu.get_cpu_capability()},
            "devices": 1,
            "processes": 1,
            "process": 0,
            "matmul_precision": torch.get_float32_matmul_precision(),
            # Of what is installed and not imported nothing is computed.
            "versions": versions(p for p in PROBED_PACKAGES if p not in OF_XLA or p in sys.modules),
            "flags": flags(EAGER_VARIABLES),
            "mesh": None,
        }


def matmul_precision() -> str | None:
    """What torch_xla asks of products of float32 matrices; None for one that cannot be asked."""
    try:
        from torch_xla.backends import get_mat_mul_precision
    except ImportError:  # before torch_xla 2.8
        return None
    return str(get_mat_mul_precision())


def called(function: str) -> str | None:
    """What MODULE:FUNCTION says of this machine; None where it cannot tell. Never run on a chip."""
    module, _, name = function.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)()
    except Exception:  # no metadata server, or none that knows: then it is not known
        return None
    return None if found is None else str(found)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of the packages that can change what is computed, as this process imports them."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def flags(variables: tuple[str, ...]) -> dict[str, str]:
    """Environment variables that can change what is computed. No token is among them."""
    names = sorted(k for k in os.environ if k.startswith(variables) and k not in TOLD_OTHERWISE)
    return {name: os.environ[name] for name in names}
