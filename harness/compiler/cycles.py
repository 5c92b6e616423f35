"""Cycles that libtpu estimates for operations, kept by what an operation is.

libtpu writes `estimated_cycles` into the module that it has generated code for, which takes most of
a compilation. Layers repeat, and so do fusions: an operation that was compiled once, in whatever
module, need not be compiled again for its estimate.
"""

from __future__ import annotations

import hashlib
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock

from harness.base.typed import plain_json
from harness.compiler.hlo_text import Computation, Instruction, Module
from harness.compiler.schedule import KERNEL, NO_WORK, scheduled
from harness.record.writer import write_json

UNKNOWN = 2**64 - 1
"""What libtpu writes for an estimate that it does not have."""

_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_NAME = re.compile(r"%[\w.\-]+")
_LEFT_OUT = {"backend_config", "metadata", "calls", "to_apply", "frontend_attributes", "sharding"}
"""Attributes that say where an operation comes from, or what is made of it."""


def cycles_of(instruction: Instruction) -> int | None:
    """The estimate of one execution; None where there is none."""
    found = _CYCLES.search(instruction.attributes.get("backend_config", ""))
    return None if found is None or int(found[1]) == UNKNOWN else int(found[1])


def signature(module: Module, computation: Computation, instruction: Instruction) -> str:
    """Equal for operations that are the same but for their names and where they stand.

    Shapes have their layouts and memory spaces in them, those of the operands too.
    """
    digest = hashlib.sha256()
    for line in _lines(module, computation, instruction):
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()[:24]


def _lines(module: Module, computation: Computation, instruction: Instruction) -> Iterator[str]:
    if instruction.target == KERNEL:  # its code is in what is left out
        yield instruction.attributes.get("backend_config", "")
    shapes = (computation.by_name[name].shape for name in instruction.operands)
    yield f"{instruction.opcode} {instruction.shape} {' '.join(shapes)}{_attributes(instruction)}"
    for name in instruction.calls:
        yield from _body(module, module.by_name[name])


def _body(module: Module, computation: Computation) -> Iterator[str]:
    numbers = {i.name: str(n) for n, i in enumerate(computation.instructions)}
    for instruction in computation.instructions:
        arguments = _NAME.sub(lambda found: numbers[found[0][1:]], instruction.arguments)
        yield f"{instruction.opcode} {instruction.shape} {arguments}{_attributes(instruction)}"
        for name in instruction.calls:
            yield from _body(module, module.by_name[name])


def _attributes(instruction: Instruction) -> str:
    kept = sorted((k, v) for k, v in instruction.attributes.items() if k not in _LEFT_OUT)
    return "".join(f" {key}={_NAME.sub('', value)}" for key, value in kept)


def operations(module: Module) -> Iterator[tuple[Computation, Instruction, str]]:
    """Every scheduled operation that does work, with its signature."""
    for computation in scheduled(module):
        for instruction in computation.instructions:
            if instruction.opcode not in NO_WORK:
                yield computation, instruction, signature(module, computation, instruction)


class CycleStore:
    """Estimates by signature, of one release of libtpu and one chip, in a file of the cache.

    An operation that was compiled and has no estimate is kept too, as None.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def known(self) -> dict[str, int | None]:
        """All that is kept."""
        return dict(plain_json(self.path.read_bytes())) if self.path.is_file() else {}

    def add(self, found: Mapping[str, int | None]) -> None:
        """Keep what is new; others may add to the same file at the same time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f"{self.path.name}.lock")):
            write_json(self.path, {**self.known(), **found})


def estimates(module: Module) -> dict[str, int | None]:
    """Estimates by signature in a module that code was generated for.

    Where libtpu makes different code for equal operations, as they find other room in VMEM, it is
    the median.
    """
    found: dict[str, list[int | None]] = defaultdict(list)
    for _, instruction, of in operations(module):
        if instruction.target != KERNEL:  # of which libtpu estimates nothing
            found[of].append(cycles_of(instruction))
    return {of: _median([c for c in cycles if c is not None]) for of, cycles in found.items()}


def _median(cycles: list[int]) -> int | None:
    return round(statistics.median(cycles)) if cycles else None
