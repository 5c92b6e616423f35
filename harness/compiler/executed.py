"""Which modules a training step executes: torch_xla's own log of compilations and executions.

Under PT_XLA_DEBUG_LEVEL=2 torch_xla writes an analysis of each compilation and of each execution to
PT_XLA_DEBUG_FILE, with the hash of the graph. The n-th compilation is the n-th module of a dump.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.base.errors import BadInput

_EVENT = re.compile(r"^(Compilation|Execution) Analysis:\s+Graph Hash: (\w+)$", re.MULTILINE)
_PROTO = re.compile(r"module_(\d+)\.(.+)\.before_optimizations\.hlo\.pb")


def executed_modules(log: str) -> tuple[int, ...]:
    """The modules that were executed, in order, each by the number of its compilation.

    Raises BadInput for an execution of a graph that was never compiled: a log that is cut off.
    """
    compiled: dict[str, int] = {}
    executed, compilations = [], 0
    for event, graph in _EVENT.findall(log):
        if event == "Compilation":
            compiled[graph] = compilations
            compilations += 1
        elif graph in compiled:
            executed.append(compiled[graph])
        else:
            raise BadInput(
                f"torch_xla's log executes the graph {graph} without having compiled it: it is "
                "damaged, or of another run. Record the run again."
            )
    return tuple(executed)


def steady_step(executed: Sequence[int], heaviest: int) -> dict[int, int]:
    """Executions of each module in one steady step, in the order of their first execution.

    A step is what runs from one execution of its `heaviest` module to the next; the last one that
    is whole counts. Raises BadInput where the heaviest module did not run twice.
    """
    at = [index for index, module in enumerate(executed) if module == heaviest]
    if len(at) < 2:
        raise BadInput(
            f"the heaviest module was executed {len(at)} times: there is no steady step to be "
            "compiled. Let the run go on until its fourth step."
        )
    return dict(Counter(executed[at[-2] + 1 : at[-1] + 1]))


def module_protos(dump: Path) -> tuple[Path, ...]:
    """The modules of a dump before optimizations, in the order of their compilation.

    They are there under --xla_dump_hlo_as_proto. Raises BadInput where there is none.
    """
    found = [m for path in dump.glob("*.pb") if (m := _PROTO.fullmatch(path.name))]
    if not found:
        raise BadInput(f"The HLO dump {dump} holds no module as a proto.")
    return tuple(dump / match[0] for match in sorted(found, key=lambda match: int(match[1])))


def bare_module(data: bytes) -> bytes:
    """The HloModuleProto in a dumped HloProto, whose first field it is.

    Raises BadInput for one that is damaged or cut off.
    """
    if data[:1] != b"\x0a":
        raise BadInput("a dumped module is no HloProto: it is damaged. Record the run again.")
    length, at = _varint(data, 1)
    if not length or len(data) < at + length:
        raise BadInput("a dumped module is cut off. Record the run again.")
    return data[at : at + length]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A protobuf varint, and where it ends."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            break
    return value, at
