"""Puts the events of all hosts together: batches by rank, the slowest host's times."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harness.probe import hashing
from harness.record.evidence import Fingerprint, Observed, Window
from harness.record.reader import (
    BatchEvent,
    Event,
    OptimizerEvent,
    StepEvent,
    ValuesEvent,
    WindowEvent,
)
from harness.record.writer import encode

E = TypeVar("E", bound=StepEvent | ValuesEvent)

OF_STEP: dict[type[StepEvent] | type[ValuesEvent], tuple[str, ...]] = {
    StepEvent: ("micro", "lr", "max_norm", "clips"),
    ValuesEvent: (
        "losses",
        "gradient_norm",
        "norms",
        "inputs",
        "outputs",
        "routed",
        "cross_entropies",
    ),
}
"""Fields of a step's events that are the same on all hosts."""


@dataclass
class Disagreements:
    """What hosts disagree about, one line a kind: the first case of it, and how many more."""

    first: dict[str, str] = field(default_factory=dict)
    count: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, text: str) -> None:
        """Note one disagreement of a kind."""
        self.first.setdefault(kind, text)
        self.count[kind] += 1

    def lines(self) -> list[str]:
        """One line for each kind, in the order in which they were found."""
        return [
            text + (f" (and {self.count[kind] - 1} more)" if self.count[kind] > 1 else "")
            for kind, text in self.first.items()
        ]


@dataclass(frozen=True)
class Host:
    """One host: its process's rank, and what it left in its folder."""

    rank: int
    folder: Path
    observed: Observed
    events: list[Event]

    def by_step(self, kind: type[E]) -> dict[int, E]:
        """Events of a kind by their step."""
        return {event.step: event for event in self.events if isinstance(event, kind)}

    @property
    def batches(self) -> dict[int, BatchEvent]:
        """Batches by their index."""
        return {event.index: event for event in self.events if isinstance(event, BatchEvent)}

    @property
    def windows(self) -> dict[tuple[int, int], Window]:
        """Timing windows by their first and last step."""
        windows = [event.window for event in self.events if isinstance(event, WindowEvent)]
        return {(window.first, window.last): window for window in reversed(windows)}


def same(kind: str, text: str, values: Iterable[tuple[Host, Any]], found: Disagreements) -> None:
    """Note where a value is not the same on every host."""
    (first, expected), *others = values
    for host, value in others:
        if plain(value) != plain(expected):  # a NaN is equal to a NaN here
            found.add(
                kind,
                f"{text} is {_short(expected)} on host {first.rank} and {_short(value)} on host "
                f"{host.rank}",
            )
            return


def plain(value: Any) -> Any:
    """Plain values, as they are written."""
    return encode(dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value)  # type: ignore[arg-type]


def _short(value: Any) -> str:
    if isinstance(value, Fingerprint):
        return f"a tensor of norm {value.norm} (bits {value.bits})"
    if isinstance(value, tuple) and len(value) == 1:
        return _short(value[0])
    text = str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 120 else text[:117] + "…"


def merge_events(hosts: Sequence[Host], micro_batch: int, found: Disagreements) -> list[Event]:
    """The first host's events, with the batches and times of all, as far as all hosts came."""
    first, *others = hosts
    for kind, names in OF_STEP.items():
        tables: list[dict[int, Any]] = [host.by_step(kind) for host in hosts]
        for step in sorted(set().union(*tables)):
            for name in names:
                values = [
                    (host, getattr(table.get(step), name, None))
                    for host, table in zip(hosts, tables, strict=True)
                ]
                label = name.replace("_", " ")
                same(f"{kind} {name}", f"step {step}: {label}", values, found)
    optimizers = [
        [plain(event) for event in host.events if isinstance(event, OptimizerEvent)]
        for host in hosts
    ]
    same("optimizer", "the optimizer", zip(hosts, optimizers, strict=True), found)
    complete = set.intersection(*(set(host.by_step(ValuesEvent)) for host in hosts))
    events: list[Event] = []
    for event in first.events:
        if isinstance(event, BatchEvent):
            parts = [host.batches.get(event.index) for host in hosts]
            # Loaders read ahead, and not all hosts equally far. What was consumed and is missing
            # is missing from the merged Record as well, and does not pass for equal data.
            if all(part is not None for part in parts):
                joined = [part for part in parts if part is not None]
                events.append(_join_batches(joined, micro_batch, found))
        elif isinstance(event, WindowEvent):
            window = _merge_windows(event.window, others, found)
            if window is not None:
                events.append(dataclasses.replace(event, window=window))
        elif not isinstance(event, ValuesEvent) or event.step in complete:
            events.append(event)
    return events


def whole(rows: Sequence[int], micro_batch: int) -> bool:
    """Whether every host loaded the whole micro-batch, rather than a part of it."""
    return all(count == micro_batch for count in rows)


def _join_batches(
    parts: Sequence[BatchEvent], micro_batch: int, found: Disagreements
) -> BatchEvent:
    """One batch from those of all hosts, in the order of their ranks."""
    index, rows = parts[0].index, [part.shape[0] for part in parts]
    if whole(rows, micro_batch):
        for rank, part in enumerate(parts):
            if part != parts[0]:
                found.add(
                    "batch",
                    f"batch {index}: hosts 0 and {rank} loaded other rows, each a whole "
                    f"micro-batch of {micro_batch}",
                )
        return parts[0]
    if sum(rows) != micro_batch:
        found.add(
            "rows",
            f"batch {index}: the hosts loaded {sum(rows)} rows together, the micro-batch has "
            f"{micro_batch}",
        )
    masks = [_mask(part) if any(p.mask for p in parts) else "" for part in parts]
    return dataclasses.replace(
        parts[0],
        tokens=hashing.joined([(p.tokens, n) for p, n in zip(parts, rows, strict=True)]),
        labels=hashing.joined([(p.labels, n) for p, n in zip(parts, rows, strict=True)])
        if all(part.labels for part in parts)
        else "",
        mask=hashing.joined(list(zip(masks, rows, strict=True))) if all(masks) else "",
        rows=tuple(row for part in parts for row in part.rows),
        shape=(sum(rows), parts[0].shape[1]),
        targets=sum(part.targets for part in parts),
        first_targets=sum(part.first_targets for part in parts),
    )


def _mask(part: BatchEvent) -> str:
    """The hash of a part's mask; one that masks nothing is recorded as none."""
    if part.mask:
        return part.mask
    rows, length = part.shape
    return hashing.of_rows([hashing.of_array(np.ones(length, np.int64))] * rows)


def _merge_windows(window: Window, others: Sequence[Host], found: Disagreements) -> Window | None:
    """The slowest host's time, and the largest of every count; None where a host has no such."""
    span = f"steps {window.first} to {window.last}"
    windows = [window]
    for host in others:
        other = host.windows.get((window.first, window.last))
        if other is None:
            found.add("window", f"{span} were not timed on host {host.rank}")
            return None
        windows.append(other)
        if other.compilations != window.compilations:
            found.add(
                "compilations",
                f"{span}: {window.compilations} compilations on host 0, {other.compilations} on "
                f"host {host.rank}",
            )
    names = sorted({name for w in windows for name in w.fallbacks})
    inner = [w.inner_graphs for w in windows]
    return Window(
        first=window.first,
        last=window.last,
        seconds=max(w.seconds for w in windows),
        cpu_seconds=max(w.cpu_seconds for w in windows),
        compilations=max(w.compilations for w in windows),
        executions=max(w.executions for w in windows),
        transfers=max(w.transfers for w in windows),
        fallbacks={name: max(w.fallbacks.get(name, 0) for w in windows) for name in names},
        profiled=any(w.profiled for w in windows),
        compile_seconds=max(w.compile_seconds for w in windows),
        inner_graphs=None if None in inner else max(n for n in inner if n is not None),
    )
