"""The folder that XLA fills under --xla_dump_to=DIR --xla_dump_hlo_as_text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from harness.base.errors import BadInput
from harness.compiler.hlo import parse_module
from harness.record.graph import ModuleGraph

# Seen: XLA:CPU of torch_xla 2.9.0   module_0013.SyncTensorsGraph.453.cpu_after_optimizations.txt
#       TPU compiler, libtpu 0.0.20  module_0001.jit_step.cl_789893895.after_optimizations.txt
# The TPU names come from compiling ahead of time for a v5e on a machine without a TPU; names that
# torch_xla makes on a TPU were never seen here. A TPU also writes …after_codegen.txt and
# …after_optimizations_{before,after}_buffer_assignment.txt: the same graph, not read.
_OPTIMIZED = re.compile(r"module_(\d+)\.(.+)\.(?:\w+_)?after_optimizations\.txt")
_UNOPTIMIZED = re.compile(r"module_(\d+)\.(.+)\.before_optimizations\.txt")


def read_dump(directory: Path) -> tuple[ModuleGraph, ...]:
    """Every module of a dump, in the order of compilation (the number in the file's name).

    `BadInput` where the folder is missing, holds no optimized module, holds one whose compilation
    did not end, holds those of two processes, or holds a file that is cut off.
    """
    if not directory.is_dir():
        raise BadInput(f"There is no HLO dump at {directory}: no such folder.")
    optimized = {m[1]: m for m in _matches(directory, _OPTIMIZED)}
    unoptimized = {m[1]: m for m in _matches(directory, _UNOPTIMIZED)}
    if not optimized:
        raise BadInput(
            f"The HLO dump {directory} holds no optimized module (…after_optimizations.txt). Set "
            "XLA_FLAGS='--xla_dump_to=DIR --xla_dump_hlo_as_text' before torch_xla is imported, "
            "and see in the trainer's log whether it compiled anything."
        )
    if unfinished := sorted(unoptimized.keys() - optimized.keys()):
        raise BadInput(
            f"The HLO dump {directory} holds {unoptimized[unfinished[0]][0]} but not the optimized "
            "module: that compilation failed, or the run was killed in it. See the trainer's log "
            "and make the dump again."
        )
    return tuple(_read(directory, optimized[key]) for key in sorted(optimized, key=int))


def steady_state_module(modules: Sequence[ModuleGraph]) -> ModuleGraph:
    """The module that trains, in its steady state, among all that a run compiled.

    It is the one with the most FLOPs in matrix products: a training step does about three times
    the work of an evaluation, and the small modules (initial weights, sharding, logging) do none.
    Of several with equal FLOPs it is the one compiled last: a step is compiled once with the
    optimizer's state still to be made, and once more with it.
    Where a trainer breaks its step into several modules, this is only the heaviest of them.
    `BadInput` where no module has a matrix product.
    """
    most = max((module.flops for module in modules), default=0)
    if most == 0:
        raise BadInput(
            f"None of the {len(modules)} modules in the HLO dump has a matrix product: the dump "
            "holds no training step. Let the run go on until its third step."
        )
    return [module for module in modules if module.flops == most][-1]


def _matches(directory: Path, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    found = [m for path in sorted(directory.iterdir()) if (m := pattern.fullmatch(path.name))]
    numbers = [match[1] for match in found]
    if len(set(numbers)) != len(numbers):
        raise BadInput(
            f"The HLO dump {directory} holds modules of more than one process: their numbers "
            "repeat. Give each run a folder of its own."
        )
    return found


def _read(directory: Path, optimized: re.Match[str]) -> ModuleGraph:
    path = directory / optimized[0]
    try:
        return parse_module(
            path.read_text(),
            unoptimized=_optional(
                directory / f"module_{optimized[1]}.{optimized[2]}.before_optimizations.txt"
            ),
            buffer_assignment=_optional(directory / f"{path.stem}-buffer-assignment.txt"),
        )
    except (BadInput, OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The HLO dump {path} cannot be read. {error}") from error


def _optional(path: Path) -> str | None:
    return path.read_text() if path.exists() else None
