"""What the TPU's own compiler made of a step: the facts of a target, and their form in a Record."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.base.errors import BadInput
from harness.base.typed import STRICT, typed
from harness.compiler.buffers import Memory, read_memory
from harness.compiler.executions import Executions
from harness.compiler.flops import flops
from harness.compiler.hlo import parse_module
from harness.compiler.hlo_text import Module, parse
from harness.compiler.origins import UNNAMED, module_path, origin
from harness.compiler.predicted import Predicted
from harness.compiler.schedule import bytes_accessed, kernels, layout_copies
from harness.compiler.slices import Exchange, exchanges
from harness.record.graph import Collective, ModuleGraph

COMPILED_SCHEMA = 1

DEFAULT = "default"
"""The precision of a matrix product that asks for none."""

GENERATED = "generated"
CODE_FAILED = "failed"
NOT_WAITED_FOR = "not waited for"

Predict = Callable[[Module, Executions, Sequence[Collective]], Predicted]
"""The time of a module, of which its executions and collectives are known."""


@dataclass(frozen=True)
class Work:
    """What one module of the model makes a device do, in one execution.

    flops  of matrix products
    bytes  read and written; see `harness.compiler.schedule`
    """

    __pydantic_config__ = STRICT

    flops: int
    bytes: int


@dataclass(frozen=True)
class CompiledModule:
    """One module of a step, as one device of the target runs it.

    graph            operations, collectives, FLOPs, rematerialisation: exact
    memory           HBM that the compiler assigned
    work             by path of the model's module, its layers taken together
    layout_copies    copies that only change a layout, and
    layout_copy_bytes  their bytes
    kernels          executions of hand-written kernels by name
    code             what became of the machine code: GENERATED, FAILED, or NOT_WAITED_FOR where it
                     would have taken longer than was allowed; all else here is known before
    executions       in one step
    seconds          until everything but the code was there
    compiler_bytes   resident memory of the compiler's process by then
    traced_flops     of matrix products as the trainer traced them, on all devices together; None
                     where that is not known
    precisions       float32 matrix products as the trainer traced them, by the precision that each
                     asks for; DEFAULT for one that asks for none. None where that is not known
    predicted        its time by the compiler's estimates; None where it was not asked for
    least            the least time that it could take by the chip's peak, without kernels; None for
                     steps that were compiled before it was kept
    exchanges        what it exchanges between slices; None for steps that were compiled before it
                     was kept
    """

    __pydantic_config__ = STRICT

    graph: ModuleGraph
    memory: Memory
    work: dict[str, Work]
    layout_copies: int
    layout_copy_bytes: int
    kernels: dict[str, int]
    code: str
    executions: int
    seconds: float
    compiler_bytes: int
    traced_flops: int | None = None
    precisions: dict[str, int] | None = None
    predicted: Predicted | None = None
    least: Predicted | None = None
    exchanges: tuple[Exchange, ...] | None = None


@dataclass(frozen=True)
class CompiledStep:
    """A training step compiled for a target.

    target       its name, such as "v6e:2x2"
    libtpu       release of libtpu, and
    version      what it says of itself
    flags        LIBTPU_INIT_ARGS that it was given, and
    xla_flags    XLA_FLAGS
    devices      devices of the target, and
    device_kind  their kind; 0 and "" where libtpu knows no such slice
    digest       SHA-256 of the modules and of how often a step executes each
    error        the compiler's own words where it failed; None where it made all
    unknown      why it was ended before that, or nothing is known; None where it was not
    modules      every module that a step executes; without those that come after an error
    """

    __pydantic_config__ = STRICT

    target: str
    libtpu: str
    version: str
    flags: str
    devices: int
    device_kind: str
    digest: str
    error: str | None
    unknown: str | None
    modules: tuple[CompiledModule, ...]
    xla_flags: str = ""

    @property
    def chip(self) -> str:
        """The target's chip, such as "v6e"."""
        return self.target.rpartition(" ")[2].partition(":")[0]

    @property
    def slices(self) -> int:
        """How many slices the target has."""
        number, joined, _ = self.target.partition(" × ")
        return int(number) if joined else 1

    @property
    def compiles(self) -> bool:
        """Whether the compiler made all that it was given time for."""
        return self.error is None and self.unknown is None

    @property
    def flops(self) -> int:
        """Floating-point operations of matrix products in a step, on one device."""
        return sum(m.executions * m.graph.flops for m in self.modules)

    @property
    def precisions(self) -> Counter[str] | None:
        """Float32 matrix products of a step by the precision that they ask for, as traced."""
        asked: Counter[str] = Counter()
        for module in self.modules:
            if module.precisions is None:
                return None
            asked.update({k: module.executions * n for k, n in module.precisions.items()})
        return asked

    @property
    def traced_flops(self) -> int | None:
        """The same before the compiler cut the step up for `devices` devices, on all of them."""
        traced = [(m.executions, m.traced_flops) for m in self.modules]
        if any(flops is None for _, flops in traced):
            return None
        return sum(executions * (flops or 0) for executions, flops in traced)

    @property
    def bytes_accessed(self) -> int:
        """Bytes read and written in a step, on one device."""
        return sum(work.bytes for work in self.work.values())

    @property
    def peak_bytes(self) -> int:
        """HBM that a device needs: that of the module that needs most."""
        return max((m.memory.peak for m in self.modules), default=0)

    @property
    def collectives(self) -> tuple[Collective, ...]:
        """The collectives of a step, with how often a step executes them."""
        return tuple(
            dataclasses.replace(c, count=c.count * m.executions)
            for m in self.modules
            for c in m.graph.collectives
        )

    @property
    def exchanges(self) -> tuple[Exchange, ...] | None:
        """What a step exchanges between slices, with how often; None where that is not kept."""
        found: list[Exchange] = []
        for module in self.modules:
            if module.exchanges is None:
                return None
            found += (
                dataclasses.replace(e, count=e.count * module.executions) for e in module.exchanges
            )
        return tuple(found)

    @property
    def exchanged_bytes(self) -> int | None:
        """Bytes that a device receives of other slices in a step; None where that is not kept."""
        found = self.exchanges
        return None if found is None else sum(exchange.total_bytes for exchange in found)

    @property
    def work(self) -> dict[str, Work]:
        """What each module of the model makes a device do in a step."""
        found: dict[str, Work] = {}
        for module in self.modules:
            for path, work in module.work.items():
                known = found.get(path, Work(0, 0))
                found[path] = Work(
                    known.flops + module.executions * work.flops,
                    known.bytes + module.executions * work.bytes,
                )
        return found

    @property
    def kernels(self) -> dict[str, int]:
        """Executions of hand-written kernels in a step, by name."""
        found: Counter[str] = Counter()
        for module in self.modules:
            for kernel, n in module.kernels.items():
                found[kernel] += n * module.executions
        return dict(sorted(found.items()))

    @property
    def predicted(self) -> Predicted | None:
        """The step's time; None where it was not asked for, or not all of it compiled."""
        return self._time([(m.executions, m.predicted) for m in self.modules])

    @property
    def least(self) -> Predicted | None:
        """The least time that the step could take by the chip's peak; None where it is not kept."""
        return self._time([(m.executions, m.least) for m in self.modules])

    def _time(self, modules: Sequence[tuple[int, Predicted | None]]) -> Predicted | None:
        found = Predicted({})
        for executions, one in modules:
            if one is None:
                return None
            found += one.times(executions)
        return found if self.modules and self.compiles else None

    @property
    def fingerprint(self) -> tuple[tuple[str, int], ...]:
        """Equal for steps that are the same instruction by instruction."""
        return tuple((m.graph.fingerprint, m.executions) for m in self.modules)

    @property
    def seconds(self) -> float:
        """What compiling took, without generating code."""
        return sum(m.seconds for m in self.modules)

    def counts(self) -> dict[str, int]:
        """Collectives a step by kind."""
        found: Counter[str] = Counter()
        for collective in self.collectives:
            found[collective.kind] += collective.count
        return dict(sorted(found.items()))


def compiled_module(
    optimized: str,
    unoptimized: str | None,
    buffer_assignment: str,
    usage_report: str | None,
    *,
    devices: int,
    slices: int,
    predict: Predict | None = None,
    least: Predict | None = None,
    **outside: Any,
) -> CompiledModule:
    """The facts in the texts that libtpu dumps; `outside` are those that stand in none of them.

    devices: of the target, on all its `slices` together
    predict: predicts the module's time, where that is asked for
    least:   tells the least that it could be, where that is asked for

    Raises BadInput for a text that is cut off, and for an exchange between slices of a form that is
    not known.
    """
    module = parse(optimized)
    traced = None if unoptimized is None else parse(unoptimized)
    runs = Executions.of(module)
    memory = read_memory(buffer_assignment, usage_report)
    graph = parse_module(optimized, unoptimized=unoptimized)
    copies, size = layout_copies(module, runs)
    return CompiledModule(
        graph=dataclasses.replace(graph, peak_memory_bytes=memory.peak),
        memory=memory,
        work=_work(module, runs),
        layout_copies=copies,
        layout_copy_bytes=size,
        kernels=kernels(module, runs),
        traced_flops=None if traced is None else _flops(traced),
        precisions=None if traced is None else _precisions(traced),
        predicted=None if predict is None else predict(module, runs, graph.collectives),
        least=None if least is None else least(module, runs, graph.collectives),
        exchanges=exchanges(module, runs, graph.collectives, devices, slices),
        **outside,
    )


def _flops(module: Module) -> int:
    """Of matrix products in one execution of a module."""
    each = Executions.of(module).each(module)
    return sum(n * flops(computation, instruction) for computation, instruction, n in each)


def _precisions(module: Module) -> dict[str, int]:
    """Float32 matrix products in one execution of a module, by the precision they ask for.

    A TPU multiplies bfloat16: a float32 product that asks for no more is made of one such product,
    "high" of three and "highest" of six.
    """
    asked: Counter[str] = Counter()
    for computation, instruction, n in Executions.of(module).each(module):
        if instruction.shape.startswith("f32") and flops(computation, instruction):
            words = instruction.attributes.get("operand_precision", DEFAULT).strip("{}").split(",")
            asked[words[0]] += n
    return dict(asked)


def _work(module: Module, runs: Executions) -> dict[str, Work]:
    moved: Counter[str] = Counter()
    for instruction, size in bytes_accessed(module, runs):
        moved[module_path(origin(instruction)) or UNNAMED] += size
    multiplied: Counter[str] = Counter()
    for computation, instruction, n in runs.each(module):
        if done := n * flops(computation, instruction):
            multiplied[module_path(origin(instruction)) or UNNAMED] += done
    return {p: Work(multiplied[p], moved[p]) for p in sorted({*moved, *multiplied})}


def to_json(step: CompiledStep) -> dict[str, Any]:
    """Plain data for a file of a Record."""
    return {"version": COMPILED_SCHEMA, "step": dataclasses.asdict(step)}


def from_json(data: Any) -> CompiledStep:
    """The step that `to_json` made these plain data of. Raises BadInput for any others."""
    if not isinstance(data, dict) or data.get("version") != COMPILED_SCHEMA:
        raise BadInput(
            f"compiled facts are of another version than {COMPILED_SCHEMA}: compile the step again"
        )
    step = typed(CompiledStep, data.get("step"))
    if step.compiles and not step.modules:
        raise BadInput(f"compiled facts for {step.target} hold no module and no error")
    return step
