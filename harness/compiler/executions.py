"""How often each part of a module runs in one execution of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from harness.compiler.hlo_text import Computation, Instruction, Module

_TRIP_COUNT = re.compile(r'known_trip_count\\?":\s*\{\s*\\?"n\\?":\s*\\?"(\d+)')


@dataclass(frozen=True)
class Executions:
    """How often each computation runs, by name, and an instruction that calls it."""

    count: dict[str, int]
    caller: dict[str, Instruction]
    unbounded_loops: int

    @classmethod
    def of(cls, module: Module) -> Executions:
        count: Counter[str] = Counter({module.entry.name: 1})
        caller: dict[str, Instruction] = {}
        unbounded = 0
        # Callers stand below what they call, so that each count is final when it is reached.
        for computation in reversed(module.computations):
            for instruction in computation.instructions:
                # The start of an asynchronous operation has already counted what it wraps.
                if instruction.opcode in ("async-update", "async-done"):
                    continue
                times = 1
                if instruction.opcode == "while":
                    trips = _trip_count(module, computation, instruction)
                    times = 1 if trips is None else trips
                    unbounded += count[computation.name] * (trips is None)
                for name in instruction.calls:
                    count[name] += times * count[computation.name]
                    caller[name] = instruction
        return cls(dict(count), caller, unbounded)

    def each(self, module: Module) -> Iterator[tuple[Computation, Instruction, int]]:
        for computation in module.computations:
            for instruction in computation.instructions:
                yield computation, instruction, self.count.get(computation.name, 0)


def _trip_count(module: Module, caller: Computation, loop: Instruction) -> int | None:
    """Iterations of a while loop: as XLA states it, or read off a loop that counts up.

    XLA:CPU states it. The TPU compiler (libtpu 0.0.20) does not, so that the plain counting loop
    `for (i = start; i < limit; i += step)` with constants, which is what a scan becomes, is read.
    """
    if known := _TRIP_COUNT.search(loop.attributes.get("backend_config", "")):
        return int(known[1])
    body = module.by_name[loop.attributes["body"].removeprefix("%")]
    condition = module.by_name[loop.attributes["condition"].removeprefix("%")]
    carried, test = caller.by_name[loop.operands[0]], condition.root
    if test.opcode != "compare" or test.attributes.get("direction") != "LT":
        return None
    index = _carried_index(condition, test.operands[0])
    if index is None or carried.opcode != "tuple" or body.root.opcode != "tuple":
        return None
    increment = body.by_name[body.root.operands[index]]
    if increment.opcode != "add" or _carried_index(body, increment.operands[0]) != index:
        return None
    start = _constant(caller, carried.operands[index])
    limit = _constant(condition, test.operands[1])
    step = _constant(body, increment.operands[1])
    if start is None or limit is None or step is None or step <= 0:
        return None
    return max(0, -((start - limit) // step))


def _carried_index(computation: Computation, name: str) -> int | None:
    """Which of the values that a loop carries this is, if it is one as it came in"""
    instruction = computation.by_name[name]
    if instruction.opcode != "get-tuple-element":
        return None
    source = computation.by_name[instruction.operands[0]]
    return int(instruction.attributes["index"]) if source.opcode == "parameter" else None


def _constant(computation: Computation, name: str) -> int | None:
    instruction = computation.by_name[name]
    while instruction.opcode in ("copy", "bitcast", "convert"):
        instruction = computation.by_name[instruction.operands[0]]
    if instruction.opcode != "constant" or not instruction.arguments.lstrip("-").isdigit():
        return None
    return int(instruction.arguments)
