"""What is kept of a compiled graph, and its form in graph.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.base.errors import BadInput

VERSION = 2


@dataclass(frozen=True)
class Collective:
    """One kind of communication between devices, and how often a step does it.

    kind     all-gather, all-reduce, reduce-scatter, all-to-all, collective-permute, …
    shape    output on one device without layout, such as "f32[32,16]"; of a combined collective
             all outputs, such as "(f32[16]×2, f32[4,4])"
    dtype    element type of the output; "bf16+f32" where a combined collective mixes them
    bytes    size of the output on one device, for one execution. This is not the traffic on the
             wire, which depends on the algorithm: an all-gather over n devices receives
             bytes·(n-1)/n, a ring all-reduce about 2·bytes·(n-1)/n, a reduce-scatter
             bytes·(n-1). XLA:CPU moves bf16 as f32, so that bytes double there.
    groups   which devices talk to each other, as XLA writes it; "" where it does not say
    op_name  where it comes from: the path of scopes and the operation, such as
             "LlamaForCausalLM/lm_head/aten__mm"; without scopes the operation and its source
             file, such as "aten__mm (autograd/graph.py)"; "" where the dump has no metadata
             (torch_xla writes it only under XLA_HLO_DEBUG=1)
    count    executions in one execution of the module
    overlapped  whether other work runs between its start and its end; never on XLA:CPU
    """

    kind: str
    shape: str
    dtype: str
    bytes: int
    groups: str
    op_name: str
    count: int
    overlapped: bool = False

    @property
    def total_bytes(self) -> int:
        return self.bytes * self.count


@dataclass(frozen=True)
class ModuleGraph:
    """One compiled module, as one of its devices runs it.

    Numbers of executions (collectives, flops, custom_calls, xla_remat) count the body of a loop
    as often as it runs, and each branch of a conditional once.

    name               name of the module; torch_xla's ends in a number that changes between runs
    instructions       lines of the optimized text, also within fusions, each counted once
    opcodes            the same by opcode
    collectives        sorted; an asynchronous pair (start and done) counts once
    flops              floating-point operations of matrix products, see `harness.compiler.flops`.
                       What a custom call does, such as a Pallas kernel, is not seen.
    peak_memory_bytes  main memory (HBM on a TPU) that XLA assigned for one execution: arguments,
                       outputs, constants and temporaries; None without a buffer assignment
    parameters_bytes   arguments of the module: weights, optimizer state, batch, scalars
    remat              optimization barriers that the trainer put in: torch_xla's `checkpoint`
                       puts one around each block that is recomputed. They show only before
                       optimization; None where that text is missing
    xla_remat          instructions that XLA itself computes again to save memory
    unbounded_loops    loops whose number of iterations is not known; their bodies count once
    custom_calls       executions by target
    fingerprint        SHA-256 of the optimized graph: operations, shapes, layouts, order,
                       dataflow. Free of names, numbering, source positions and the compiler's
                       notes; blind to the values of large constants, which XLA does not print
    """

    name: str
    instructions: int
    opcodes: dict[str, int]
    collectives: tuple[Collective, ...]
    flops: int
    peak_memory_bytes: int | None
    parameters_bytes: int
    remat: int | None
    xla_remat: int
    unbounded_loops: int
    custom_calls: dict[str, int]
    fingerprint: str

    def __post_init__(self) -> None:
        if self.instructions < 1:
            raise BadInput(f"The module {self.name!r} has no instruction: that is no graph.")


def to_json(modules: Sequence[ModuleGraph]) -> dict[str, Any]:
    """Plain data for graph.json, in the order given"""
    return {"version": VERSION, "modules": [dataclasses.asdict(module) for module in modules]}


def from_json(data: Any) -> tuple[ModuleGraph, ...]:
    """The modules of a graph.json. `BadInput` for anything missing, unknown, empty or mistyped."""
    _keys(data, {"version", "modules"}, "graph.json")
    if data["version"] != VERSION:
        raise BadInput(
            f"graph.json has version {data['version']!r}; this harness reads version {VERSION}. "
            "Record the run again, or read it with the harness that wrote it."
        )
    modules = data["modules"]
    if not isinstance(modules, list) or not modules:
        raise BadInput("graph.json: modules has to be a list that is not empty.")
    return tuple(_module(module, f"modules[{i}]") for i, module in enumerate(modules))


def _module(data: Any, where: str) -> ModuleGraph:
    _keys(data, {field.name for field in dataclasses.fields(ModuleGraph)}, where)
    if not isinstance(data["collectives"], (list, tuple)):
        raise BadInput(f"graph.json: {where}.collectives has to be a list.")
    return ModuleGraph(
        name=_text(data, "name", where),
        instructions=_count(data, "instructions", where),
        opcodes=_counts(data, "opcodes", where),
        collectives=tuple(
            _collective(item, f"{where}.collectives[{i}]")
            for i, item in enumerate(data["collectives"])
        ),
        flops=_count(data, "flops", where),
        peak_memory_bytes=_optional_count(data, "peak_memory_bytes", where),
        parameters_bytes=_count(data, "parameters_bytes", where),
        remat=_optional_count(data, "remat", where),
        xla_remat=_count(data, "xla_remat", where),
        unbounded_loops=_count(data, "unbounded_loops", where),
        custom_calls=_counts(data, "custom_calls", where),
        fingerprint=_text(data, "fingerprint", where),
    )


def _collective(data: Any, where: str) -> Collective:
    _keys(data, {field.name for field in dataclasses.fields(Collective)}, where)
    return Collective(
        kind=_text(data, "kind", where),
        shape=_text(data, "shape", where),
        dtype=_text(data, "dtype", where),
        bytes=_count(data, "bytes", where),
        groups=_text(data, "groups", where),
        op_name=_text(data, "op_name", where),
        overlapped=_truth(data, "overlapped", where),
        count=_count(data, "count", where),
    )


def _keys(data: Any, expected: set[str], where: str) -> None:
    if not isinstance(data, Mapping):
        raise BadInput(f"graph.json: {where} has to be an object, not {data!r}.")
    if wrong := expected.symmetric_difference(data):
        raise BadInput(f"graph.json: {where} misses or does not know the key(s) {sorted(wrong)}.")


def _text(data: Mapping[str, Any], key: str, where: str) -> str:
    value = data[key]
    if not isinstance(value, str):
        raise BadInput(f"graph.json: {where}.{key} has to be a string, not {value!r}.")
    return value


def _truth(data: Mapping[str, Any], key: str, where: str) -> bool:
    value = data[key]
    if not isinstance(value, bool):
        raise BadInput(f"graph.json: {where}.{key} has to be true or false, not {value!r}.")
    return value


def _count(data: Mapping[str, Any], key: str, where: str) -> int:
    value = data[key]
    # bool is an int to Python, and json reads NaN as a float: neither is a count.
    if type(value) is not int or value < 0:
        raise BadInput(f"graph.json: {where}.{key} has to be a whole number, not {value!r}.")
    return value


def _optional_count(data: Mapping[str, Any], key: str, where: str) -> int | None:
    return None if data[key] is None else _count(data, key, where)


def _counts(data: Mapping[str, Any], key: str, where: str) -> dict[str, int]:
    value = data[key]
    if not isinstance(value, Mapping):
        raise BadInput(f"graph.json: {where}.{key} has to be an object, not {value!r}.")
    return {name: _count(value, name, f"{where}.{key}") for name in value}
