"""Reads a Record's files into `harness.record.evidence`: whatever is wrong is one BadInput."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness.base.errors import BadInput
from harness.base.typed import STRICT, Count, Finite, Number, plain_json, typed_json
from harness.config.case import Case, check_counts
from harness.config.training import check_request
from harness.record.evidence import (
    Batch,
    Clip,
    CrossEntropy,
    DeviceTimes,
    Fingerprint,
    Group,
    Hosts,
    Loaded,
    Manifest,
    Observed,
    Output,
    Parameter,
    Record,
    Routed,
    Step,
    Window,
)
from harness.record.graph import ModuleGraph
from harness.record.layout import (
    DEVICE_TIMES,
    GRAPH,
    HOSTS,
    LOADED,
    MANIFEST,
    OBSERVED,
    PARAMETERS,
    SCHEMA,
    STEPS,
)
from harness.record.termination import OK, Termination

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BatchEvent(Batch):
    """A micro-batch was loaded, ahead of the step that consumes it; `index` counts from 0."""

    index: Count
    event: Literal["batch"]


@dataclass(frozen=True)
class OptimizerEvent:
    """The optimizer's class and groups, at step 0 and where they change."""

    __pydantic_config__ = STRICT

    event: Literal["optimizer"]
    step: Count
    name: str
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class StepEvent:
    """An optimizer step was taken; `at` is when, in seconds since 1970.

    staged: it was traced and not executed, so that no values follow
    """

    __pydantic_config__ = STRICT

    event: Literal["step"]
    step: Count
    micro: Count
    lr: tuple[Number, ...]
    max_norm: Number | None
    at: Finite
    clips: tuple[Clip, ...] = ()
    generators: dict[str, str] = field(default_factory=dict)
    staged: bool = False


@dataclass(frozen=True)
class ValuesEvent:
    """The values of a step, which are read when its window closes; `norms` has one a clip."""

    __pydantic_config__ = STRICT

    event: Literal["values"]
    step: Count
    losses: tuple[Number, ...]
    gradient_norm: Number | None
    norms: tuple[Number | None, ...] = ()
    inputs: tuple[dict[str, str], ...] = ()
    outputs: tuple[Output, ...] = ()
    routed: tuple[Routed, ...] = ()
    cross_entropies: tuple[CrossEntropy, ...] = ()


@dataclass(frozen=True)
class WindowEvent:
    """A timing window was closed."""

    __pydantic_config__ = STRICT

    event: Literal["window"]
    window: Window


@dataclass(frozen=True)
class _Parameters:
    """What parameters.json holds."""

    __pydantic_config__ = STRICT

    schema: int
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class _Loaded:
    """What loaded.json holds."""

    __pydantic_config__ = STRICT

    schema: int
    loaded: Loaded


@dataclass(frozen=True)
class _Graph:
    """What graph.json holds."""

    __pydantic_config__ = STRICT

    schema: int
    step: ModuleGraph


Event = BatchEvent | OptimizerEvent | StepEvent | ValuesEvent | WindowEvent
"""One line of steps.jsonl."""

EVENTS: dict[str, type[Event]] = {
    "batch": BatchEvent,
    "optimizer": OptimizerEvent,
    "step": StepEvent,
    "values": ValuesEvent,
    "window": WindowEvent,
}


READ = (MANIFEST, OBSERVED, STEPS, PARAMETERS, GRAPH, DEVICE_TIMES, HOSTS, LOADED)
"""The files that a Record is read from, where they are there."""


def read_record(directory: Path) -> Record:
    """The Record in `directory`.

    Raises BadInput where there is none, where its schema is not ours, where a file that its
    manifest calls complete is missing, and where anything is damaged or told twice. A run that was
    cut short reads up to its last whole line.
    """
    if directory.is_file():
        raise BadInput(
            f"{directory} is a file, and a Record is a folder, with a {MANIFEST} in it: name the "
            "one that `parity run` names for each engine. (A stored baseline is none: `parity "
            "gate` judges against it.)"
        )
    manifest = read_manifest(directory / MANIFEST)
    well_ended = manifest.ended.status == OK
    steps, windows, groups = read_steps(directory / STEPS, strict=well_ended)
    parameters: tuple[Parameter, ...] = ()
    if (directory / PARAMETERS).is_file():
        parameters = read_parameters(directory / PARAMETERS)
    elif well_ended:
        raise BadInput(f"{directory / PARAMETERS} is missing from a Record that claims to be whole")
    graph = _read(directory / GRAPH, _Graph) if (directory / GRAPH).is_file() else None
    times, loaded = directory / DEVICE_TIMES, directory / LOADED
    return Record(
        directory,
        manifest,
        steps,
        windows,
        parameters,
        groups,
        None if graph is None else graph.step,
        read_device_times(times) if times.is_file() else None,
        _read(loaded, _Loaded).loaded if loaded.is_file() else None,
    )


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file. Raises BadInput that names file and key where anything is wrong."""
    manifest = _read(path, Manifest)
    case = dataclasses.asdict(manifest.case)
    try:
        # A Case has defaults, and a Record none: what it does not say was not asked.
        _check_complete(plain_json(path.read_bytes())["case"], case, "case")
        check_case(manifest)
        _check_ended(manifest.ended)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    return manifest


def _check_ended(ended: Termination) -> None:
    if ended.status == OK and ended.code:
        raise BadInput(f"ended.status={OK!r}, but ended.code={ended.code}")


def _check_complete(raw: dict[str, Any], whole: dict[str, Any], where: str) -> None:
    for key, value in whole.items():
        if key not in raw:
            raise BadInput(f"{where}.{key} is missing")
        if isinstance(value, dict) and isinstance(raw[key], dict):
            _check_complete(raw[key], value, f"{where}.{key}")


def check_case(manifest: Manifest) -> None:
    """Raise BadInput for a number of the manifest's case that nothing could be computed with."""
    if isinstance(manifest.case, Case):
        check_counts(manifest.case)
    else:
        check_request(manifest.case)


def read_parameters(path: Path) -> tuple[Parameter, ...]:
    """The parameters in a file. Raises BadInput that names file and key where anything is wrong."""
    parameters = _read(path, _Parameters).parameters
    try:
        check_parameters(parameters)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    return parameters


OBSERVED_UPDATES = 2
"""Steps after which a parameter is fingerprinted (`Parameter.after`)."""


def check_parameters(parameters: Sequence[Parameter]) -> None:
    """Raise BadInput where a parameter is there twice, or a sketch was cut short."""
    if not parameters:
        return
    name, count = Counter(p.name for p in parameters).most_common(1)[0]
    if count > 1:
        raise BadInput(f"parameters: {name} is there twice")
    sizes = {len(f.sketch): p.name for p in parameters for f in _fingerprints(p)}
    if 0 in sizes or len(sizes) > 1:
        shown = " and ".join(f"{size} sums in {name}" for size, name in sorted(sizes.items()))
        raise BadInput(f"parameters: a sketch is cut short: {shown}")
    for parameter in parameters:
        if any(map(_contradicts_itself, _fingerprints(parameter))):
            raise BadInput(f"parameters: {parameter.name}: a norm contradicts its sketch")
        if len(parameter.after) > OBSERVED_UPDATES or len(parameter.state_after) > OBSERVED_UPDATES:
            raise BadInput(f"parameters: {parameter.name}: more than two first updates")


def _contradicts_itself(fingerprint: Fingerprint) -> bool:
    """Whether no tensor has this norm and this sketch.

    What is NaN or infinite in a tensor is so in all its sums; squares overflow before sums do.
    """
    finite = all(map(math.isfinite, fingerprint.sketch))
    norm = fingerprint.norm
    return norm < 0 or (math.isnan(norm) if finite else math.isfinite(norm))


def _fingerprints(parameter: Parameter) -> list[Fingerprint]:
    single = (parameter.initial, parameter.gradient, parameter.saved, parameter.final)
    states = (parameter.state_saved, parameter.state_loaded, parameter.state_final)
    kept = (f for state in (*parameter.state_after, *states) for f in state.values())
    return [f for f in (*single, *parameter.after, *kept) if f is not None]


def read_device_times(path: Path) -> DeviceTimes:
    """The device's step times in a file. Raises BadInput where there are none in it."""
    times = _read(path, DeviceTimes)
    if not times.seconds:
        raise BadInput(f"{path}: seconds={{}}: it has no device")
    return times


def read_observed(directory: Path) -> Observed:
    """What the probe saw of the process; nothing where it came to write nothing."""
    path = directory / OBSERVED
    return _read(path, Observed) if path.is_file() else Observed()


def read_hosts(directory: Path) -> Hosts | None:
    """What is known of several hosts; None for a run on one."""
    return _read(directory / HOSTS, Hosts) if (directory / HOSTS).is_file() else None


def _read(path: Path, kind: type[T]) -> T:
    """A file as a `kind`; its schema is looked at first where the kind has one."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(
            f"{path} does not exist: {path.parent} is not a Record, or its run has not ended. "
            "A Record is the folder that `parity run` names for each engine."
        ) from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        if "schema" in kind.__dataclass_fields__:  # type: ignore[attr-defined]
            _check_schema(plain_json(text))
        return typed_json(kind, text)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def _check_schema(raw: Any) -> None:
    found = raw.get("schema") if isinstance(raw, dict) else None
    if type(found) is not int or found != SCHEMA:
        raise BadInput(
            f"schema {found!r} is not {SCHEMA}, the one that this version of the harness reads. "
            "Run the case again, or read the Record with the version that wrote it."
        )


LONGEST_EVENT = 1 << 26
"""Bytes that a line of steps.jsonl may have: some 1000 times what the largest models need."""


def read_events(path: Path, strict: bool = False) -> list[Event]:
    """The events of steps.jsonl. A damaged last line is a run cut short, unless `strict`.

    Raises BadInput that names file, line and key for any other damage.
    """
    if not path.is_file():
        if strict:
            raise BadInput(f"{path} is missing from a Record that claims to be whole")
        return []
    events = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            raw = plain_json(line)
        except BadInput as error:
            if strict or line.endswith(b"\n"):  # only the last line has no end
                raise BadInput(f"{path}, line {number} is damaged: {error}") from None
            continue
        try:
            events.append(_event(raw, line))
        except BadInput as error:
            raise BadInput(f"{path}, line {number}: {error}") from None
    return events


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while line := stream.readline(LONGEST_EVENT):
                check_length(path, line)
                yield line
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from None


def check_length(path: Path, line: bytes) -> None:
    """Raise BadInput for a line that `readline(LONGEST_EVENT)` found no end of."""
    if len(line) == LONGEST_EVENT and not line.endswith(b"\n"):
        raise BadInput(f"{path} is damaged: it has a line of more than {LONGEST_EVENT} bytes")


def parse_event(line: bytes) -> Event:
    """One line of steps.jsonl. Raises BadInput where it is no event."""
    return _event(plain_json(line), line)


def _event(raw: Any, line: bytes) -> Event:
    kind = raw.get("event") if isinstance(raw, dict) else None
    if not isinstance(kind, str) or kind not in EVENTS:
        raise BadInput(f"event={kind!r}: it is one of {', '.join(EVENTS)}")
    return typed_json(EVENTS[kind], line)


Groups = tuple[tuple[int, str, tuple[Group, ...]], ...]


def read_steps(path: Path, strict: bool) -> tuple[tuple[Step, ...], tuple[Window, ...], Groups]:
    """Steps, windows and optimizer groups in a steps.jsonl (`read_events`, `merge`).

    Raises BadInput with the file's name for what is damaged or contradicts itself.
    """
    events = read_events(path, strict)
    try:
        return merge(events)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


@dataclass
class _EventsByIndex:
    """Events by what they are told of: each is told once."""

    batches: dict[int, BatchEvent] = field(default_factory=dict)
    steps: dict[int, StepEvent] = field(default_factory=dict)
    values: dict[int, ValuesEvent] = field(default_factory=dict)


def merge(events: Iterable[Event]) -> tuple[tuple[Step, ...], tuple[Window, ...], Groups]:
    """Steps, windows and optimizer groups out of the event log.

    Batches are seen ahead of the steps that consume them (prefetch): batch i belongs to
    micro-step i, and the `micro` counts of the finished steps say where each step's end is.

    Raises BadInput where an event is there twice, or events contradict each other.
    """
    found = _EventsByIndex()
    windows: list[Window] = []
    groups: list[tuple[int, str, tuple[Group, ...]]] = []
    for event in events:
        match event:
            case BatchEvent():
                _once(found.batches, event.index, event)
            case StepEvent():
                _once(found.steps, event.step, event)
            case ValuesEvent():
                _once(found.values, event.step, event)
            case WindowEvent(window=window):
                if min(window.seconds, window.cpu_seconds, window.compile_seconds) < 0:
                    raise BadInput(f"the window of step {window.first} took less than no time")
                windows.append(window)
            case OptimizerEvent():
                groups.append((event.step, event.name, event.groups))
    steps, consumed = [], 0
    for index in sorted(found.steps.keys() | found.values.keys()):
        step, values = found.steps.get(index), found.values.get(index)
        micro = 0 if step is None else step.micro
        # No further than batches go: a count may be damaged.
        end = min(consumed + micro, max(found.batches, default=-1) + 1)
        losses = () if values is None else values.losses
        if step is not None and values is not None and len(losses) != micro:
            raise BadInput(f"step {index} has {micro} micro-steps, but {len(losses)} losses")
        calls = () if values is None else values.cross_entropies
        if all(map(math.isfinite, losses)) and not all(math.isfinite(c.value) for c in calls):
            raise BadInput(f"step {index} has finite losses, but a cross-entropy is not")
        steps.append(
            Step(
                index=index,
                batches=tuple(
                    _batch(found.batches[i]) for i in range(consumed, end) if i in found.batches
                ),
                loss=_sum(losses),
                micro_losses=losses,
                learning_rates=() if step is None else step.lr,
                gradient_norm=None if values is None else values.gradient_norm,
                max_norm=None if step is None else step.max_norm,
                clips=_clips(step, values),
                inputs=() if values is None else values.inputs,
                outputs=() if values is None else values.outputs,
                routed=_routed(values),
                cross_entropies=() if values is None else values.cross_entropies,
                generators={} if step is None else step.generators,
                finished=step is not None and (step.staged or values is not None),
            )
        )
        consumed += micro
    return tuple(steps), tuple(windows), tuple(groups)


def _clips(step: StepEvent | None, values: ValuesEvent | None) -> tuple[Clip, ...]:
    """The calls of a step, with their norms where they were read."""
    calls = () if step is None else step.clips
    if values is None:
        return calls
    if step is not None and len(values.norms) != len(calls):
        raise BadInput(f"step {step.step} has {len(calls)} clips, but {len(values.norms)} norms")
    pairs = zip(calls, values.norms, strict=False)
    return tuple(dataclasses.replace(call, norm=norm) for call, norm in pairs)


def _routed(values: ValuesEvent | None) -> tuple[Routed, ...]:
    """The routers of a step. Raises BadInput for one that contradicts itself."""
    routed = () if values is None else values.routed
    for each in routed:
        kept, experts = len(each.taken), len(each.load)
        sizes = {len(taken) for taken in each.taken}
        wrong = (
            len(each.margins) != kept
            or kept > each.tokens
            or len(sizes) > 1
            or sum(each.load) != each.tokens * sum(sizes)
            or any(len({*taken}) < len(taken) for taken in each.taken)
            or any(expert >= experts for taken in each.taken for expert in taken)
        )
        if wrong:
            raise BadInput(f"what {each.name} chose contradicts itself")
    if len({each.name for each in routed}) < len(routed):
        raise BadInput("a router is there twice")
    return routed


E_ = TypeVar("E_", BatchEvent, StepEvent, ValuesEvent)


def _once(found: dict[int, E_], index: int, event: E_) -> None:
    if index in found:
        raise BadInput(f"the {event.event} event {index} is there twice")
    found[index] = event


def _batch(event: BatchEvent) -> Batch:
    if event.shape[:1] != (len(event.rows),):
        raise BadInput(
            f"batch {event.index} has the shape {list(event.shape)}, but {len(event.rows)} rows"
        )
    return Batch(
        event.tokens, event.labels, event.mask, event.rows, event.shape, event.targets,
        event.first_targets, event.own,
    )  # fmt: skip


def _sum(losses: Sequence[float]) -> float | None:
    """The sum; NaN over anything that is not finite, None where there are no values at all."""
    if not losses:
        return None
    try:
        return math.fsum(losses) if all(map(math.isfinite, losses)) else math.nan
    except OverflowError:
        return math.nan
