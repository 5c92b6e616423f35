"""What the compiler's estimates are worth: cycles against measured times of a real profile.

libtpu writes `estimated_cycles` into the `backend_config` of fusions and copies of an optimized
module. A profile of a TPU has that module, and the measured time of each operation.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from harness.base.errors import BadInput
from harness.compiler.cycles import UNKNOWN
from harness.compiler.xplane import HloProto, read_space, step_seconds

SHORT = 1e-6
"""Seconds under which an operation is too short for its time to say anything of its estimate."""

ENOUGH = 3
"""Different estimates, and times, from which on a correlation is told."""

METADATA = "/host:metadata"
OPERATIONS = "XLA Ops"

_CYCLES = re.compile(rb'"estimated_cycles":"?(\d+)')
_NAME = re.compile(r"%?([\w.-]+) = ")
_FINGERPRINT = re.compile(r"\((\d+)\)$")
_PICOSECOND = 1e-12


@dataclass(frozen=True)
class Operation:
    """One instruction of a module, as a device ran it.

    name:    in the module's text
    kind:    as the profiler sorts it ("convolution fusion", "data formatting")
    seconds: of all its executions together, on all devices
    runs:    its executions
    cycles:  that the compiler estimates for one; None where it has no estimate
    """

    name: str
    kind: str
    seconds: float
    runs: int
    cycles: int | None

    @property
    def mean(self) -> float:
        """Seconds of one execution."""
        return self.seconds / self.runs


@dataclass(frozen=True)
class ProfiledModule:
    """The operations of a module in a profile, and the device's name for its chip."""

    module: str
    chip: str
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class Agreement:
    """How far estimates and times agree, over some operations.

    operations:  how many there are, and
    estimated:   how many of them have an estimate
    share:       of the time of all operations of the module
    estimated_share: the same of those with an estimate
    correlation: of the logarithms of estimates and times; None for fewer than ENOUGH
    hertz:       estimated cycles over time, of those with an estimate; None for none
    """

    operations: int
    estimated: int
    share: float
    estimated_share: float
    correlation: float | None
    hertz: float | None


def read_operations(
    path: Path, planes: re.Pattern[str], module: str | None = None
) -> ProfiledModule:
    """The operations of a module in a profile, by default that with most device time.

    planes: names of the planes that are devices

    Raises BadInput for what `step_seconds` refuses, and for a profile that keeps no module, no
    operations of it, or no estimate of any.
    """
    chosen = step_seconds(path, planes, module).module
    fingerprint = _FINGERPRINT.search(chosen)
    space = read_space(path)
    cycles = _estimates(space, chosen, path)
    if not any(found is not None for found in cycles.values()):
        raise BadInput(
            f"{path}: the compiler of {chosen} wrote no estimate of any operation; a profile of a "
            "TPU has them"
        )
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    chip = ""
    for plane in (p for p in space.planes if planes.fullmatch(p.name)):
        names = {entry.key: entry.value.name for entry in plane.stat_metadata}
        chip = next((s.str_value for s in plane.stats if _is(s, names, "device_type_string")), chip)
        known = {entry.key: entry.value for entry in plane.event_metadata}
        for event in (e for line in plane.lines if line.name == OPERATIONS for e in line.events):
            about = known.get(event.metadata_id)
            program = None if about is None else _stat(about, names, "program_id")
            if about is None or (fingerprint and program and program != int(fingerprint[1])):
                continue
            kind = next((s.str_value for s in about.stats if _is(s, names, "hlo_category")), "")
            times[_instruction(about.name), kind].append(event.duration_ps * _PICOSECOND)
    if not times:
        raise BadInput(
            f"{path} has no operations of {chosen} (line '{OPERATIONS}'): take a profile that "
            "traces the device's operations"
        )
    operations = (
        Operation(name, kind, sum(seconds), len(seconds), cycles.get(name))
        for (name, kind), seconds in times.items()
    )
    return ProfiledModule(chosen, chip, tuple(sorted(operations, key=lambda o: -o.seconds)))


def agreement(operations: Sequence[Operation], total: float) -> Agreement:
    """How far estimates and times agree; `total`: seconds of all operations of the module."""
    known = [o for o in operations if o.cycles and o.seconds]
    seconds = sum(o.seconds for o in known)
    x, y = ([math.log(o.cycles or 1) for o in known], [math.log(o.mean) for o in known])
    comparable = min(len(set(x)), len(set(y))) >= ENOUGH
    return Agreement(
        operations=len(operations),
        estimated=len(known),
        share=sum(o.seconds for o in operations) / total,
        estimated_share=seconds / total,
        correlation=statistics.correlation(x, y) if comparable else None,
        hertz=sum((o.cycles or 0) * o.runs for o in known) / seconds if seconds else None,
    )


def by_kind(found: ProfiledModule) -> dict[str, Agreement]:
    """The agreement of each kind of operation, most time first, and of all."""
    total = sum(o.seconds for o in found.operations)
    kinds: dict[str, list[Operation]] = defaultdict(list)
    for operation in found.operations:
        kinds[operation.kind or "(unnamed)"].append(operation)
    result = {kind: agreement(operations, total) for kind, operations in kinds.items()}
    long = [o for o in found.operations if o.mean > SHORT]
    return {
        **dict(sorted(result.items(), key=lambda item: -item[1].share)),
        "all": agreement(found.operations, total),
        f"all over {SHORT * 1e6:.0f} µs": agreement(long, total),
    }


def _estimates(space: Any, module: str, path: Path) -> dict[str, int | None]:
    """Estimated cycles by instruction, from the module that the profile keeps."""
    for plane in (p for p in space.planes if p.name == METADATA):
        for entry in plane.event_metadata:
            if entry.value.name == module:
                data = next((s.bytes_value for s in entry.value.stats if s.bytes_value), b"")
                try:
                    kept = HloProto.FromString(data)
                except DecodeError as error:
                    raise BadInput(f"{path}: the module {module} in it is damaged") from error
                return {
                    instruction.name: _cycles(instruction.backend_config)
                    for computation in kept.hlo_module.computations
                    for instruction in computation.instructions
                }
    raise BadInput(
        f"{path} does not keep the module {module} (plane {METADATA}), whose estimates are wanted: "
        "take a profile with a recent torch_xla or jax on a TPU"
    )


def _cycles(backend_config: bytes) -> int | None:
    found = _CYCLES.search(backend_config)
    return None if found is None or int(found[1]) == UNKNOWN else int(found[1])


def _instruction(text: str) -> str:
    """The name of an instruction, whose whole text names an event."""
    found = _NAME.match(text)
    return found[1] if found else text


def _is(stat: Any, names: dict[int, str], name: str) -> bool:
    return names.get(stat.metadata_id) == name


def _stat(about: Any, names: dict[int, str], name: str) -> int | None:
    return next((s.uint64_value for s in about.stats if _is(s, names, name)), None)
