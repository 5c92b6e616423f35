"""The fingerprints of real models, compiled for TPUs that are not there.

`PYTHON benchmarks/real_size.py [--models 8b,70b,405b,8x7b] [--slices v6e:16x16,v6e:2x2]` builds the
fingerprint's graph for every kind of tensor of each model, from placeholders that hold no memory,
and compiles it with the TPU's own compiler. PYTHON is the engine's interpreter: its torch_xla
traces, its libtpu compiles, and no accelerator is needed. It prints a table in Markdown:

- kinds, tensors: graphs that are compiled, and how often they are executed for one set of values.
  Gradients and Adam's moments have the shapes and shardings of the parameters, and the same graphs
- HLO: of all kinds together, serialized, before the compiler changes it
- compile: seconds of CPU for all kinds; they take as long on one core
- temporaries: of the kind that needs most of them, on each chip, and as a part of its HBM
- largest argument: what the tensor itself takes on each chip; it is there anyway
- collectives: in all kinds together; an all-gather would be of a weight, an all-reduce is of sums
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(
    PJRT_DEVICE="CPU", JAX_PLATFORMS="cpu",
    # libtpu asks a metadata server otherwise, and refuses a second process.
    TPU_SKIP_MDS_QUERY="1", TPU_WORKER_HOSTNAMES="localhost", TPU_WORKER_ID="0",
    TPU_ACCELERATOR_TYPE="v5litepod-4", ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)  # fmt: skip
sys.path.insert(0, str(Path(__file__).parents[1]))

HBM = {"v6e": 32e9, "v5e": 16e9, "v5p": 95e9}
"""Bytes of HBM a chip (https://cloud.google.com/tpu/docs/system-architecture-tpu-vm)."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """A model as its published config.json has it; 128 is the head dimension of all of them.

    experts: 0 for a dense one. Stacked in one tensor, as torchprime has them, and one module each,
             as transformers has them: both are measured
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    experts: int = 0

    def kinds(self) -> Counter[tuple[Shape, int]]:
        """How many tensors there are of each shape and sharded dimension."""
        hidden, wide, layers = self.hidden, self.intermediate, self.layers
        queries, keys = self.heads * 128, self.kv_heads * 128
        shapes = [((self.vocabulary, hidden), 2), ((hidden,), 2 * layers + 1)]
        shapes += [((queries, hidden), layers), ((hidden, queries), layers)]
        shapes += [((keys, hidden), 2 * layers)]
        if self.experts:
            shapes += [((self.experts, hidden), layers)]
            shapes += [((wide, hidden), 2 * layers * self.experts)]
            shapes += [((hidden, wide), layers * self.experts)]
            shapes += [((self.experts, hidden, wide), 2 * layers)]
            shapes += [((self.experts, wide, hidden), layers)]
        else:
            shapes += [((wide, hidden), 2 * layers), ((hidden, wide), layers)]
        kinds: Counter[tuple[Shape, int]] = Counter()
        for shape, count in shapes:
            kinds[shape, shape.index(max(shape))] += count  # FSDP shards the largest dimension
        return kinds


MODELS = {
    "Llama 3.1 8B": Model(4096, 14336, 32, 32, 8, 128256),
    "Llama 3.1 70B": Model(8192, 28672, 80, 64, 8, 128256),
    "Llama 3.1 405B": Model(16384, 53248, 126, 128, 8, 128256),
    "Mixtral 8x7B": Model(4096, 14336, 32, 32, 8, 32000, experts=8),
}


@dataclass(frozen=True)
class Compiled:
    """One kind of tensor's graph: sizes in bytes, on each chip but for `hlo`."""

    hlo: int
    seconds: float
    temporaries: int
    argument: int
    collectives: Counter[str]


def stage(shape: Shape, dimension: int, dtype: Any, chips: int) -> tuple[bytes, list[str | None]]:
    """The serialized HLO of a fingerprint, and the sharding of each of its parameters."""
    import torch_xla
    from torch_xla.core.xla_builder import create_placeholder_tensor

    from harness.probe.fingerprint import fingerprint

    tensor = create_placeholder_tensor(list(shape), dtype)
    tiles = ",".join(str(chips) if d == dimension else "1" for d in range(len(shape)))
    pending = fingerprint(tensor)
    outputs = [pending.floats, pending.bits]
    hlo = torch_xla._XLAC._get_xla_tensors_hlo_proto(outputs)
    order, _ = torch_xla._XLAC._get_tensors_xla_device_data_node(outputs)
    mine = torch_xla._XLAC._xla_get_tensor_id(tensor)
    return hlo, [f"{{devices=[{tiles}]<=[{chips}]}}" if i == mine else None for i in order]


def annotated(hlo: bytes, shardings: list[str | None], chips: int) -> bytes:
    """StableHLO of the module, with the shardings on its parameters."""
    from jax._src.interpreters import mlir
    from jax._src.lib import _jax
    from jaxlib.mlir import ir

    with mlir.make_ir_context():
        program = _jax.mlir.xla_computation_to_mlir_module(_jax.XlaComputation(hlo))
        module = ir.Module.parse(program)
        operations = {op.attributes["sym_name"].value: op for op in module.body.operations}
        main = operations["main"]
        arguments = []
        for sharding, known in zip(shardings, main.arg_attrs, strict=True):
            attributes = {each.name: each.attr for each in known}
            if sharding is not None:
                attributes["mhlo.sharding"] = ir.StringAttr.get(sharding)
            arguments.append(ir.DictAttr.get(attributes))
        main.arg_attrs = ir.ArrayAttr.get(arguments)
        whole = ir.IntegerType.get_signless(32)
        attributes = module.operation.attributes
        attributes["mhlo.num_partitions"] = ir.IntegerAttr.get(whole, chips)
        attributes["mhlo.num_replicas"] = ir.IntegerAttr.get(whole, 1)
        return str(module).encode()


def compiled(shape: Shape, dimension: int, dtype: Any, slice_: str) -> Compiled:
    """One kind of tensor, staged and compiled for a slice."""
    import numpy as np
    from jax._src.lib import _jax, xla_client
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name=slice_).devices
    chips = len(devices)
    hlo, shardings = stage(shape, dimension, dtype, chips)
    options = xla_client.CompileOptions()
    build = options.executable_build_options
    options.num_replicas = build.num_replicas = 1
    options.num_partitions = build.num_partitions = chips
    build.use_spmd_partitioning = True
    order = np.array([device.id for device in devices]).reshape(1, chips)
    build.device_assignment = xla_client.DeviceAssignment.create(order)
    program = annotated(hlo, shardings, chips)
    start = time.process_time()
    executable = devices[0].client.compile(program, _jax.DeviceList(tuple(devices)), options)
    seconds = time.process_time() - start
    memory = executable.get_compiled_memory_stats()
    text = executable.hlo_modules()[0].to_string()
    found = re.findall(r" (all-\w+|reduce-scatter|collective-permute)(?:-start)?\(", text)
    return Compiled(
        len(hlo), seconds, memory.temp_size_in_bytes, memory.argument_size_in_bytes, Counter(found)
    )


def main() -> None:
    """Print a row for each model, dtype and slice."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(name.split()[-1] for name in MODELS))
    parser.add_argument("--slices", default="v6e:16x16")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    options = parser.parse_args()

    import torch
    import torch_xla
    import torch_xla.runtime as xr

    xr.use_spmd()
    torch.zeros(1, device=torch_xla.device())  # the client has to be there before a placeholder

    print("| model | dtype | slice | kinds, tensors | HLO, KB | compile, s of CPU "
          "| temporaries, MB (of HBM) | largest argument, MB | collectives |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for name, model in MODELS.items():
        if name.split()[-1].lower() not in options.models.lower().split(","):
            continue
        kinds = model.kinds()
        for slice_ in options.slices.split(","):
            for dtype in options.dtypes.split(","):
                found = [
                    compiled(shape, dimension, getattr(torch, dtype), slice_)
                    for shape, dimension in kinds
                ]
                temporaries = max(each.temporaries for each in found)
                part = temporaries / HBM[slice_.split(":")[0]]
                collectives = sum((each.collectives for each in found), Counter[str]())
                listed = ", ".join(f"{count} {kind}" for kind, count in sorted(collectives.items()))
                print(
                    f"| {name} | {dtype} | {slice_} | {len(kinds)}, {kinds.total()} "
                    f"| {sum(each.hlo for each in found) / 1e3:.0f} "
                    f"| {sum(each.seconds for each in found):.0f} "
                    f"| {temporaries / 1e6:.2f} ({part:.4%}) "
                    f"| {max(each.argument for each in found) / 1e6:.1f} | {listed or 'none'} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
