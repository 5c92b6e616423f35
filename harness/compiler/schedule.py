"""What the compiler's schedule tells: how much memory is moved, and what waits for what.

The optimized module of a TPU is scheduled: the instructions of a computation run in their order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from harness.compiler.executions import Executions
from harness.compiler.hlo_text import Computation, Instruction, Module, arrays

NO_WORK = {
    "after-all", "bitcast", "constant", "get-tuple-element", "opt-barrier", "parameter",
    "partition-id", "replica-id", "tuple",
}  # fmt: skip
"""They move no data."""
KERNEL = "tpu_custom_call"
"""Target of the custom call that a hand-written kernel (Pallas, Mosaic) is."""
CALLERS = {"call", "conditional", "while"}
"""What they call is scheduled by itself."""
_SLICES = {"dynamic-slice", "gather", "slice"}
_LAYOUT = re.compile(r"\{([\d,]*)[:}]")
_KERNEL_NAME = re.compile(r'kernel_name\\?"?[=:]\s*\\?"([^"\\]+)')


def scheduled(module: Module) -> Iterator[Computation]:
    """The computations that run instruction by instruction: no fusions, reducers or wrappers."""
    names, found = [module.entry.name], set()
    while names:
        name = names.pop()
        if name in found:
            continue
        found.add(name)
        yield module.by_name[name]
        for instruction in module.by_name[name].instructions:
            if instruction.opcode in CALLERS:
                names += instruction.calls


def bytes_accessed(module: Module, runs: Executions) -> Iterator[tuple[Instruction, int]]:
    """Bytes that each scheduled instruction reads and writes in one execution on one device.

    It reads its operands and writes its result; what happens within a fusion stays in registers. An
    operand of which a fusion only takes slices counts as the slices. Copies between memories (a
    TPU's prefetches into VMEM) count like any other; collectives do too.
    """
    for computation in scheduled(module):
        n = runs.count.get(computation.name, 0)
        for instruction in computation.instructions:
            if size := n * moved(module, computation, instruction):
                yield instruction, size


def moved(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes that one execution of an instruction reads and writes."""
    opcode = instruction.opcode
    # A pair's start has done what the pair does.
    if opcode in NO_WORK or opcode in CALLERS or opcode.endswith(("-done", "-update")):
        return 0
    operands = [computation.by_name[name] for name in instruction.operands]
    if opcode.endswith("-start"):
        return 2 * sum(_bytes(operand.shape) for operand in operands)
    read = [_bytes(operand.shape) for operand in operands]
    written = _bytes(instruction.shape)
    if opcode in _SLICES:
        read[0] = written
    elif opcode == "dynamic-update-slice":
        read[0], written = 0, read[1]
    elif opcode == "fusion":
        body = module.by_name[instruction.calls[0]]
        read = [_read_by(body, number, size) for number, size in enumerate(read)]
        if body.root.opcode == "dynamic-update-slice":
            update = body.by_name[body.root.operands[1]]
            written = _bytes(update.shape)
    return sum(read) + written


def _read_by(fusion: Computation, number: int, whole: int) -> int:
    """What a fusion reads of its parameter `number`, which has `whole` bytes."""
    parameter = next(
        i for i in fusion.instructions if i.opcode == "parameter" and i.arguments == str(number)
    )
    users = [i for i in fusion.instructions if parameter.name in i.operands]
    read = 0
    for user in users:
        if user.operands[0] != parameter.name or user.operands.count(parameter.name) > 1:
            return whole
        if user.opcode in _SLICES:
            read += _bytes(user.shape)
        elif user.opcode != "dynamic-update-slice":  # which reads nothing of what it updates
            return whole
    return min(read, whole)


def layout_copies(module: Module, runs: Executions) -> tuple[int, int]:
    """Copies that only change an array's layout: how many run in one execution, and their bytes."""
    count = size = 0
    for computation in scheduled(module):
        n = runs.count.get(computation.name, 0)
        for instruction in computation.instructions:
            if instruction.opcode != "copy":
                continue
            source = computation.by_name[instruction.operands[0]]
            if _layout(source.shape) != _layout(instruction.shape):
                count += n
                size += n * _bytes(instruction.shape)
    return count, size


def kernels(module: Module, runs: Executions) -> dict[str, int]:
    """Executions of hand-written kernels (Pallas, Mosaic) by name."""
    found: Counter[str] = Counter()
    for _, instruction, n in runs.each(module):
        if n and instruction.target == KERNEL:
            text = " ".join(instruction.attributes.values())
            named = _KERNEL_NAME.search(text)
            found[named[1] if named else re.sub(r"[.\d]+$", "", instruction.name)] += n
    return dict(sorted(found.items()))


def is_overlapped(computation: Computation, collective: Instruction) -> bool:
    """Whether other work runs between the start of a collective and its end.

    A TPU either writes a start and a done, with what runs meanwhile between them, or joins the
    collective with that work in fusions, which the collective's own notes tell.
    """
    if "async_collective_fusion_config" in collective.attributes.get("backend_config", ""):
        return True
    if not collective.opcode.endswith("-start"):
        return False
    started = False
    for instruction in computation.instructions:
        if started and collective.name in instruction.operands:
            return False
        paired = instruction.opcode.endswith(("-start", "-done", "-update"))
        if started and not paired and instruction.opcode not in NO_WORK:
            return True
        started = started or instruction is collective
    return False


def _bytes(shape: str) -> int:
    return sum(array.bytes for array in arrays(shape))


def _layout(shape: str) -> str:
    found = _LAYOUT.search(shape)
    return found[1] if found else ""
