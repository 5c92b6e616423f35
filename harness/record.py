"""The Record: everything that was observed of one run, as files with a versioned schema.

    manifest.json    what was run, with what, where, and how it ended
    steps.jsonl      events in the order in which they were observed, flushed one by one
    parameters.json  every parameter: shape, dtype, sharding, fingerprints
    graph.json       the compiled step, where it was dumped (`harness.graph`)
    tensorboard/     event files under the same tags for every engine
    trainer.log      everything that the trainer printed
    initial.npz      initial weights, and
    first.npz        the first batch, where the case is as shipped: what the arbiter starts from

A Record is evidence: it is read, compared and moved, never edited. docs/record.md describes each
field. Numbers are finite or the strings "nan", "inf" and "-inf", so that the files are strict
JSON and a NaN can neither get lost nor compare equal to another.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import BadInput

SCHEMA = 1

MANIFEST = "manifest.json"
OBSERVED = "observed.json"
STEPS = "steps.jsonl"
PARAMETERS = "parameters.json"
GRAPH = "graph.json"
LOG = "trainer.log"
TENSORBOARD = "tensorboard"
INITIAL = "initial.npz"
FIRST_BATCH = "first.npz"


@dataclass(frozen=True)
class Fingerprint:
    """See `harness.probe.fingerprint`: exact bits, a linear sketch and the L2 norm of a tensor."""

    bits: int
    sketch: tuple[float, ...]
    norm: float


@dataclass(frozen=True)
class Parameter:
    """One parameter under its canonical name (the engine's wrapper prefixes removed).

    sharding:     torch_xla's sharding annotation of the live tensor ("" where it has none)
    group:        index of its optimizer group; None if no optimizer holds it
    initial:      its value before the first step
    gradient:     its gradient at step 0, before clipping; None if it had none
    clipped_norm: L2 norm of the gradient that the optimizer saw at step 0
    after:        its value after step 0 and after step 1 (a warm-up's first update is zero)
    final:        its value when training ended
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sharding: str
    group: int | None
    initial: Fingerprint | None = None
    gradient: Fingerprint | None = None
    clipped_norm: float | None = None
    after: tuple[Fingerprint, ...] = ()
    final: Fingerprint | None = None


@dataclass(frozen=True)
class Batch:
    """One micro-batch as the DataLoader gave it, on the host.

    tokens, labels, mask: hashes of the arrays; mask is "" where there is none or it is all ones
    rows:                 hash of each row's tokens and labels, in order
    shape:                [rows, sequence]
    targets:              labels that are not -100, the first column apart (it is never predicted)
    first_targets:        labels in the first column that are not -100
    """

    tokens: str
    labels: str
    mask: str
    rows: tuple[str, ...]
    shape: tuple[int, ...]
    targets: int
    first_targets: int


@dataclass(frozen=True)
class Group:
    """One optimizer group: every hyper-parameter but the parameters, and how many it holds."""

    hyper: dict[str, Any]
    parameters: int


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    loss:           sum of the scalars on which `backward()` was called
    micro_losses:   those scalars
    learning_rates: what each group really used
    gradient_norm:  what `clip_grad_norm_` returned; None where it was not called
    max_norm:       what it was called with; None where it was not called
    """

    index: int
    batches: tuple[Batch, ...] = ()
    loss: float | None = None
    micro_losses: tuple[float, ...] = ()
    learning_rates: tuple[float, ...] = ()
    gradient_norm: float | None = None
    max_norm: float | None = None
    finished: bool = False


@dataclass(frozen=True)
class Window:
    """Consecutive optimizer steps between two device syncs.

    seconds, cpu_seconds: wall clock and process CPU time of the whole window
    compilations:         graphs that XLA compiled within it
    executions:           graphs that were executed
    transfers:            transfers from the device that the trainer asked for
    fallbacks:            calls of `aten::` operations that ran on the host, by name
    """

    first: int
    last: int
    seconds: float
    cpu_seconds: float
    compilations: int
    executions: int = 0
    transfers: int = 0
    fallbacks: dict[str, int] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Number of optimizer steps in the window."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class Record:
    """One run, as read from its folder."""

    directory: Path
    manifest: dict[str, Any]
    steps: tuple[Step, ...]
    windows: tuple[Window, ...]
    parameters: tuple[Parameter, ...]
    groups: tuple[tuple[int, str, tuple[Group, ...]], ...]
    graph: dict[str, Any] | None = None

    @property
    def engine(self) -> str:
        """Name of the engine that trained."""
        return str(self.manifest["engine"])

    @property
    def label(self) -> str:
        """What a person calls this run: the engine, and its version where that is known."""
        return str(self.manifest.get("label") or self.engine)

    @property
    def asked_steps(self) -> int:
        """Optimizer steps that the case asked for."""
        return int(self.manifest["case"]["steps"])

    @property
    def trained_steps(self) -> int:
        """Optimizer steps that were finished."""
        return sum(step.finished for step in self.steps)

    @property
    def observed(self) -> dict[str, Any]:
        """What the probe saw of the process: versions, devices, mesh, and how the script ended."""
        return dict(self.manifest.get("observed") or {})

    @property
    def ended(self) -> dict[str, Any]:
        """How the process ended: `status`, `reason` and, for a failure, the `log` tail."""
        return dict(self.manifest["ended"])

    @property
    def complete(self) -> bool:
        """The trainer ended well and trained every step that was asked for, each one finished."""
        return self.ended.get("status") == "ok" and self.trained_steps == self.asked_steps


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
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"not a number: {value!r}")
    return float(value)


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

    Raises BadInput where there is none, where its schema is not ours, or where a file that its
    manifest calls complete is missing or damaged. A run that was cut short reads up to its last
    whole line.
    """
    manifest = _read_json(directory / MANIFEST)
    if manifest.get("schema") != SCHEMA:
        raise BadInput(
            f"{directory / MANIFEST}: schema {manifest.get('schema')!r} is not {SCHEMA}, the one "
            "that this version of the harness reads. Run the case again, or read the Record with "
            "the version that wrote it."
        )
    well_ended = manifest.get("ended", {}).get("status") == "ok"
    events = read_events(directory / STEPS, strict=well_ended)
    parameters: tuple[Parameter, ...] = ()
    if (directory / PARAMETERS).is_file():
        raw = _read_json(directory / PARAMETERS)
        parameters = tuple(_parameter(p) for p in raw["parameters"])
    elif well_ended:
        raise BadInput(f"{directory / PARAMETERS} is missing from a Record that claims to be whole")
    graph = _read_json(directory / GRAPH) if (directory / GRAPH).is_file() else None
    try:
        steps, windows, groups = _merge(events)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{directory / STEPS}: an event lacks or misspells a field: {error}") from (
            error
        )
    return Record(directory, manifest, steps, windows, parameters, groups, graph)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
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
    lines = path.read_text().split("\n")
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
    batches: dict[int, Batch] = {}
    fields: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    windows, groups = [], []
    for event in events:
        kind = event["event"]
        if kind == "batch":
            batches[int(event["index"])] = _batch(event)
        elif kind in ("step", "values"):
            fields[int(event["step"])].update(event)
        elif kind == "window":
            windows.append(
                Window(**{**event["window"], "seconds": float(event["window"]["seconds"])})
            )
        elif kind == "optimizer":
            groups.append(
                (int(event["step"]), event["class"], tuple(Group(**g) for g in event["groups"]))
            )
        else:
            raise ValueError(f"unknown event {kind!r}")
    steps, consumed = [], 0
    for index in sorted(fields):
        raw = fields[index]
        micro = int(raw.get("micro", 0))
        mine = range(consumed, consumed + micro)
        consumed += micro
        micro_losses = tuple(_required(x) for x in raw.get("losses", ()))
        steps.append(
            Step(
                index=index,
                batches=tuple(batches[i] for i in mine if i in batches),
                loss=math.fsum(micro_losses) if _finite(micro_losses) else _poisoned(micro_losses),
                micro_losses=micro_losses,
                learning_rates=tuple(_required(x) for x in raw.get("lr", ())),
                gradient_norm=number(raw.get("gradient_norm")),
                max_norm=number(raw.get("max_norm")),
                finished="micro" in raw and "losses" in raw,
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


def _batch(raw: dict[str, Any]) -> Batch:
    return Batch(
        tokens=raw["tokens"],
        labels=raw["labels"],
        mask=raw["mask"],
        rows=tuple(raw["rows"]),
        shape=tuple(raw["shape"]),
        targets=int(raw["targets"]),
        first_targets=int(raw["first_targets"]),
    )


def _fingerprint(raw: dict[str, Any] | None) -> Fingerprint | None:
    if raw is None:
        return None
    return Fingerprint(
        int(raw["bits"]), tuple(_required(x) for x in raw["sketch"]), _required(raw["norm"])
    )


def _parameter(raw: dict[str, Any]) -> Parameter:
    after = tuple(f for f in map(_fingerprint, raw.get("after", ())) if f is not None)
    return Parameter(
        name=raw["name"],
        shape=tuple(raw["shape"]),
        dtype=raw["dtype"],
        sharding=raw["sharding"],
        group=raw["group"],
        initial=_fingerprint(raw.get("initial")),
        gradient=_fingerprint(raw.get("gradient")),
        clipped_norm=number(raw.get("clipped_norm")),
        after=after,
        final=_fingerprint(raw.get("final")),
    )
