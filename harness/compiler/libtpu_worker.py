"""Compiles one HLO module with libtpu, for a slice of TPUs that need not be there.

    python libtpu_worker.py REQUEST.json

Run by `harness.compiler.libtpu` in an interpreter of its own: it imports jaxlib and the standard
library, and nothing of the harness. The request is an object with

    library   path of libtpu.so
    module    path of the module, or null where only the slice is asked about: a serialized
              HloModuleProto before optimizations, with global shapes, or its text (.txt)
    topology  libtpu's name of one slice, such as "v6e:2x2"
    slices    number of slices
    dump      folder that XLA writes the optimized module and its reports into

Compiler flags come by LIBTPU_INIT_ARGS, which libtpu reads, and by XLA_FLAGS, which jaxlib reads
into the options of the compilation, as torch_xla does. Events are written to stdout as lines of
JSON: `devices` when the slice is known, then `compiled` or `failed`; a failure to know the slice
tells the chips that are known. Whoever needs no machine code ends the process as soon as the dump
is there: generating code takes most of the time.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import re
import signal
import sys
import time
from typing import Any

# PJRT's C API reads these when the library is loaded. Without them it asks the metadata server of a
# cloud machine what it runs on, 30 times each.
os.environ.update(
    TPU_SKIP_MDS_QUERY="1",
    TPU_WORKER_HOSTNAMES="localhost",
    TPU_WORKER_ID="0",
    TPU_ACCELERATOR_TYPE="v5litepod-4",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",  # no device is opened: another process may have them
)

from jaxlib import _jax, xla_client
from jaxlib.mlir import ir
from jaxlib.mlir._mlir_libs import _jax_mlir_ext
from jaxlib.mlir.dialects import stablehlo

CHIP_NAMES = ("v2", "v3", "v4", "v5e", "v5p", "v6e", "tpu7x")

JOINED_CORES = {"v4": "megacore"}
"""Chips whose two cores PJRT joins to one device only under this configuration."""

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl.h."""

_DONOR = re.compile(r"\((\d+), \{\}\)")


def main(path: str) -> int:
    """Compile what the request at `path` asks for. Returns 0 where it compiled."""
    end_with_parent()
    with open(path) as stream:
        request = json.load(stream)
    try:
        xla_client.load_pjrt_plugin_dynamically("tpu", request["library"])
        xla_client.initialize_pjrt_plugin("tpu")
        devices = slice_of(request["topology"], request["slices"])
    except Exception as error:
        tell("failed", error=str(error), known=known_chips())
        return 1
    tell(
        "devices",
        count=len(devices),
        kind=devices[0].device_kind,
        version=devices[0].client.platform_version,
    )
    if request["module"] is None:
        return 0
    try:
        with open(request["module"], "rb") as stream:
            module = stream.read()
        if request["module"].endswith(".txt"):
            module = _jax.hlo_module_from_text(module.decode()).as_serialized_hlo_module_proto()
        code = program(module)
        options = compile_options(devices, request["dump"])
        started = time.monotonic()
        devices[0].client.compile(code, _jax.DeviceList(tuple(devices)), options)
    except Exception as error:
        tell("failed", error=str(error))
        return 1
    tell("compiled", seconds=time.monotonic() - started)
    return 0


def end_with_parent() -> None:
    """Have the system end this process where its parent is killed: code takes hours to generate."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def tell(event: str, **fields: Any) -> None:
    """Write one event."""
    print(json.dumps({"event": event, **fields}), flush=True)


def known_chips() -> list[str]:
    """Those of CHIPS that this libtpu has a slice of."""
    known = []
    for chip in CHIP_NAMES:
        try:
            slice_of(f"{chip}:2x2x1", 1)
        except Exception:
            continue
        known.append(chip)
    return known


def slice_of(topology: str, slices: int) -> list[Any]:
    """The devices of the slices, which can be compiled for and do nothing else."""
    options: dict[str, Any] = {} if slices == 1 else {"num_slices": slices}
    if joined := JOINED_CORES.get(topology.partition(":")[0]):
        options["chip_config_name"] = joined
    found = _jax.get_default_c_api_topology("tpu", topology, options)
    return list(found._make_compile_only_devices())


def program(module: bytes) -> bytes:
    """The module as StableHLO, with the names of its operations and its buffer donations.

    XLA's conversion keeps the shardings of parameters; donations are attributes of the whole module
    in HLO, and of parameters here.
    """
    header = _jax.XlaComputation(module).as_hlo_text().split("\n", 1)[0]
    donated = re.search(r"buffer_donor=\{ (.*?) \}, ", header)
    donors = {int(n) for n in _DONOR.findall(donated[1])} if donated else set()
    registry = ir.DialectRegistry()
    _jax_mlir_ext.register_dialects(registry)
    with ir.Context() as context:
        context.append_dialect_registry(registry)
        context.load_all_available_dialects()
        context.allow_unregistered_dialects = True
        stablehlo.register_dialect(context)
        converted = ir.Module.parse(_jax.mlir.hlo_to_stablehlo(module))
        entry = next(
            operation
            for operation in converted.body.operations
            if operation.attributes["sym_name"].value == "main"
        )
        # A module of constants alone has no arguments, and no such attribute.
        there = "arg_attrs" in entry.attributes
        arguments = []
        for number, known in enumerate(entry.attributes["arg_attrs"] if there else ()):
            attributes = {attribute.name: attribute.attr for attribute in known}
            if number in donors:
                attributes["jax.buffer_donor"] = ir.BoolAttr.get(True)
            arguments.append(ir.DictAttr.get(attributes))
        if arguments:
            entry.attributes["arg_attrs"] = ir.ArrayAttr.get(arguments)
        stream = io.BytesIO()
        converted.operation.write_bytecode(stream)
        return stream.getvalue()


def compile_options(devices: list[Any], dump: str) -> Any:
    """Options as torch_xla gives them for SPMD, with a dump."""
    import numpy as np  # jaxlib's own dependency: the type that it wants

    options = xla_client.CompileOptions()
    build = options.executable_build_options
    options.num_replicas = build.num_replicas = 1
    options.num_partitions = build.num_partitions = len(devices)
    build.use_spmd_partitioning = True
    # Outputs are sharded as their values are: without it they would be gathered on every device.
    build.allow_spmd_sharding_propagation_to_output = [True]
    order = np.array([device.id for device in devices]).reshape(1, len(devices))
    build.device_assignment = xla_client.DeviceAssignment.create(order)
    build.debug_options.xla_dump_to = dump
    build.debug_options.xla_dump_hlo_as_text = True
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
