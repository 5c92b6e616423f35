"""Step times as the device saw them, out of an XLA profile (`*.xplane.pb`).

The profiler writes one XSpace message a host. Each device is a plane in it (a TPU's is called
"/device:TPU:<n>"), whose
line "XLA Modules" has one event for each execution of a compiled module. The time of a step is the
gap between the starts of two successive executions of the module that is the training step: it
includes whatever the device had to wait for. Its line "XLA Ops" has one event for each execution of
an operation, and the plane "/host:metadata" the modules themselves: `harness.compiler.calibration`
reads both.

The message is read with protobuf itself, from the few fields that this needs of the published
xplane.proto (openxla/xla, third_party/tsl/tsl/profiler/protobuf) and hlo.proto (xla/service). No
light package ships them compiled: xprof (32 MB, with duckdb and google-cloud-storage) keeps them
inside a shared library, jaxlib (85 MB) has a reader but no messages, and tensorflow is not for this
environment. Field numbers of a published proto do not change.
"""

import gzip
import re
import statistics
import zlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from harness.base.errors import BadInput

_MODULES_LINE = "XLA Modules"
# The compiler appends the program's fingerprint: "train_step.312(15545438734835972065)".
_FINGERPRINT = re.compile(r"\(\d+\)$")

_PICOSECOND = 1e-12


@dataclass(frozen=True)
class DeviceStepTimes:
    """Step times of one XLA module, on each device of one host's profile.

    module:        full name of the module, with its fingerprint
    seconds:       for each device that ran it, the gaps in order; one fewer than executions. They
                   are raw: the first and the last step of a profile often contain its start or end.
    other_modules: the other modules, and the device seconds of each over all devices, most first
    idle_devices:  devices in the profile that never ran the module
    complaints:    errors and warnings that the profiler itself wrote into the profile
    """

    module: str
    seconds: Mapping[str, tuple[float, ...]]
    other_modules: tuple[tuple[str, float], ...]
    idle_devices: tuple[str, ...]
    complaints: tuple[str, ...]

    @property
    def median(self) -> float:
        """Median of all gaps of all devices, in seconds."""
        return statistics.median(gap for gaps in self.seconds.values() for gap in gaps)


@dataclass(frozen=True)
class _Execution:
    start: int  # picoseconds
    duration: int


def step_seconds(path: Path, planes: re.Pattern[str], module: str | None = None) -> DeviceStepTimes:
    """Read the step times from a profile (`.xplane.pb`, or the same with `.gz`).

    planes: names of the planes that are devices
    module: name of the training step's module, with or without its fingerprint. By default the one
    that took most device time.

    A module that is run more than once a step (gradient accumulation) gives the time of one run.
    Raises BadInput where the file cannot be read or is truncated, where it has no device, the same
    device twice, no modules or not the one that was named, and where a device ran the module only
    once. A file that was cut exactly between two planes is a valid profile of fewer devices, and
    cannot be told from one.
    """
    space = read_space(path)
    devices: dict[str, dict[str, list[_Execution]]] = {}
    for plane in space.planes:
        if planes.fullmatch(plane.name):
            if plane.name in devices:
                raise BadInput(
                    f"{path} has two planes {plane.name}: it was merged from several hosts, and "
                    "their devices cannot be told apart. Give the profile that each host wrote."
                )
            devices[plane.name] = _executions(plane)
    if not devices:
        found = ", ".join(p.name for p in space.planes) or "none"
        raise BadInput(
            f"{path} has no plane of the device ({planes.pattern}). Its planes: {found}. Step "
            "times of the device can only be read from a profile taken on it while it was training."
        )
    busy: dict[str, float] = defaultdict(float)
    for runs in devices.values():
        for name, executions in runs.items():
            busy[name] += sum(e.duration for e in executions) * _PICOSECOND
    if not busy:
        raise BadInput(
            f"{path} has no execution of an XLA module on {', '.join(devices)} (line "
            f"'{_MODULES_LINE}'). The profile was taken while nothing ran: start it in the steady "
            "state and let it last for several steps."
        )
    ranked = sorted(busy.items(), key=lambda item: (-item[1], item[0]))
    chosen = ranked[0][0] if module is None else _named(module, ranked, path)
    return DeviceStepTimes(
        module=chosen,
        seconds={
            device: _gaps(runs[chosen], chosen, device, path)
            for device, runs in devices.items()
            if chosen in runs
        },
        other_modules=tuple((name, time) for name, time in ranked if name != chosen),
        idle_devices=tuple(device for device, runs in devices.items() if chosen not in runs),
        complaints=(*space.errors, *space.warnings),
    )


def read_space(path: Path) -> Any:
    """The XSpace message in a profile. Raises BadInput where it cannot be read or is cut off."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(
            f"{path} is truncated or is no gzip file ({error}). Copy the profile again."
        ) from error
    except OSError as error:
        raise BadInput(
            f"The profile {path} cannot be read: {error.strerror or error}. Give the path of an "
            ".xplane.pb file that is there."
        ) from error
    if not data:
        raise BadInput(f"The profile {path} is empty: the profiler wrote nothing. Take it again.")
    try:
        return _XSpace.FromString(data)
    except DecodeError as error:
        raise BadInput(
            f"{path} is truncated or is no xplane profile: after {len(data)} bytes it does not end "
            "where an XSpace message can end. Copy it again, or take the profile again."
        ) from error


def _executions(plane: Any) -> dict[str, list[_Execution]]:
    """The executions of each module on one device, in order of their start."""
    names = {entry.key: entry.value.name for entry in plane.event_metadata}
    runs: dict[str, list[_Execution]] = defaultdict(list)
    # A line may come in pieces, each with a time of its own.
    for line in plane.lines:
        if line.name == _MODULES_LINE:
            for event in line.events:
                start = line.timestamp_ns * 1000 + event.offset_ps
                name = names.get(event.metadata_id, f"module {event.metadata_id} without a name")
                runs[name].append(_Execution(start, event.duration_ps))
    return {name: sorted(e, key=lambda run: run.start) for name, e in runs.items()}


def _named(module: str, ranked: list[tuple[str, float]], path: Path) -> str:
    """The module of that name; among recompilations of it, the one with most device time."""
    for name, _ in ranked:
        if module in (name, _FINGERPRINT.sub("", name)):
            return name
    there = ", ".join(f"{name} ({time:.3g} s)" for name, time in ranked)
    raise BadInput(f"{path} has no XLA module {module!r}. Modules and their device time: {there}.")


def _gaps(runs: list[_Execution], module: str, device: str, path: Path) -> tuple[float, ...]:
    if len(runs) < 2:
        raise BadInput(
            f"{path} has only one execution of {module} on {device}: a step time is the gap "
            "between two. Let the profile last for several steps."
        )
    return tuple((later.start - run.start) * _PICOSECOND for run, later in pairwise(runs))


# name of the message: (field, its number, its type, whether it is repeated)
_MESSAGES: dict[str, tuple[tuple[str, int, str, bool], ...]] = {
    "XSpace": (
        ("planes", 1, "XPlane", True),
        ("errors", 2, "string", True),
        ("warnings", 3, "string", True),
    ),
    "XPlane": (
        ("name", 2, "string", False),
        ("lines", 3, "XLine", True),
        # A map<int64, XEventMetadata> is this on the wire.
        ("event_metadata", 4, "EventMetadataEntry", True),
        ("stat_metadata", 5, "StatMetadataEntry", True),
        ("stats", 6, "XStat", True),
    ),
    "EventMetadataEntry": (("key", 1, "int64", False), ("value", 2, "XEventMetadata", False)),
    "XEventMetadata": (("name", 2, "string", False), ("stats", 5, "XStat", True)),
    "StatMetadataEntry": (("key", 1, "int64", False), ("value", 2, "XStatMetadata", False)),
    "XStatMetadata": (("name", 2, "string", False),),
    "XStat": (
        ("metadata_id", 1, "int64", False),
        ("double_value", 2, "double", False),
        ("uint64_value", 3, "uint64", False),
        ("str_value", 5, "string", False),
        ("bytes_value", 6, "bytes", False),
    ),
    "XLine": (
        ("name", 2, "string", False),
        ("timestamp_ns", 3, "int64", False),
        ("events", 4, "XEvent", True),
    ),
    "XEvent": (
        ("metadata_id", 1, "int64", False),
        ("offset_ps", 2, "int64", False),
        ("duration_ps", 3, "int64", False),
    ),
    "HloProto": (("hlo_module", 1, "HloModuleProto", False),),
    "HloModuleProto": (("computations", 3, "HloComputationProto", True),),
    "HloComputationProto": (("instructions", 2, "HloInstructionProto", True),),
    "HloInstructionProto": (("name", 1, "string", False), ("backend_config", 43, "bytes", False)),
}


def _pool() -> tuple[descriptor_pool.DescriptorPool, str]:
    """The messages in a pool of their own, and its package: others may register the same proto."""
    field = descriptor_pb2.FieldDescriptorProto
    scalars = {
        "string": field.TYPE_STRING,
        "bytes": field.TYPE_BYTES,
        "int64": field.TYPE_INT64,
        "uint64": field.TYPE_UINT64,
        "double": field.TYPE_DOUBLE,
    }
    file = descriptor_pb2.FileDescriptorProto(
        name="harness/xplane.proto", package="tensorflow.profiler", syntax="proto3"
    )
    for message, fields in _MESSAGES.items():
        declared = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            declared.field.add(
                name=name,
                number=number,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
                type=scalars.get(kind, field.TYPE_MESSAGE),
                type_name=None if kind in scalars else f".{file.package}.{kind}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool, file.package


def _message(name: str) -> Any:
    """The class of a message."""
    found = _MESSAGE_POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}")
    return message_factory.GetMessageClass(found)


_MESSAGE_POOL, _PACKAGE = _pool()
_XSpace, HloProto = _message("XSpace"), _message("HloProto")
"""A profile, and what a profile keeps of each module."""
