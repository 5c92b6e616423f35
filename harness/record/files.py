"""The Record: everything that was observed of one run, as files with a versioned schema.

    manifest.json    what was run, with what, where, and how it ended
    steps.jsonl      events in the order in which they were observed, flushed one by one
    parameters.json  every parameter: shape, dtype, sharding, fingerprints
    graph.json       the compiled step, where it was dumped (`harness.compiler`)
    profile/         the device's profile of one window, on a TPU (xplane), and
    device_times.json  the seconds between its steps, read from it
    tensorboard/     event files under the same tags for every engine
    hosts.json       where the hosts of one run disagree, where it had several
    trainer.log      everything that the trainer printed
    initial.npz      initial weights, and
    first.npz        the first batch, where the case is as shipped: the float64 reference's start

A Record is evidence: it is read, compared and moved, never edited. docs/record.md describes each
field. Numbers are finite or the strings "nan", "inf" and "-inf", so that the files are strict
JSON and a NaN can neither get lost nor compare equal to another.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput
from harness.record.evidence import Batch, Fingerprint, Group, Parameter, Record, Step, Window

__all__ = [
    "Batch", "Fingerprint", "Group", "Parameter", "Record", "Step", "Window",
    "encode", "number", "read_events", "read_record", "write_json", "write_text",
]  # fmt: skip

SCHEMA = 1

MANIFEST = "manifest.json"
OBSERVED = "observed.json"
STEPS = "steps.jsonl"
PARAMETERS = "parameters.json"
GRAPH = "graph.json"
LOG = "trainer.log"
TENSORBOARD = "tensorboard"
PROFILE = "profile"
DEVICE_TIMES = "device_times.json"
HOSTS = "hosts.json"
INITIAL = "initial.npz"
FIRST_BATCH = "first.npz"


def encode(value: Any) -> Any:
    """`value` with non-finite floats as strings, for strict JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, dict):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    return value


def number(value: Any) -> float | None:
    """A number as `encode` wrote it; None stays None. Raises ValueError on anything else."""
    if value is None:
        return None
    if type(value) in (int, float) or value in ("nan", "inf", "-inf"):
        return float(value)
    raise ValueError(f"not a number: {value!r}")


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON under a temporary name and rename, so that no reader sees half a file."""
    write_text(path, json.dumps(encode(value), indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` under a temporary name beside `path`, then rename."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(name, 0o644)
    os.replace(name, path)


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
    manifest = _read_json(directory / MANIFEST)
    _check_schema(directory / MANIFEST, manifest)
    _check_manifest(directory / MANIFEST, manifest)
    well_ended = manifest["ended"]["status"] == "ok"
    events = read_events(directory / STEPS, strict=well_ended)
    parameters: tuple[Parameter, ...] = ()
    path = directory / PARAMETERS
    if path.is_file():
        raw = _read_json(path)
        _check_schema(path, raw)
        try:
            parameters = _parameters(raw["parameters"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path}: a parameter lacks or misspells a field: {error}") from error
    elif well_ended:
        raise BadInput(f"{path} is missing from a Record that claims to be whole")
    graph = _read_json(directory / GRAPH) if (directory / GRAPH).is_file() else None
    try:
        steps, windows, groups = _merge(events)
    except (KeyError, TypeError, ValueError) as error:
        text = f"{directory / STEPS}: an event lacks or misspells a field, or is told twice: "
        raise BadInput(text + str(error)) from error
    device = _device_seconds(directory / DEVICE_TIMES)
    return Record(directory, manifest, steps, windows, parameters, groups, graph, device)


def _check_schema(path: Path, raw: dict[str, Any]) -> None:
    if raw.get("schema") != SCHEMA:
        raise BadInput(
            f"{path}: schema {raw.get('schema')!r} is not {SCHEMA}, the one that this version of "
            "the harness reads. Run the case again, or read the Record with the version that "
            "wrote it."
        )


def _check_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """What every judgement needs: who trained, what was asked for, and how it ended."""
    try:
        case = manifest["case"]
        for holder, key in ((manifest, "engine"), (case, "name"), (case, "dtype")):
            _text(holder, key)
        _text(manifest["ended"], "status")
        _whole(case, "steps")
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} lacks or misspells a field: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(
            f"{path} does not exist: {path.parent} is not a Record, or its run has not ended. "
            "A Record is the folder that `parity run` names for each engine."
        ) from None
    except ValueError as error:
        raise BadInput(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path} holds no JSON object")
    return value


def read_events(path: Path, strict: bool = False) -> list[dict[str, Any]]:
    """The events of steps.jsonl. A damaged last line is a run cut short, unless `strict`."""
    if not path.is_file():
        if strict:
            raise BadInput(f"{path} is missing from a Record that claims to be whole")
        return []
    # A line that was cut within a character is a damaged line, not an unreadable file.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    events: list[dict[str, Any]] = []
    for number_, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            events.append(json.loads(line))
        except ValueError as error:
            if strict or number_ < len(lines):
                raise BadInput(f"{path}, line {number_} is damaged: {error}") from None
    return events


def _merge(
    events: Iterable[dict[str, Any]],
) -> tuple[tuple[Step, ...], tuple[Window, ...], tuple[tuple[int, str, tuple[Group, ...]], ...]]:
    """Steps, windows and optimizer groups out of the event log.

    Batches are seen ahead of the steps that consume them (prefetch): batch i belongs to
    micro-step i, and the `micro` counts of the finished steps say where each step's end is.
    """
    told: dict[str, dict[int, dict[str, Any]]] = {"batch": {}, "step": {}, "values": {}}
    windows, groups = [], []
    for event in events:
        kind = event["event"]
        if kind in told:
            index = _whole(event, "index" if kind == "batch" else "step")
            if index in told[kind]:
                raise ValueError(f"the {kind} event {index} is there twice")
            told[kind][index] = event
        elif kind == "window":
            windows.append(_window(event["window"]))
        elif kind == "optimizer":
            held = tuple(Group(dict(g["hyper"]), _whole(g, "parameters")) for g in event["groups"])
            groups.append((_whole(event, "step"), _text(event, "class"), held))
        else:
            raise ValueError(f"unknown event {kind!r}")
    batches = {index: _batch(event) for index, event in told["batch"].items()}
    steps, consumed = [], 0
    for index in sorted(told["step"].keys() | told["values"].keys()):
        step, values = told["step"].get(index), told["values"].get(index)
        micro = 0 if step is None else _whole(step, "micro")
        mine = range(consumed, consumed + micro)
        consumed += micro
        micro_losses = () if values is None else tuple(map(_required, values["losses"]))
        if step is not None and values is not None and len(micro_losses) != micro:
            raise ValueError(
                f"step {index} has {micro} micro-steps, but {len(micro_losses)} losses"
            )
        steps.append(
            Step(
                index=index,
                batches=tuple(batches[i] for i in mine if i in batches),
                loss=math.fsum(micro_losses) if _finite(micro_losses) else _poisoned(micro_losses),
                micro_losses=micro_losses,
                learning_rates=() if step is None else tuple(map(_required, step["lr"])),
                gradient_norm=None if values is None else number(values["gradient_norm"]),
                max_norm=None if step is None else number(step["max_norm"]),
                finished=step is not None and values is not None,
            )
        )
    return tuple(steps), tuple(windows), tuple(groups)


def _finite(values: tuple[float, ...]) -> bool:
    return bool(values) and all(math.isfinite(v) for v in values)


def _poisoned(values: tuple[float, ...]) -> float | None:
    """What a sum over non-finite values is: NaN, or None where there are no values at all."""
    return math.nan if values else None


def _required(value: Any) -> float:
    result = number(value)
    if result is None:
        raise ValueError("a number is missing")
    return result


def _whole(raw: dict[str, Any], key: str) -> int:
    value = raw[key]
    if type(value) is not int or value < 0:  # True is an int to Python
        raise ValueError(f"{key}={value!r} is not a whole number")
    return value


def _device_seconds(path: Path) -> tuple[tuple[float, ...], ...]:
    """Seconds between successive steps on each device; empty where no profile was taken."""
    if not path.is_file():
        return ()
    seconds = _read_json(path).get("seconds")
    if not isinstance(seconds, dict) or not seconds:
        raise BadInput(f"{path} has no `seconds` by device")
    return tuple(tuple(_required(gap) for gap in gaps) for gaps in seconds.values())


def _text(raw: dict[str, Any], key: str) -> str:
    if not isinstance(raw[key], str):
        raise ValueError(f"{key}={raw[key]!r} is not a text")
    return str(raw[key])


def _window(raw: dict[str, Any]) -> Window:
    return Window(
        first=_whole(raw, "first"),
        last=_whole(raw, "last"),
        seconds=_required(raw["seconds"]),
        cpu_seconds=_required(raw["cpu_seconds"]),
        compilations=_whole(raw, "compilations"),
        executions=_whole(raw, "executions"),
        transfers=_whole(raw, "transfers"),
        fallbacks={name: _whole(raw["fallbacks"], name) for name in raw["fallbacks"]},
        profiled=raw.get("profiled", False) is True,
        compile_seconds=_required(raw.get("compile_seconds", 0.0)),
    )


def _batch(raw: dict[str, Any]) -> Batch:
    return Batch(
        tokens=_text(raw, "tokens"),
        labels=_text(raw, "labels"),
        mask=_text(raw, "mask"),
        rows=tuple(raw["rows"]),
        shape=tuple(raw["shape"]),
        targets=_whole(raw, "targets"),
        first_targets=_whole(raw, "first_targets"),
    )


def _fingerprint(raw: dict[str, Any]) -> Fingerprint:
    sketch = tuple(map(_required, raw["sketch"]))
    if not sketch:
        raise ValueError("a sketch is empty")
    return Fingerprint(_whole(raw, "bits"), sketch, _required(raw["norm"]))


def _optional(raw: dict[str, Any], key: str) -> Fingerprint | None:
    return None if raw.get(key) is None else _fingerprint(raw[key])


def _parameters(raw: list[dict[str, Any]]) -> tuple[Parameter, ...]:
    parameters = tuple(map(_parameter, raw))
    name, count = Counter(p.name for p in parameters).most_common(1)[0] if raw else ("", 1)
    if count > 1:
        raise ValueError(f"{name} is there twice")
    return parameters


def _parameter(raw: dict[str, Any]) -> Parameter:
    return Parameter(
        name=_text(raw, "name"),
        shape=tuple(raw["shape"]),
        dtype=_text(raw, "dtype"),
        sharding=_text(raw, "sharding"),
        group=None if raw["group"] is None else _whole(raw, "group"),
        initial=_optional(raw, "initial"),
        gradient=_optional(raw, "gradient"),
        clipped_norm=number(raw.get("clipped_norm")),
        after=tuple(map(_fingerprint, raw.get("after", ()))),
        final=_optional(raw, "final"),
    )
