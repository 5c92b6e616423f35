"""The compiled step: what is kept of a compiled graph, and what graph.json holds."""

from __future__ import annotations

from dataclasses import dataclass

from harness.base.errors import BadInput
from harness.base.typed import STRICT, Count


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

    __pydantic_config__ = STRICT

    kind: str
    shape: str
    dtype: str
    bytes: Count
    groups: str
    op_name: str
    count: Count
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

    __pydantic_config__ = STRICT

    name: str
    instructions: Count
    opcodes: dict[str, Count]
    collectives: tuple[Collective, ...]
    flops: Count
    peak_memory_bytes: Count | None
    parameters_bytes: Count
    remat: Count | None
    xla_remat: Count
    unbounded_loops: Count
    custom_calls: dict[str, Count]
    fingerprint: str

    def __post_init__(self) -> None:
        if self.instructions < 1:
            raise BadInput(f"The module {self.name!r} has no instruction: that is no graph.")
