"""What a step exchanges between slices, over the data center's network.

libtpu makes of a collective that joins several slices one within each of them, and hands what is
left to the hosts, by a `send` that says what is to be done with it, and among how many slices.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.base.errors import BadInput
from harness.base.typed import STRICT
from harness.compiler.executions import Executions
from harness.compiler.hlo_text import Computation, Instruction, Module, arrays
from harness.compiler.origins import DATA, Consumers, origin
from harness.record.graph import Collective

_HANDLER = '_xla_host_transfer_handler_name="xla_megascale_runtime"'
_KIND = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_SLICES = re.compile(r'_xla_megascale_target="\{([\d,:]+)\}')
_LISTED = re.compile(r"_xla_megascale_target=(\{\{[\d,{}]+\}\})")
_RENDEZVOUS = re.compile(r'_xla_host_transfer_rendezvous="([^"]*)"')
_GROUP = re.compile(r"\{([\d,]+)\}")
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_SLICE = 100_000
"""What libtpu numbers devices by across slices: 200003 is device 3 of slice 2."""
_WRAPPERS = {"bitcast", "convert", "copy", "get-tuple-element", "reshape", "transpose"}
"""They make another form of what another operation computed."""


@dataclass(frozen=True)
class Exchange:
    """One kind of exchange between slices, and how often one execution of the module makes it.

    kind:    the collective that it is, or is a part of, such as "all-reduce"
    shape:   of what a device sends, such as "bf16[14336,8,128]"
    slices:  how many it joins
    bytes:   that a device receives by one, by the best algorithm
    op_name: where it comes from, as of a Collective
    """

    __pydantic_config__ = STRICT

    kind: str
    shape: str
    slices: int
    bytes: int
    op_name: str
    count: int

    @property
    def total_bytes(self) -> int:
        return self.bytes * self.count


def exchanges(
    module: Module, runs: Executions, collectives: Sequence[Collective], devices: int, slices: int
) -> tuple[Exchange, ...]:
    """All of them, sorted; () on one slice.

    collectives: of the module
    devices:     of all slices together

    Raises BadInput for one of which libtpu does not say what it is, or among how many slices.
    """
    found: Counter[tuple[str, str, int, int, str]] = Counter()
    for kind, shape, joined, size, op_name, n in _sent(module, runs):
        found[kind, shape, joined, size, op_name] += n
    for one in collectives:
        groups = _members(one.groups, devices)
        joined = max(len(_slices_of(group, devices, slices)) for group in groups)
        if joined > 1:
            size = round(wire(one, len(groups[0])))
            found[one.kind, one.shape, joined, size, one.op_name] += one.count
    return tuple(Exchange(*key, n) for key, n in sorted(found.items()))


def within_a_slice(collective: Collective, devices: int, slices: int) -> int | None:
    """How many devices a collective joins; None where they are of several slices."""
    groups = _members(collective.groups, devices)
    if any(len(_slices_of(group, devices, slices)) > 1 for group in groups):
        return None
    return len(groups[0])


def wire(collective: Collective, members: int) -> float:
    """Bytes that a device receives in one execution, by the best algorithm (`Collective.bytes`)."""
    others = (members - 1) / members
    if collective.kind == "all-reduce":
        return 2 * collective.bytes * others
    if collective.kind == "reduce-scatter":
        return collective.bytes * (members - 1)
    return collective.bytes * (others if collective.kind != "collective-permute" else 1.0)


def groups_of(text: str) -> list[list[int]]:
    """The groups of devices in XLA's `replica_groups`; [] where it names none.

    >>> groups_of("{{0,1},{2,3}}"), groups_of("[2,2]<=[2,2]T(1,0)")
    ([[0, 1], [2, 3]], [[0, 2], [1, 3]])
    """
    if iota := _IOTA.search(text):
        (count, size), dims = _ints(iota[1]), _ints(iota[2])
        order = _ints(iota[3]) if iota[3] else list(range(len(dims)))
        strides = [1] * len(dims)
        for axis in range(len(dims) - 2, -1, -1):
            strides[axis] = strides[axis + 1] * dims[axis + 1]
        flat = [0]
        for axis in order:
            flat = [base + i * strides[axis] for base in flat for i in range(dims[axis])]
        return [flat[i * size : (i + 1) * size] for i in range(count)]
    return [_ints(group) for group in _GROUP.findall(text)]


def _sent(module: Module, runs: Executions) -> Iterator[tuple[str, str, int, int, str, int]]:
    """Kind, shape, slices, bytes received, origin and executions of what is handed to the hosts."""
    consumers = Consumers(module)
    for computation, instruction, n in runs.each(module):
        notes = instruction.attributes.get("frontend_attributes", "")
        if instruction.opcode != "send" or _HANDLER not in notes or not n:
            continue
        named, joined = _KIND.search(notes), _joined(notes)
        if named is None or joined is None:
            raise BadInput(
                f"The HLO module {module.name} exchanges something between slices by "
                f"%{instruction.name}, which does not say what is done with it or among which "
                "slices. Is it of another release of libtpu? Teach harness/compiler/slices.py it."
            )
        sent = arrays(computation.by_name[instruction.operands[0]].shape)
        size = round(sum(array.bytes for array in sent) * _received(named[1], joined))
        shape = ", ".join(map(str, sent))
        source = _source(computation, instruction, consumers)
        yield named[1].lower().replace("_", "-"), shape, joined, size, source, n


def _received(kind: str, slices: int) -> float:
    """Of what a device sends, how much it receives, by the best algorithm."""
    if kind == "ALL_REDUCE":
        return 2 * (slices - 1) / slices
    if kind == "ALL_GATHER":
        return slices - 1
    return (slices - 1) / slices if kind in ("REDUCE_SCATTER", "ALL_TO_ALL") else 1.0


def _joined(notes: str) -> int | None:
    """Among how many slices something is exchanged: {1,2}x{0:3}, or a list of their devices."""
    if among := _SLICES.search(notes):
        return _number(among[1])
    if listed := _LISTED.search(notes):
        return max(len({device // _SLICE for device in g}) for g in groups_of(listed[1]))
    return None


def _number(members: str) -> int:
    """Of slices in libtpu's list of them: "1,2" or "0:3", which is 0 to 3."""
    ranges = [[int(end) for end in part.split(":")] for part in members.split(",")]
    return sum(each[-1] - each[0] + 1 for each in ranges)


def _source(computation: Computation, send: Instruction, consumers: Consumers) -> str:
    """What computed that which is sent; of an argument, what its other slices' part is for."""
    instruction = computation.by_name[send.operands[0]]
    while instruction.opcode in _WRAPPERS and origin(instruction) in ("", DATA):
        instruction = computation.by_name[instruction.operands[0]]
    own = origin(instruction)
    if own not in ("", DATA):
        return own
    rendezvous = _rendezvous(send)
    received = (
        i for i in computation.instructions if i.opcode == "recv" and _rendezvous(i) == rendezvous
    )
    back = next(received, None)
    return own if back is None else consumers.origin(back)


def _rendezvous(instruction: Instruction) -> str:
    """What joins a `send` and the `recv` of what comes back."""
    found = _RENDEZVOUS.search(instruction.attributes.get("frontend_attributes", ""))
    return found[1] if found else instruction.name


def _members(groups: str, devices: int) -> list[list[int]]:
    """The groups of devices that a collective joins, or the pairs that it moves something between.

    Where XLA names none, they are all.
    """
    return groups_of(groups) or [list(range(devices))]


def _slices_of(group: Sequence[int], devices: int, slices: int) -> set[int]:
    each = max(1, devices // slices)
    return {device // each for device in group}


def _ints(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
