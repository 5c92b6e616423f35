"""From the text of an optimized HLO module to the facts that two engines are compared by."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from itertools import groupby

from harness.base.errors import BadInput
from harness.compiler.buffers import read_memory
from harness.compiler.executions import Executions
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
from harness.compiler.origins import DATA, Consumers, origin
from harness.compiler.schedule import is_overlapped
from harness.record.graph import Collective, ModuleGraph

_COLLECTIVES = {
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
}

_BETWEEN_SLICES = re.compile(r'_xla_megascale_\w+=(?:"[^"]*"|\{\{[\d,{}]*\}\})')
"""What libtpu says of an exchange between slices."""


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
    memory = None if buffer_assignment is None else read_memory(buffer_assignment).peak
    try:
        barriers = None if unoptimized is None else _barriers(parse(unoptimized))
        return _facts(module, barriers, memory)
    except (KeyError, IndexError, ValueError) as error:
        raise BadInput(
            f"The HLO module {module.name} holds an instruction of a form that is not known here "
            f"({error!r}). Is it of another XLA version? Teach harness/graph/hlo.py that form."
        ) from error


def _facts(module: Module, barriers: int | None, memory: int | None) -> ModuleGraph:
    runs = Executions.of(module)
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


def _collectives(module: Module, runs: Executions) -> tuple[Collective, ...]:
    found: Counter[Collective] = Counter()
    consumers = Consumers(module)
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
        collective = Collective(
            kind=kind,
            shape=_shape(output),
            dtype="+".join(sorted({array.dtype for array in output})),
            bytes=sum(array.bytes for array in output),
            groups=instruction.attributes.get("replica_groups")
            or instruction.attributes.get("source_target_pairs", ""),
            op_name=_source(instruction, caller, consumers),
            count=0,
            overlapped=is_overlapped(computation, instruction),
        )
        found[collective] += n
    counted = [dataclasses.replace(c, count=n) for c, n in found.items()]
    return tuple(sorted(counted, key=dataclasses.astuple))


def _source(instruction: Instruction, caller: Instruction, consumers: Consumers) -> str:
    """Where a collective comes from; one that only moves an argument, what it is moved for."""
    own = origin(instruction) or origin(caller)
    return consumers.origin(caller) if own in ("", DATA) else own


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


def _custom_calls(module: Module, runs: Executions) -> dict[str, int]:
    count: Counter[str] = Counter()
    for _, instruction, n in runs.each(module):
        if instruction.opcode == "custom-call" and n:
            count[instruction.target] += n
    return dict(sorted(count.items()))


def _barriers(module: Module) -> int:
    runs = Executions.of(module)
    return sum(
        n for _, i, n in runs.each(module) if i.opcode in ("opt-barrier", "optimization-barrier")
    )


def _fingerprint(module: Module) -> str:
    """Hash of the graph with each name replaced by its place.

    Left out: metadata (source positions), frontend attributes (they hold names) except those that
    say what is exchanged between which slices, the origin of a value, channel numbers, and the
    compiler's own notes (estimates, memory, algorithms) except a custom call's, which hold its
    kernel.
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
                *_BETWEEN_SLICES.findall(instruction.attributes.get("frontend_attributes", "")),
            )
            digest.update("\t".join(line).encode() + b"\n")
    return digest.hexdigest()
