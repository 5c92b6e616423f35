"""How many bundles a hand-written kernel executes: its scalar unit followed, bundle by bundle.

Under --xla_jf_dump_llo_text libtpu writes the VLIW bundles of what it compiled, one a line
("…-final_bundles.txt"). A kernel's loops run over its grid, and blocks that it has nothing to do
for are jumped over: which, its scalar instructions decide. These are executed here; what vectors,
addresses and memory hold is not known, and where a branch depends on it, nothing is told. A bundle
takes a cycle; that one waits for memory is not seen.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

from harness.base.errors import BadInput

DELAY = 4
"""Bundles behind a branch that are executed whether it jumps or not."""
MOST = 10**8
"""Bundles with scalar instructions after which a kernel is given up."""

_LINE = re.compile(r"^\s*(?:0x)?[0-9a-f]+\s+(LH|LB|LE|PB|PF|CT)?:\s*>*\s*\{(.*)$")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_REGION = re.compile(r"(?:Start|Start/End empty) region (\d+)")
_REGISTER = re.compile(r"^(!?)%(\w+)_([sp]\d+)$")
_RESULT = re.compile(r"^%\w+_([sp]\d+) = (.*)$", re.DOTALL)
_PREDICATED = re.compile(r"^(\S+)(?: \((!?%\w+)(?:, [^)]*)?\),?)? ?(.*)$", re.DOTALL)
_BRANCH = re.compile(r"sbr\.rel \((!?%\w+)\) target bundleno = \d+ \(0x[0-9a-f]+\), region = (\d+)")
_SLOT = re.compile(r"\[smem:\[(#allocation\w+)\]\]")

Value = int | bool | None
Registers = dict[str, Value]

_COMPARED: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip
_COMPUTED: dict[str, Callable[[int, int], int]] = {
    "sadd.s32": lambda a, b: a + b, "ssub.s32": lambda a, b: a - b,
    "smul.u32": lambda a, b: a * b, "sand.u32": lambda a, b: a & b, "sor.u32": lambda a, b: a | b,
    "sxor.u32": lambda a, b: a ^ b, "sshll.u32": lambda a, b: a << b,
    "sshrl.u32": lambda a, b: (a & 0xFFFFFFFF) >> b, "sshra.s32": lambda a, b: a >> b,
}  # fmt: skip


@dataclass(frozen=True)
class _Operation:
    """A scalar instruction: what it computes, under which predicate, into which register."""

    into: str
    opcode: str
    predicate: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class _Bundle:
    """One line with something for the scalar unit in it."""

    at: int
    operations: tuple[_Operation, ...]
    stores: tuple[tuple[str, str, str], ...]
    branch: tuple[str, str] | None


def executed_bundles(text: str) -> int:
    """How many bundles of a kernel one execution of it takes.

    Raises BadInput for a text that is cut off, and for a kernel whose way is not known beforehand.
    """
    lines, labels = _lines(text)
    bundles = [bundle for n, line in enumerate(lines) if (bundle := _bundle(n, line))]
    for region in (bundle.branch[1] for bundle in bundles if bundle.branch is not None):
        if region not in labels:
            raise BadInput(f"the bundles are cut off: there is no region {region}")
    places = [bundle.at for bundle in bundles]
    registers: Registers = {}
    memory: dict[str, Value] = {}
    count = at = steps = 0
    jump: tuple[int, int] | None = None  # of a branch that was taken: behind which bundle, and to
    while at < len(lines):
        steps += 1
        if steps > MOST:
            raise BadInput("the kernel's loops do not end")
        index = bisect_left(places, at)
        end = places[index] if index < len(places) else len(lines) - 1
        end = end if jump is None else min(end, jump[0])
        count, at = count + end + 1 - at, end + 1
        here = index < len(places) and places[index] == end
        taken = _execute(bundles[index], registers, memory) if here else None
        if jump is not None and jump[0] == end:
            at, jump = jump[1], None
        elif taken is not None:
            jump = (end + DELAY, labels[taken])
    return count


def _lines(text: str) -> tuple[list[str], dict[str, int]]:
    """The bundles, and which of them a branch to a region jumps to."""
    lines: list[str] = []
    labels: dict[str, int] = {}
    for whole in re.split(r"\n(?=\s*(?:0x)?[0-9a-f]+\s+(?:[LPC][A-Z])?:)", text):
        found = _LINE.match(whole.replace("\n", " "))
        if found is None:
            continue
        if found[1]:
            for region in _REGION.findall(whole):
                labels.setdefault(region, len(lines))
        lines.append(_COMMENT.sub("", found[2]))
    if not lines:
        raise BadInput("there are no bundles in what libtpu wrote of the kernel")
    return lines, labels


def _bundle(at: int, line: str) -> _Bundle | None:
    operations, stores, branch = [], [], None
    for part in line.rpartition("}")[0].split(";;"):
        instruction = part.strip()
        if found := _BRANCH.search(instruction):
            branch = (found[1], found[2])
        elif result := _RESULT.match(instruction):
            opcode, predicate, rest = _parts(result[2])
            arguments = tuple(a.strip() for a in rest.split(",")) if rest else ()
            operations.append(_Operation(result[1], opcode, predicate, arguments))
        elif (slot := _SLOT.search(instruction)) and " sst " in f" {instruction} ":
            _, predicate, rest = _parts(instruction.partition(" = ")[2] or instruction)
            stores.append((slot[1], predicate, rest.rpartition(" ")[2]))
        elif instruction.startswith("sbr") or " sbr" in instruction:
            raise BadInput(f"the kernel branches in a way that is not known: {instruction[:80]}")
    if operations or stores or branch:
        return _Bundle(at, tuple(operations), tuple(stores), branch)
    return None


def _parts(text: str) -> tuple[str, str, str]:
    """Opcode, predicate ("" without one) and the rest of an instruction."""
    found = _PREDICATED.match(text)
    assert found is not None, "it matches any text"
    return found[1], found[2] or "", found[3]


def _execute(bundle: _Bundle, registers: Registers, memory: dict[str, Value]) -> str | None:
    """Execute a bundle: it reads before it writes. Returns the region that it branches to."""
    written: Registers = {}
    for operation in bundle.operations:
        guard = _read(operation.predicate, registers) if operation.predicate else True
        if guard is None:
            written[operation.into] = None
        elif guard:
            written[operation.into] = _value(operation, registers, memory)
    stored = {
        slot: _read(value, registers) if not predicate or _read(predicate, registers) else None
        for slot, predicate, value in bundle.stores
    }
    target = None
    if bundle.branch is not None:
        taken = _read(bundle.branch[0], registers)
        if taken is None:
            raise BadInput("whether the kernel branches depends on what it computes")
        target = bundle.branch[1] if taken else None
    registers.update(written)
    memory.update(stored)
    return target


def _value(operation: _Operation, registers: Registers, memory: dict[str, Value]) -> Value:
    opcode = operation.opcode
    if opcode == "sphi":  # all that it joins is in the register already
        return registers.get(operation.into)
    if opcode == "sld":
        slot = _SLOT.search(operation.arguments[0])
        return memory.get(slot[1]) if slot else None
    values = [_read(argument, registers) for argument in operation.arguments]
    if opcode == "smov":
        return values[0]
    if opcode == "scalar_select":
        return None if values[0] is None else values[1] if values[0] else values[2]
    if opcode == "pneg":
        return None if values[0] is None else not values[0]
    if opcode in ("por", "pnand", "pand"):
        return _joined(opcode, values)
    if any(value is None for value in values):
        return None
    known = [int(value) for value in values if value is not None]
    if opcode.startswith("scmp."):
        return _COMPARED[opcode.split(".")[1]](_signed(known[0]), _signed(known[1]))
    if opcode in _COMPUTED and len(known) == 2:
        return _signed(_COMPUTED[opcode](known[0], known[1]))
    return None


def _joined(opcode: str, values: list[Value]) -> Value:
    """Of predicates, of which one may decide alone."""
    decides = opcode == "por"
    if any(value is not None and bool(value) == decides for value in values):
        found: Value = decides
    elif any(value is None for value in values):
        return None
    else:
        found = not decides
    return not found if opcode == "pnand" else found


def _read(argument: str, registers: Registers) -> Value:
    if register := _REGISTER.match(argument):
        value = registers.get(register[3])
        return value if not register[1] or value is None else not value
    try:
        return int(argument, 0)
    except ValueError:
        return None


def _signed(value: int) -> int:
    """As a register of 32 bits holds it."""
    return (value + 2**31) % 2**32 - 2**31
