"""How often each part of a module runs in one execution of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from harness.compiler.hlo_text import Computation, Instruction, Module

_Sites = dict[str, tuple[Computation, Instruction] | None]
"""Where a computation is called with arguments; None where that is in several places."""

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
        sites: _Sites = {}
        # Callers stand below what they call, so that each count is final when it is reached.
        for computation in reversed(module.computations):
            for instruction in computation.instructions:
                # The start of an asynchronous operation has already counted what it wraps.
                if instruction.opcode in ("async-update", "async-done"):
                    continue
                times = 1
                if instruction.opcode == "while":
                    trips = _trip_count(module, computation, instruction, sites)
                    times = 1 if trips is None else trips
                    unbounded += count[computation.name] * (trips is None)
                for name in instruction.calls:
                    count[name] += times * count[computation.name]
                    caller[name] = instruction
                    if instruction.opcode == "call":
                        known = name in sites
                        sites[name] = None if known else (computation, instruction)
        return cls(dict(count), caller, unbounded)

    def each(self, module: Module) -> Iterator[tuple[Computation, Instruction, int]]:
        for computation in module.computations:
            for instruction in computation.instructions:
                yield computation, instruction, self.count.get(computation.name, 0)


def _trip_count(
    module: Module, caller: Computation, loop: Instruction, sites: _Sites
) -> int | None:
    """Iterations of a while loop: as XLA states it, or read off a loop that counts up.

    XLA:CPU states it. The TPU compiler (libtpu 0.0.20) does not, so that the plain counting loop
    `for (i = start; i < limit; i += step)` with constants, which is what a scan becomes, is read.
    """
    if known := _TRIP_COUNT.search(loop.attributes.get("backend_config", "")):
        return int(known[1])
    body = module.by_name[loop.attributes["body"].removeprefix("%")]
    condition = module.by_name[loop.attributes["condition"].removeprefix("%")]
    carried, test = caller.by_name[loop.operands[0]], _test(condition)
    if test is None or carried.opcode != "tuple" or body.root.opcode != "tuple":
        return None
    index, limit, high = test
    if high is not None and _argument(caller, carried.operands[high], sites) != 0:
        return None
    increment = _moved(body, body.root.operands[index])
    if increment.opcode != "add" or _carried_index(body, increment.operands[0]) != index:
        return None
    start = _argument(caller, carried.operands[index], sites)
    step = _constant(body, increment.operands[1])
    if start is None or step is None or step <= 0:
        return None
    return max(0, -((start - limit) // step))


def _test(condition: Computation) -> tuple[int, int, int | None] | None:
    """Which of the values that a loop carries has to be less than what, if that is its condition.

    A TPU has no 64-bit integers: it carries their halves, low and high, and the condition is
    `high < 0 or (high == 0 and low < limit)`. The third is the high half; None where there is none.
    """
    root = condition.root
    if root.opcode != "or":
        plain = _less(condition, root)
        return None if plain is None else (*plain, None)
    parts = [condition.by_name[name] for name in root.operands]
    both = [condition.by_name[n] for part in parts if part.opcode == "and" for n in part.operands]
    less = [found for part in (*parts, *both) if (found := _less(condition, part)) is not None]
    equal = [
        (_carried_index(condition, part.operands[0]), _constant(condition, part.operands[1]))
        for part in both
        if part.opcode == "compare" and part.attributes.get("direction") == "EQ"
    ]
    if len(less) == 2 and equal == [less[0]] and less[0][1] == 0:  # of the high half
        return (*less[1], less[0][0])
    return None


def _less(condition: Computation, test: Instruction) -> tuple[int, int] | None:
    """The same of one comparison."""
    if test.opcode != "compare" or test.attributes.get("direction") != "LT":
        return None
    index = _carried_index(condition, test.operands[0])
    limit = _constant(condition, test.operands[1])
    return None if index is None or limit is None else (index, limit)


def _carried_index(computation: Computation, name: str) -> int | None:
    """Which of the values that a loop carries this is, if it is one as it came in"""
    instruction = _moved(computation, name)
    if instruction.opcode != "get-tuple-element":
        return None
    source = computation.by_name[instruction.operands[0]]
    return int(instruction.attributes["index"]) if source.opcode == "parameter" else None


def _argument(computation: Computation, name: str, sites: _Sites) -> int | None:
    """A constant, or a parameter that is one where the computation is called."""
    instruction = _moved(computation, name)
    while instruction.opcode == "parameter" and (site := sites.get(computation.name)):
        computation, call = site
        instruction = _moved(computation, call.operands[int(instruction.arguments)])
    return _constant(computation, instruction.name)


def _constant(computation: Computation, name: str) -> int | None:
    instruction = _moved(computation, name)
    if instruction.opcode != "constant" or not instruction.arguments.lstrip("-").isdigit():
        return None
    return int(instruction.arguments)


def _moved(computation: Computation, name: str) -> Instruction:
    """What an integer was made by, before it was moved or seen as another type."""
    instruction = computation.by_name[name]
    while instruction.opcode in ("copy", "bitcast", "bitcast-convert", "convert"):
        instruction = computation.by_name[instruction.operands[0]]
    return instruction
