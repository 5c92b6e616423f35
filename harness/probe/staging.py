"""Traces a trainer without its values: its tensors hold no buffer, and nothing is executed.

The script runs as it is. Whatever it brings to the device becomes a placeholder, a tensor of
torch_xla that has a shape, an annotation and no data, so that a model of any size takes no memory.
Where it would execute what it has traced, the module is kept, and all that it would have computed
becomes a placeholder too. Where it reads from the device, it gets what follows from its batch and
constants alone, such as a number of labels; else it gets zeros, and what it does with them cannot
be known. Either is listed.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import re
import sys
import threading
import types
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from harness.probe.host_values import HostValues, computed
from harness.probe.propagation import reduced
from harness.probe.runtime import XlaRuntime
from harness.probe.writer import Writer

BUFFER_DONOR = 18
"""Field of an HloModuleProto (hlo.proto of XLA): a BufferDonorProto, whose field 1 has an entry
for each parameter that is donated, with its number in field 1."""

FACTORS = {"exp_avg_sq_row": -1, "exp_avg_sq_col": -2}
"""What transformers' Adafactor keeps in place of a matrix: by its name, the dimension over which it
is a mean."""

_ALIAS = re.compile(r"^AliasID: (\d+)$", re.MULTILINE)
_library: Any = None  # kernels are registered for as long as it lives


class StagedRuntime(XlaRuntime):
    """torch_xla without execution: there are no values to be read, and no times."""

    def can_execute(self) -> bool:
        return False


class Staging:
    """What takes the place of torch_xla's functions that touch a device.

    devices: that the mesh has; the process itself may have fewer
    last:    the optimizer step whose modules are kept. Step 0 makes the optimizer's state; step 1
             is like every later one
    """

    def __init__(self, devices: int, last: int, writer: Writer) -> None:
        import torch_xla
        from torch_xla.core.xla_builder import create_placeholder_tensor

        self.devices, self.last, self.writer = devices, last, writer
        self.xla: Any = torch_xla._XLAC
        self.create_hollow = create_placeholder_tensor
        self.device = torch_xla.device()  # the client first: autograd counts its devices once
        self.annotate = self.xla._xla_mark_sharding
        self.lock = threading.RLock()  # a loader's thread makes tensors too
        self.thread = threading.get_ident()
        self.hollow: set[int] = set()  # numbers of the data of placeholders
        self.host = HostValues()
        self.names_of: dict[int, set[int]] = {}  # of placeholders, by the number of their data
        self.optimizers: list[torch.optim.Optimizer] = []
        self.step = 0  # the optimizer step that is being traced
        self.taken = False  # whether its optimizer has stepped
        self.kept: dict[str, dict[str, Any]] = {}  # modules of the last step, by what they are
        self.reads: dict[tuple[str, str, bool, bool], dict[str, Any]] = {}

    def install(self) -> None:
        """Replace whatever would touch a device. The trainer's script has not been run yet."""
        import torch_xla.core.xla_model as xm
        import torch_xla.distributed.spmd as xs

        self._pass_for_devices()
        self._replace_kernels()
        self._watch_optimizers()
        lower_for_tpu(self.devices)
        self.xla._xla_step_marker = lambda *_, **__: self._step_marker()
        self.xla._xla_sync_live_tensors = lambda *_, **__: self._step_marker()
        self.xla._xla_sync_multi = lambda tensors, *_, **__: self._sync(tensors)
        self.xla._xla_wait_device_ops = lambda *_, **__: None
        self.xla._xla_mark_sharding = self._mark_sharding
        self.xla._xla_tensors_from_aten = self._from_host
        self.get_cpu_tensors = self.xla._xla_get_cpu_tensors
        self.xla._xla_get_cpu_tensors = lambda tensors: [self._read(t) for t in tensors]
        xm.xla_rendezvous = lambda payload, *_, **__: [payload]  # of the one process that there is
        # An XlaShardingSpec would be one of shards of data.
        xs.ShardingSpec.xla_spec = lambda spec, t: (
            spec.mesh.get_op_sharding(spec.partition_spec) if spec.can_apply(t) else None
        )

    def _pass_for_devices(self) -> None:
        """More than 127 devices in one process overflow torch's device index."""
        names = [f"CPU:{number}" for number in range(self.devices)]
        attributes = [{"name": name} for name in names]
        self.xla._xla_get_all_runtime_devices = lambda *_: names
        self.xla._xla_get_runtime_devices = lambda *_: names
        self.xla._xla_num_runtime_devices = lambda *_: self.devices
        self.xla._xla_get_all_device_attributes = lambda *_: attributes

    def _watch_optimizers(self) -> None:
        init = torch.optim.Optimizer.__init__

        def watched(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            init(optimizer, *args, **kwargs)
            self.optimizers.append(optimizer)

        torch.optim.Optimizer.__init__ = watched  # type: ignore[method-assign]

        def taken(*_: Any) -> None:
            self.taken = True

        register_optimizer_step_post_hook(taken)

    # --- between host and device --------------------------------------------------------------

    def _replace_kernels(self) -> None:
        """The kernels by which torch itself moves values between host and device."""
        global _library
        _library = torch.library.Library("aten", "IMPL")
        get = torch.library.get_kernel
        copied, self.copied_over = get("aten::_to_copy", "XLA"), get("aten::_copy_from", "XLA")
        of_meta = get("aten::_to_copy", "Meta")

        def to_copy(keys: Any, tensor: torch.Tensor, **wanted: Any) -> Any:
            here, to = tensor.device.type, torch.device(wanted.get("device") or tensor.device).type
            if to == "xla" and here != "xla" and self._is_large(tensor):
                return self._brought(tensor, wanted.get("dtype") or tensor.dtype)
            if here == "xla" and to != "xla":
                return self._read(tensor).to(wanted.get("dtype") or tensor.dtype)
            return (of_meta if here == "meta" else copied).call_boxed(keys, tensor, **wanted)

        def copy_from(
            keys: Any, tensor: torch.Tensor, onto: torch.Tensor, non_blocking: bool = False
        ) -> Any:
            if onto.device.type != "xla":
                return onto.copy_(self._read(tensor))
            if tensor.device.type != "xla" and self._is_large(tensor):
                tensor = self._brought(tensor, tensor.dtype)
            return self.copied_over.call_boxed(keys, tensor, onto, non_blocking)

        def scalar(keys: Any, tensor: torch.Tensor) -> Any:
            return self._read(tensor).item()

        def to_cpu(keys: Any, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
            """What an operation that torch_xla does not lower takes, to be executed on the host."""
            return [self._read(t) if t.device.type == "xla" else t for t in tensors]

        with warnings.catch_warnings():  # of kernels that are replaced
            warnings.simplefilter("ignore")
            _library.impl("_to_copy", to_copy, "XLA", with_keyset=True)
            _library.impl("_to_copy", to_copy, "Meta", with_keyset=True)
            _library.impl("_copy_from", copy_from, "XLA", with_keyset=True)
            _library.impl("_local_scalar_dense", scalar, "XLA", with_keyset=True)
            _library.impl("_to_cpu", to_cpu, "XLA", with_keyset=True)

    def _is_large(self, tensor: torch.Tensor) -> bool:
        """A scalar is brought over as it is: some values are constants of the module."""
        return tensor.dim() > 0 or tensor.device.type == "meta"

    def _from_host(self, tensors: list[Any], devices: Any, shardings: Any) -> list[torch.Tensor]:
        """What a device loader brings to the device."""
        made = []
        for tensor, sharding in zip(tensors, shardings or [None] * len(tensors), strict=True):
            made.append(self._placeholder(tensor, sharding))
            self.host.keep(self._number(made[-1]), tensor)
        return made

    def _brought(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A placeholder for what is brought from the host as it is."""
        made = self.create(list(tensor.shape), dtype)
        if tensor.dtype == dtype:
            self.host.keep(self._number(made), tensor)
        return made

    def _read(self, tensor: torch.Tensor) -> torch.Tensor:
        """What the trainer reads, where it follows from its batch; else zeros in its place."""
        where, dtype = _outside(), str(tensor.dtype).removeprefix("torch.")
        # Another thread writes logs: it traces nothing.
        main = threading.get_ident() == self.thread
        tracing = self.step == self.last and main
        value = self._known(tensor) if main else None
        known = value is not None
        entry: dict[str, Any] = {
            "at": where,
            "dtype": dtype,
            "tracing": tracing,
            "known": known,
            "times": 0,
        }
        read = self.reads.setdefault((where, dtype, tracing, known), entry)
        read["times"] += 1
        if value is None:
            return torch.zeros(tensor.shape, dtype=tensor.dtype)
        if value.dim() == 0:
            read["value"] = value.item()
        return value

    def _known(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The values of a tensor; None where they do not follow from a batch and constants."""
        with self.lock:
            order, leaves = self.xla._get_tensors_xla_device_data_node([tensor])
            # A scalar is on the device for real, unless it was computed.
            real = {
                place: self.get_cpu_tensors([leaf])[0]
                for place, (number, leaf) in enumerate(zip(order, leaves, strict=True))
                if leaf.dim() == 0 and number not in self.hollow
            }
            arguments = self.host.of(order, real)
            if arguments is None:
                return None
            if not self._is_pending(tensor):
                return arguments[0].clone()
            proto = self.xla._get_xla_tensors_hlo_proto([tensor])
            if self.step == self.last:
                self._keep([tensor], donate=False)
        found = computed(proto, arguments)
        return None if found is None else found.to(tensor.dtype).reshape(tensor.shape)

    # --- placeholders -------------------------------------------------------------------------

    def create(self, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor without data, and without an annotation."""
        made: torch.Tensor = self.create_hollow(shape, dtype)
        self.hollow.add(self._number(made))
        return made

    def _number(self, tensor: torch.Tensor) -> int:
        """The number of a tensor's data."""
        ((number,), _) = self.xla._get_tensors_xla_device_data_node([tensor])
        return int(number)

    def _placeholder(self, like: torch.Tensor, sharding: Any) -> torch.Tensor:
        """A tensor without data. sharding: an OpSharding, or None"""
        made: torch.Tensor = self.create(list(like.shape), like.dtype)
        if sharding is not None:
            with self.lock, torch.no_grad():
                # torch_xla annotates what is to be computed, and looks for the data of all else.
                annotated = torch.zeros(like.shape, dtype=like.dtype, device=self.device)
                self.annotate(annotated, sharding)
                keys = torch._C.DispatchKeySet(torch._C.DispatchKey.XLA)
                self.copied_over.call_boxed(keys, made, annotated, False)
                self.xla._get_xla_sharding_spec(annotated)  # hands it on to the data
                made = annotated
        number = self._number(made)
        self.hollow.add(number)
        self.names_of[number] = {self._alias(made), self.xla._xla_get_tensor_id(made)}
        return made

    def _mark_sharding(self, tensor: torch.Tensor, sharding: Any) -> None:
        if self._is_pending(tensor):
            self.annotate(tensor, sharding)
        else:
            tensor.data = self._placeholder(tensor, sharding)

    def _is_pending(self, tensor: torch.Tensor) -> bool:
        """Whether it is still to be computed."""
        return bool(self.xla._check_tensor_need_materialization([tensor])[0])

    def _alias(self, tensor: torch.Tensor) -> int:
        """The name of what a tensor is a change of, in place: its own where it is of nothing."""
        found = _ALIAS.search(self.xla._get_xla_tensor_debug_info(tensor))
        return int(found[1]) if found else -1

    # --- what would be executed ---------------------------------------------------------------

    def _step_marker(self) -> None:
        with self.lock:
            self._cut(self._pending(), donate=True)
            if self.taken:
                self.step, self.taken = self.step + 1, False

    def _sync(self, tensors: list[torch.Tensor]) -> None:
        with self.lock:
            self._cut(self._only_pending(tensors), donate=False)

    def _pending(self) -> list[torch.Tensor]:
        """All tensors that are still to be computed."""
        held: list[torch.Tensor] = []
        for value in gc.get_objects():
            kind = type(value)  # `isinstance` would ask lazy modules what they are
            # What is no functional tensor is what one of them wraps, and was seen by a kernel here.
            if issubclass(kind, torch.Tensor) and torch._is_functional_tensor(value):
                if value.device.type != "xla":
                    continue
                held.append(value)
                if value.is_leaf and value.grad is not None:
                    held.append(value.grad)  # it need not have a Python object by itself
        return self._only_pending(held)

    def _only_pending(self, tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        return [tensor for tensor in tensors if self._is_pending(tensor)]

    def _cut(self, tensors: list[torch.Tensor], donate: bool) -> None:
        """Keep the module that computes `tensors`, and make placeholders of them.

        donate: what they change in place is donated, as at a step's end
        """
        if not tensors:
            return
        # Several tensors may be names of one.
        names: dict[int, list[torch.Tensor]] = {}
        for tensor in tensors:
            names.setdefault(int(self.xla._xla_get_tensor_id(tensor)), []).append(tensor)
        outputs = {number: names[number][0] for number in sorted(names)}
        if self.step == self.last:
            self._keep(list(outputs.values()), donate)
        of_parameters = self._of_parameters()
        shardings = {
            number: self._sharding(tensor) or of_parameters.get(number)
            for number, tensor in outputs.items()
        }
        for number, tensor in outputs.items():
            made = self._placeholder(tensor, shardings[number])
            for name in names[number]:
                name.data = made

    def _sharding(self, tensor: torch.Tensor) -> Any:
        """The annotation of a tensor as an OpSharding; None where it has none."""
        annotated = self.xla._get_xla_sharding_spec(tensor)
        return self.xla._get_xla_op_sharding(tensor) if annotated else None

    def _of_parameters(self) -> dict[int, Any]:
        """Shardings of gradients and of an optimizer's state, by the number of their tensors.

        They are the parameter's, or follow from it: that is what XLA propagates, and a test holds
        it against it.
        """
        found: dict[int, Any] = {}
        for optimizer in self.optimizers:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                sharding = self._sharding(parameter)
                held = {"gradient": parameter.grad, **optimizer.state.get(parameter, {})}
                for name, value in held.items():
                    if not isinstance(value, torch.Tensor) or value.device.type != "xla":
                        continue
                    number = int(self.xla._xla_get_tensor_id(value))
                    if value.shape == parameter.shape:
                        found[number] = sharding
                    elif sharding is not None and name in FACTORS:
                        annotation = self.xla._get_xla_sharding_spec(parameter)
                        mean = reduced(annotation, FACTORS[name])
                        found[number] = self.xla.OpSharding(*mean)
        return found

    def _keep(self, outputs: list[torch.Tensor], donate: bool) -> None:
        order, _ = self.xla._get_tensors_xla_device_data_node(outputs)
        changed = {self._alias(tensor) for tensor in outputs} if donate else set()
        donors = [i for i, n in enumerate(order) if self.names_of.get(n, set()) & changed]
        proto = self.xla._get_xla_tensors_hlo_proto(outputs) + buffer_donor(donors)
        graph = hashlib.sha256(self.xla._get_graph_hash(outputs) + repr(donors).encode())
        known = self.kept.get(graph.hexdigest())
        if known is None:
            known = {"file": f"modules/{len(self.kept)}.hlo.pb", "executions": 0}
            self.writer.module(known["file"], proto)
            self.kept[graph.hexdigest()] = known
        known["executions"] += 1

    def finish(self) -> None:
        """Write which modules the last step executes, and what was read."""
        modules = {"step": list(self.kept.values()), "reads": list(self.reads.values())}
        self.writer.modules(modules)


def lower_for_tpu(devices: int) -> None:
    """Have JAX lower for a TPU what it lowers here: torch_xla has it lower the kernels of a TPU.

    As for an export, so that kernels are written in the version that older releases of libtpu read
    as well: they refuse newer ones than their own.

    devices: that JAX is to have as well: splash attention is mapped over those of torch_xla's mesh
    """
    try:
        import jax
        from jax._src import stages
        from jax._src.interpreters.mlir import LoweringParameters
    except ImportError:  # without JAX there are no kernels
        return
    jax.config.update("jax_num_cpu_devices", devices)
    _spare_flax()
    lower = stages.Traced.lower

    def for_tpu(traced: Any, *, lowering_platforms: Any = None, **parameters: Any) -> Any:
        parameters.setdefault("_private_parameters", LoweringParameters(for_export=True))
        return lower(traced, lowering_platforms=lowering_platforms or ("tpu",), **parameters)

    stages.Traced.lower = for_tpu


def _spare_flax() -> None:
    """torch_xla calls JAX by its torchax, which imports flax for checkpoints alone, and so fails
    where only what torch_xla itself requires is installed."""
    if importlib.util.find_spec("flax") is None:
        checkpoint: Any = types.ModuleType("torchax.checkpoint")
        checkpoint.save_checkpoint = checkpoint.load_checkpoint = None
        sys.modules[checkpoint.__name__] = checkpoint


def buffer_donor(parameters: list[int]) -> bytes:
    """What is to be appended to an HloModuleProto, so that it donates these parameters' buffers."""
    entries = [b"\x08" + _varint(number) for number in parameters]
    donors = b"".join(b"\x0a" + _varint(len(entry)) + entry for entry in entries)
    return _varint(BUFFER_DONOR << 3 | 2) + _varint(len(donors)) + donors if entries else b""


def _varint(number: int) -> bytes:
    found = []
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def _outside() -> str:
    """Where in the trainer, or a library of its, something is read: file and line."""
    frame = sys._getframe(1)
    ours, torchs = str(Path(__file__).parent), str(Path(torch.__file__).parent)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((ours, torchs)):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{'/'.join(path.parts[-2:])}:{frame.f_lineno}"
