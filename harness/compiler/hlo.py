"""From the text of an optimized HLO module to the facts that two engines are compared by."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from harness.base.errors import BadInput
from harness.compiler.facts import Collective, ModuleGraph
from harness.compiler.flops import flops
from harness.compiler.hlo_text import (
    Array,
    Computation,
    Instruction,
    Module,
    arrays,
    elements,
    parse,
)

_COLLECTIVES = {
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
}
_TRIP_COUNT = re.compile(r'known_trip_count\\?":\s*\{\s*\\?"n\\?":\s*\\?"(\d+)')
_ALLOCATION = re.compile(r"^allocation \d+: size (\d+)(, color \d+)?", re.MULTILINE)
_TOTAL = re.compile(r"^Total bytes used: (\d+)", re.MULTILINE)


def parse_module(
    text: str, *, unoptimized: str | None = None, buffer_assignment: str | None = None
) -> ModuleGraph:
    """The facts of one optimized module.

    `unoptimized` is the text of the same module before optimization: it alone shows which blocks
    the trainer asked to recompute. `buffer_assignment` is XLA's report of that name. Either may
    be left out, and then what it would have shown is None. Text that is cut off, or is no such
    text, is `BadInput`.
    """
    module = parse(text)
    memory = None if buffer_assignment is None else assigned_memory(buffer_assignment)
    try:
        barriers = None if unoptimized is None else _barriers(parse(unoptimized))
        return _facts(module, barriers, memory)
    except (KeyError, IndexError, ValueError) as error:
        raise BadInput(
            f"The HLO module {module.name} holds an instruction of a form that is not known here "
            f"({error!r}). Is it of another XLA version? Teach harness/graph/hlo.py that form."
        ) from error


def _facts(module: Module, barriers: int | None, memory: int | None) -> ModuleGraph:
    runs = _Executions.of(module)
    instructions = [i for c in module.computations for i in c.instructions]
    return ModuleGraph(
        name=module.name,
        instructions=len(instructions),
        opcodes=dict(sorted(Counter(i.opcode for i in instructions).items())),
        collectives=_collectives(module, runs),
        flops=sum(n * flops(c, i) for c, i, n in runs.each(module)),
        peak_memory_bytes=memory,
        parameters_bytes=sum(
            array.bytes
            for instruction in module.entry.instructions
            if instruction.opcode == "parameter"
            for array in arrays(instruction.shape)
        ),
        remat=barriers,
        xla_remat=sum(
            n
            for _, i, n in runs.each(module)
            if ".remat" in i.name and i.opcode != "get-tuple-element"
        ),
        unbounded_loops=runs.unbounded_loops,
        custom_calls=_custom_calls(module, runs),
        fingerprint=_fingerprint(module),
    )


def assigned_memory(text: str) -> int:
    """Bytes of main memory in a buffer assignment.

    XLA marks other memories than the main one (a TPU's VMEM and SMEM, the host's) with a colour;
    those do not count. The report ends with its own total, which proves that it is whole.
    """
    allocations = [(int(size), bool(color)) for size, color in _ALLOCATION.findall(text)]
    total = _TOTAL.search(text)
    if total is None or int(total[1]) != sum(size for size, _ in allocations):
        raise BadInput(
            "The buffer assignment is damaged or cut off: its allocations do not add up to its "
            "'Total bytes used'. Make the dump again."
        )
    return sum(size for size, colored in allocations if not colored)


@dataclass(frozen=True)
class _Executions:
    """How often each computation runs, by name, and an instruction that calls it."""

    count: dict[str, int]
    caller: dict[str, Instruction]
    unbounded_loops: int

    @classmethod
    def of(cls, module: Module) -> _Executions:
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


def _collectives(module: Module, runs: _Executions) -> tuple[Collective, ...]:
    count: Counter[tuple[str, str, str, int, str, str]] = Counter()
    for computation, instruction, n in runs.each(module):
        kind = instruction.opcode.removesuffix("-start")
        if kind not in _COLLECTIVES or n == 0 or _is_repeated(computation, instruction):
            continue
        output = arrays(_output(instruction))
        caller = runs.caller.get(computation.name, instruction)
        # A TPU has no opcode for a reduce-scatter of its own: it is a fusion of this name, which
        # reduces and then keeps this device's slice.
        if kind == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
            kind, output = "reduce-scatter", arrays(computation.root.shape)
        key = (
            kind,
            _shape(output),
            "+".join(sorted({array.dtype for array in output})),
            sum(array.bytes for array in output),
            instruction.attributes.get("replica_groups")
            or instruction.attributes.get("source_target_pairs", ""),
            _origin(instruction) or _origin(caller),
        )
        count[key] += n
    return tuple(Collective(*key, count=n) for key, n in sorted(count.items()))


def _is_repeated(computation: Computation, instruction: Instruction) -> bool:
    """True where a TPU mentions an asynchronous collective again after its start.

    The TPU compiler overlaps a collective with other work by writing it into several fusions: one
    that starts it (with the custom call AsyncCollectiveStart), those that go on with it, and one
    that ends it. Each holds the collective once more.
    """
    if "async_collective_fusion_config" not in instruction.attributes.get("backend_config", ""):
        return False
    return not any(i.target == "AsyncCollectiveStart" for i in computation.instructions)


def _output(instruction: Instruction) -> str:
    """Shape of a collective's result. Most start operations have (operand, result, …) instead."""
    if instruction.opcode.endswith("-start") and instruction.opcode != "all-reduce-start":
        return elements(instruction.shape)[1]
    return instruction.shape


def _shape(output: tuple[Array, ...]) -> str:
    runs = [(str(array), len(list(same))) for array, same in groupby(output)]
    texts = [text if n == 1 else f"{text}×{n}" for text, n in runs]
    return texts[0] if len(output) == 1 else f"({', '.join(texts)})"


def _origin(instruction: Instruction) -> str:
    """Where an instruction comes from, free of what changes between runs and machines.

    torch_xla numbers each scope ("LlamaMLP.7/aten__mm"), and a source path depends on where a
    package is installed.
    """
    metadata = instruction.attributes.get("metadata", "")
    op_name = _metadata(metadata, "op_name")
    *scopes, operation = op_name.split("/")
    if scopes:
        return "/".join([*(re.sub(r"\.\d+$", "", scope) for scope in scopes), operation])
    source = "/".join(_metadata(metadata, "source_file").split("/")[-2:])
    return f"{operation} ({source})" if operation and source else operation or source


def _metadata(metadata: str, key: str) -> str:
    match = re.search(rf'\b{key}="((?:[^"\\]|\\.)*)"', metadata)
    return match[1] if match else ""


def _custom_calls(module: Module, runs: _Executions) -> dict[str, int]:
    count: Counter[str] = Counter()
    for _, instruction, n in runs.each(module):
        if instruction.opcode == "custom-call" and n:
            count[instruction.target] += n
    return dict(sorted(count.items()))


def _barriers(module: Module) -> int:
    runs = _Executions.of(module)
    return sum(
        n for _, i, n in runs.each(module) if i.opcode in ("opt-barrier", "optimization-barrier")
    )


def _fingerprint(module: Module) -> str:
    """Hash of the graph with each name replaced by its place.

    Left out: metadata (source positions), frontend attributes (they hold names), the origin of a
    value, channel numbers, and the compiler's own notes (estimates, memory, algorithms) except a
    custom call's, which hold its kernel.
    """
    place = {c.name: f"computation {n}" for n, c in enumerate(module.computations)}
    digest = hashlib.sha256()
    for computation in module.computations:
        local = {i.name: str(n) for n, i in enumerate(computation.instructions)}
        names = place | local

        def numbered(text: str, names: dict[str, str] = names) -> str:
            return re.sub(r"%([\w.\-]+)", lambda m: "%" + names.get(m[1], m[1]), text)

        digest.update(f"{'ENTRY' if computation.is_entry else ''}{{\n".encode())
        for instruction in computation.instructions:
            left_out = {"metadata", "frontend_attributes", "origin", "channel_id"}
            if instruction.opcode != "custom-call":
                left_out.add("backend_config")
            kept = {k: v for k, v in instruction.attributes.items() if k not in left_out}
            line = (
                "ROOT" if instruction.is_root else "",
                instruction.shape,
                instruction.opcode,
                numbered(instruction.arguments),
                *(f"{key}={numbered(value)}" for key, value in sorted(kept.items())),
            )
            digest.update("\t".join(line).encode() + b"\n")
    return digest.hexdigest()
