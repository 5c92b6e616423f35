"""How long a step takes by the compiler's own estimates, part by part.

The time of what runs one after another is added up: operations by their estimated cycles at the
clock of the chip's matrix units, what has no estimate by the bytes that it reads and writes, and
collectives that nothing overlaps by their bytes on the wire. Computations that run several times
count as often.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from harness.base.typed import STRICT
from harness.compiler.cycles import signature
from harness.compiler.executions import Executions
from harness.compiler.flops import product_flops
from harness.compiler.hlo_text import Computation, Instruction, Module
from harness.compiler.origins import UNNAMED, module_path, origin
from harness.compiler.schedule import CALLERS, KERNEL, NO_WORK, moved, scheduled
from harness.compiler.slices import exchanges, wire, within_a_slice
from harness.compiler.target import Target
from harness.devices.chips import Chip
from harness.record.graph import Collective

LONG = 1e-6
"""Seconds from which on an operation counts among those that have no estimate. Copies of scalars
and the like are thousands, and take none."""

_COLLECTIVES = (
    "all-gather", "all-reduce", "all-to-all", "collective-broadcast", "collective-permute",
    "ragged-all-to-all", "reduce-scatter",
)  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """Seconds of a step on one device, by what takes them.

    products:    fusions with a matrix product, by estimated cycles
    fusions:     other operations with an estimate
    copies:      copies with an estimate
    kernels:     hand-written ones, by the cycles of their bundles
    unestimated: what has no estimate: its bytes at the bandwidth of the memory
    exposed:     collectives within a slice while which nothing else runs
    dcn:         collectives between slices
    hidden:      collectives within a slice while which other work runs: beside the step's time
    """

    __pydantic_config__ = STRICT

    products: float = 0.0
    fusions: float = 0.0
    copies: float = 0.0
    kernels: float = 0.0
    unestimated: float = 0.0
    exposed: float = 0.0
    dcn: float = 0.0
    hidden: float = 0.0

    @property
    def seconds(self) -> float:
        """The step's time: all of it but what is hidden."""
        return float(sum(getattr(self, part) for part in IN_TURN))

    def times(self, n: int) -> Parts:
        """The parts of `n` executions."""
        return Parts(**{f.name: n * getattr(self, f.name) for f in fields(self)})

    def __add__(self, other: Parts) -> Parts:
        return Parts(
            **{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        )


IN_TURN = ("products", "fusions", "copies", "kernels", "unestimated", "exposed", "dcn")
"""The parts that are a step's time, each a field of Parts."""


@dataclass(frozen=True)
class Predicted:
    """What is predicted of one execution of a module.

    work:    by path of the model's module, its layers taken together
    missing: why it is no time: operations that were not waited for, kernels, what a chip's table
             does not know; () where nothing is missing
    """

    __pydantic_config__ = STRICT

    work: dict[str, Parts]
    missing: tuple[str, ...] = ()

    @property
    def parts(self) -> Parts:
        """All of it."""
        return sum(self.work.values(), Parts())

    def times(self, n: int) -> Predicted:
        """Of `n` executions."""
        return Predicted({path: parts.times(n) for path, parts in self.work.items()}, self.missing)

    def __add__(self, other: Predicted) -> Predicted:
        paths = sorted({*self.work, *other.work})
        work = {p: self.work.get(p, Parts()) + other.work.get(p, Parts()) for p in paths}
        return Predicted(work, tuple(dict.fromkeys((*self.missing, *other.missing))))


def predicted(
    module: Module,
    runs: Executions,
    collectives: Sequence[Collective],
    cycles: Mapping[str, int | None],
    chip: Chip | None,
    target: Target,
    devices: int,
) -> Predicted:
    """The time of one execution.

    module:      the optimized, scheduled one
    collectives: of it
    cycles:      estimates by signature; None for what has none, no entry for what is not known
    chip:        of the target; None where its numbers are not known
    devices:     of the target
    """
    if chip is None or chip.clock is None:
        return Predicted({}, (f"the clock of {target.chip} is not published",))
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    not_known: Counter[str] = Counter()
    kernels = 0
    bandwidth = chip.hbm_bandwidth / chip.devices
    for computation, instruction, n in in_turn(module, runs):
        of = signature(module, computation, instruction)
        if instruction.target == KERNEL and cycles.get(of) is None:
            kernels += n
            continue
        if of not in cycles:
            not_known[instruction.opcode] += n
        estimate = cycles.get(of)
        path = module_path(origin(instruction)) or UNNAMED
        if estimate is not None:
            seconds[path, part_of(module, instruction)] += n * estimate / chip.clock
        elif (time := moved(module, computation, instruction) / bandwidth) > LONG:
            seconds[path, "unestimated"] += n * time
    missing = [
        f"{n} executions of {opcode} have no estimate yet" for opcode, n in not_known.items()
    ]
    missing += no_estimate(kernels)
    for path, part, time in communication(module, runs, collectives, chip, target, devices):
        seconds[path, part] += time
    if chip.dcn_bandwidth is None and target.slices > 1:
        missing.append(f"the bandwidth between slices of {target.chip} is not published")
    return Predicted(by_path(seconds), tuple(dict.fromkeys(missing)))


def no_estimate(kernels: int) -> tuple[str, ...]:
    """What is missing where so many executions of hand-written kernels have no time."""
    return (f"{kernels} executions of hand-written kernels have no estimate",) if kernels else ()


def by_path(seconds: Mapping[tuple[str, str], float]) -> dict[str, Parts]:
    """Parts by path of the model's module, out of seconds by path and part."""
    work: dict[str, Parts] = defaultdict(Parts)
    for (path, part), time in sorted(seconds.items()):
        work[path] += Parts(**{part: time})
    return dict(work)


def communication(
    module: Module,
    runs: Executions,
    collectives: Sequence[Collective],
    chip: Chip,
    target: Target,
    devices: int,
) -> Iterator[tuple[str, str, float]]:
    """Path of the module, part and seconds of each collective.

    Nothing of those between slices, where the chip's bandwidth between slices is not known.
    """
    if chip.dcn_bandwidth is not None:
        for one in exchanges(module, runs, collectives, devices, target.slices):
            path = module_path(one.op_name) or UNNAMED
            yield path, "dcn", one.total_bytes / chip.dcn_bandwidth * chip.devices
    for collective in collectives:
        members = within_a_slice(collective, devices, target.slices)
        if members is not None:
            path = module_path(collective.op_name) or UNNAMED
            moved_bytes = collective.count * wire(collective, members)
            part = "hidden" if collective.overlapped else "exposed"
            yield path, part, moved_bytes / link_bandwidth(chip, target)


def unknown(module: Module, cycles: Mapping[str, int | None]) -> bool:
    """Whether an operation of a module is of a kind that `cycles` has no entry for."""
    return any(
        signature(module, computation, instruction) not in cycles
        for computation, instruction in _operations(module)
        if instruction.target != KERNEL
    )


def link_bandwidth(chip: Chip, target: Target) -> float:
    """Bytes a second that a device receives over its links within a slice, all of them at once.

    A chip has two links along each dimension of its network; in a slice that is two chips long in
    one, it uses one of them, and in one of one chip none.
    """
    sizes = [int(size) for size in target.topology.partition(":")[2].split("x")]
    used = sum(min(size - 1, 2) for size in sizes)
    receiving = chip.ici_bandwidth / 2 / chip.devices
    return receiving * max(used, 1) / (2 * len(sizes))


def _operations(module: Module) -> Iterator[tuple[Computation, Instruction]]:
    """What runs one after another and does work: no collectives, no copies in the background."""
    for computation in scheduled(module):
        for instruction in computation.instructions:
            opcode = instruction.opcode
            if opcode in NO_WORK or opcode in CALLERS or opcode in ("send", "recv"):
                continue
            if opcode.endswith(("-start", "-update")):
                continue
            if not opcode.endswith("-done") and not _is_collective(module, instruction):
                yield computation, instruction


def in_turn(module: Module, runs: Executions) -> Iterator[tuple[Computation, Instruction, int]]:
    """What runs one after another and does work, with how often."""
    for computation, instruction in _operations(module):
        if n := runs.count.get(computation.name, 0):
            yield computation, instruction, n


def _is_collective(module: Module, instruction: Instruction) -> bool:
    """Whether it is a collective, or a fusion of nothing but one and what wraps it.

    One that is joined with work has that work's estimate.
    """
    if instruction.opcode in _COLLECTIVES:
        return True
    if instruction.opcode != "fusion":
        return False
    bodies = [module.by_name[name].instructions for name in instruction.calls]
    opcodes = {i.opcode for body in bodies for i in body}
    return bool(opcodes & {*_COLLECTIVES}) and not opcodes & {"convolution", "dot", "fusion"}


def part_of(module: Module, instruction: Instruction) -> str:
    """The part of an operation that is no collective."""
    if instruction.target == KERNEL:
        return "kernels"
    if instruction.opcode.startswith("copy"):
        return "copies"
    bodies = [module.by_name[name] for name in instruction.calls]
    if any(product_flops(module, body, inner) for body in bodies for inner in body.instructions):
        return "products"
    return "fusions"
