"""The text that XLA writes for an HLO module, read into computations and instructions.

Only the grammar is here. What it means is in `hlo.py`. The grammar was checked on dumps of
torch_xla 2.9.0 (CPU), JAX 0.7.1 (CPU) and the TPU compiler of libtpu 0.0.20.

A text that was cut off anywhere is `BadInput`: a computation that is not closed, an operand or a
computation that is named but not defined, a module without its entry.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property

from harness.base.errors import BadInput

# Bits of one element. XLA's sub-byte types are counted as packed.
_BITS = {
    "token": 0,
    "opaque": 0,
    "s1": 1,
    "u1": 1,
    "s2": 2,
    "u2": 2,
    "s4": 4,
    "u4": 4,
    "f4e2m1fn": 4,
    "pred": 8,
    "s8": 8,
    "u8": 8,
    "f8e3m4": 8,
    "f8e4m3": 8,
    "f8e4m3b11fnuz": 8,
    "f8e4m3fn": 8,
    "f8e4m3fnuz": 8,
    "f8e5m2": 8,
    "f8e5m2fnuz": 8,
    "f8e8m0fnu": 8,
    "s16": 16,
    "u16": 16,
    "f16": 16,
    "bf16": 16,
    "s32": 32,
    "u32": 32,
    "f32": 32,
    "s64": 64,
    "u64": 64,
    "f64": 64,
    "c64": 64,
    "c128": 128,
}

_HEADER = re.compile(r"HloModule ([^,\s]+)")
_COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) (?:\(.*\) -> .+ )?\{$")
_END = re.compile(r'\}(?:, execution_thread="[^"]*")?$')
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([\w.\-]+) = (.+)$")
_OPCODE = re.compile(r" ([a-z][\w\-]*)\(")
_ATTRIBUTE = re.compile(r"([\w\-]+)=")
_NAME = re.compile(r"%([\w.\-]+)")
_ARRAY = re.compile(r"([a-z]\w*)\[([^\]]*)\]")
_POSITION = re.compile(r"/\*index=\d+\*/")  # a reader's aid in long lists, no content
# Tables of source positions that newer versions write below the header.
_TABLE = re.compile(r"(FileNames|FunctionNames|FileLocations|StackFrames|\d+ .*)$")
# A string counts as one token, so that what is inside it cannot be taken for structure.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[()\[\]{},]')
_CALLS = (
    "calls",
    "to_apply",
    "body",
    "condition",
    "branch_computations",
    "true_computation",
    "false_computation",
    "called_computations",
    "select",
    "scatter",
)


@dataclass(frozen=True)
class Array:
    """One array of a shape. A dynamic dimension counts with its bound."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        if self.dtype not in _BITS:
            raise BadInput(
                f"The HLO text holds an array of type {self.dtype!r}, whose size is not known "
                "here; add the type to the table in harness/graph/text.py."
            )
        return math.ceil(_BITS[self.dtype] * self.elements / 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclass(frozen=True)
class Instruction:
    """One line. `shape` is as written, with layouts; `arguments` is the text in its parentheses."""

    name: str
    shape: str
    opcode: str
    arguments: str
    attributes: dict[str, str]
    is_root: bool

    @property
    def operands(self) -> tuple[str, ...]:
        return tuple(_NAME.findall(self.arguments))

    @property
    def target(self) -> str:
        """What a custom call calls; "" of other instructions."""
        return self.attributes.get("custom_call_target", "").strip('"')

    @property
    def calls(self) -> tuple[str, ...]:
        """Names of the computations that it calls."""
        return tuple(name for key in _CALLS for name in _NAME.findall(self.attributes.get(key, "")))


@dataclass(frozen=True)
class Computation:
    name: str
    is_entry: bool
    instructions: tuple[Instruction, ...]

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    @cached_property
    def root(self) -> Instruction:
        return next(i for i in self.instructions if i.is_root)


@dataclass(frozen=True)
class Module:
    """A whole module. A computation stands before those that call it; so XLA writes them."""

    name: str
    computations: tuple[Computation, ...]

    @cached_property
    def by_name(self) -> dict[str, Computation]:
        return {computation.name: computation for computation in self.computations}

    @cached_property
    def entry(self) -> Computation:
        return next(c for c in self.computations if c.is_entry)


def arrays(shape: str) -> tuple[Array, ...]:
    """Arrays of a shape, the leaves of a tuple in order."""
    return tuple(Array(dtype, _dims(dims, shape)) for dtype, dims in _ARRAY.findall(shape))


def elements(shape: str) -> tuple[str, ...]:
    """Shapes of the elements of a tuple shape, one level deep.

    Raises BadInput for any other shape.
    """
    if not shape.startswith("("):
        raise BadInput(f"The HLO text has the shape {shape!r} where a tuple has to stand.")
    return tuple(_split(shape[1 : _closing(shape, 0)]))


def parse(text: str) -> Module:
    """Reads the text of a module; `BadInput` if it is not HLO, is cut off, or contradicts itself"""
    lines = text.splitlines()
    header = _HEADER.match(lines[0]) if lines else None
    if header is None:
        first = lines[0][:60] if lines else ""
        raise BadInput(
            f"This is not the text of an HLO module: it begins with {first!r} and not with "
            "'HloModule'. Make the dump with --xla_dump_hlo_as_text."
        )
    module = Module(header[1], tuple(_computations(lines)))
    _check(module)
    return module


def _computations(lines: list[str]) -> list[Computation]:
    found: list[Computation] = []
    opened: re.Match[str] | None = None
    body: list[Instruction] = []
    for number, line in enumerate(lines[1:], 2):
        if opened is not None:
            if _END.match(line):
                found.append(Computation(opened[2], opened[1] is not None, tuple(body)))
                opened, body = None, []
            else:
                body.append(_instruction(line, number))
        elif start := _COMPUTATION.match(line):
            opened = start
        elif line.strip() and not (_TABLE.match(line) and not found):
            raise _damaged(f"line {number} is no part of a module: {line[:80]!r}")
    if opened is not None:
        raise _damaged(f"it ends within the computation %{opened[2]}")
    return found


def _instruction(line: str, number: int) -> Instruction:
    line = _POSITION.sub("", line)
    match = _INSTRUCTION.match(line)
    if match is None:
        raise _damaged(f"line {number} is no instruction: {line[:80]!r}")
    rest = match[3]
    try:
        end = _closing(rest, 0) + 1 if rest[0] == "(" else rest.index(" ")
        opcode = _OPCODE.match(rest, end)
        if opcode is None:
            raise ValueError("no opcode")
        close = _closing(rest, opcode.end() - 1)
        attributes = _attributes(rest[close + 1 :])
    except ValueError as error:
        raise _damaged(f"line {number} is cut off ({error}): {line[:80]!r}") from error
    return Instruction(
        name=match[2],
        shape=rest[:end],
        opcode=opcode[1],
        arguments=rest[opcode.end() : close],
        attributes=attributes,
        is_root=match[1] is not None,
    )


def _attributes(text: str) -> dict[str, str]:
    if not text:
        return {}
    if not text.startswith(", "):
        raise ValueError(f"{text[:20]!r} after the operands")
    attributes = {}
    for part in _split(text[2:]):
        key = _ATTRIBUTE.match(part)
        if key is None:
            raise ValueError(f"{part[:20]!r} is no attribute")
        attributes[key[1]] = part[key.end() :]
    return attributes


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one at `start`"""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        if token[0] in "([{":
            depth += 1
        elif token[0] in ")]}":
            depth -= 1
            if depth == 0:
                return token.start()
    raise ValueError("a bracket is not closed")


def _split(text: str) -> list[str]:
    """Splits at the commas that stand in no bracket and no string"""
    parts, depth, start = [], 0, 0
    for token in _TOKEN.finditer(text):
        if token[0] in "([{":
            depth += 1
        elif token[0] in ")]}":
            depth -= 1
        elif token[0] == "," and depth == 0:
            parts.append(text[start : token.start()].strip())
            start = token.end()
    if depth:
        raise ValueError("a bracket is not closed")
    return [*parts, text[start:].strip()]


def _dims(text: str, shape: str) -> tuple[int, ...]:
    try:
        return tuple(int(dim.removeprefix("<=")) for dim in text.split(",") if text)
    except ValueError as error:
        raise BadInput(f"The HLO text has the shape {shape!r}, whose size is not known.") from error


def _check(module: Module) -> None:
    if sum(computation.is_entry for computation in module.computations) != 1:
        raise _damaged("it has no ENTRY computation, or more than one")
    known: set[str] = set()
    for computation in module.computations:
        if computation.name in known:
            raise _damaged(f"it defines the computation %{computation.name} twice")
        if sum(i.is_root for i in computation.instructions) != 1:
            raise _damaged(f"the computation %{computation.name} has no ROOT, or more than one")
        if len(computation.by_name) != len(computation.instructions):
            raise _damaged(f"the computation %{computation.name} defines a name twice")
        for instruction in computation.instructions:
            missing = [name for name in instruction.operands if name not in computation.by_name]
            missing += [name for name in instruction.calls if name not in known]
            if missing:
                raise _damaged(
                    f"%{instruction.name} in %{computation.name} uses %{missing[0]}, "
                    "which is not defined before it"
                )
        known.add(computation.name)


def _damaged(what: str) -> BadInput:
    return BadInput(
        f"The HLO text is damaged or cut off: {what}. Was the run killed, or the disk full, while "
        "XLA wrote it? Make the dump again."
    )
