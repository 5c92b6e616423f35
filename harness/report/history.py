"""How a case did over time: step time, memory and losses of its runs, by date and version.

Bounds move by evidence: a run is held against all runs of the same engine, case and device before
it, by an interval that one more of their kind would be in. Nobody sets one by hand.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.ladder.distances import relative_difference
from harness.ladder.step_ratio import t_quantile
from harness.record.evidence import Record
from harness.record.writer import encode
from harness.report.made import iso, source, versions
from harness.report.step_times import MedianInterval, step_times

CONFIDENCE = 0.99
"""Of a bound: one run in a hundred that is like those before it is beyond."""

FEWEST = 3
"""Runs before one, from which on their spread tells anything."""


@dataclass(frozen=True)
class Bound:
    """The interval in which one more run of this kind is expected.

    runs: how many it rests on
    """

    low: float
    high: float
    runs: int

    def beyond(self, value: float) -> bool:
        """Whether a value is outside."""
        return not self.low <= value <= self.high


@dataclass(frozen=True)
class Entry:
    """One run in the history of its case.

    started:   when, in ISO 8601
    seconds:   a step; None where no window was steady
    bound:     on `seconds`, from the runs before; None where these are too few
    memory:    peak bytes of the compiled step on one device
    last_loss: of its last step
    moved:     largest relative difference of its losses from those of the run before, of the same
               engine; None where there is none, or it has other steps
    """

    record: Record
    started: str
    source: str
    versions: tuple[tuple[str, str], ...]
    seconds: MedianInterval | None
    bound: Bound | None
    memory: int | None
    last_loss: float | None
    moved: float | None

    @property
    def slower_or_faster(self) -> bool:
        """Whether its step time is one that the runs before it do not explain."""
        return (
            self.seconds is not None
            and self.bound is not None
            and self.bound.beyond(self.seconds.median)
        )


@dataclass(frozen=True)
class HistoryLine:
    """The runs of one engine that train one case on one kind of device, by date."""

    case: str
    engine: str
    device: str
    entries: tuple[Entry, ...]


def history(records: Iterable[Record]) -> tuple[HistoryLine, ...]:
    """Every line of which there are two runs and more.

    Only runs that are compared themselves, and ended well: a run that dumps its graph, or takes
    turns with another, is timed otherwise. Memory is that of the graph run of the same engine and
    case that came last before it.
    """
    lines: defaultdict[tuple[str, str, str, str], list[Record]] = defaultdict(list)
    graphs: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda r: (r.manifest.started, str(r.directory))):
        device = f"{record.observed.devices or 0} × {record.observed.device_kind or 'unknown'}"
        if record.graph is not None:
            graphs[record.case.name, record.engine].append(record)
        if record.manifest.role == "subject" and record.complete:
            lines[record.case.name, record.engine, device, _case(record)].append(record)
    return tuple(
        HistoryLine(case, engine, device, _entries(runs, graphs[case, engine]))
        for (case, engine, device, _), runs in sorted(lines.items())
        if len(runs) > 1
    )


def _case(record: Record) -> str:
    """All that a case asks for: two of one name may differ, and are two lines then."""
    return json.dumps(encode(dataclasses.asdict(record.case)), sort_keys=True, default=str)


def _entries(runs: Sequence[Record], graphs: Sequence[Record]) -> tuple[Entry, ...]:
    entries: list[Entry] = []
    for record in runs:
        before = [e.seconds.median for e in entries if e.seconds is not None]
        losses = [step.loss for step in record.steps]
        entries.append(
            Entry(
                record,
                iso(record.manifest.started),
                source(record),
                tuple(versions(record).items()),
                step_times(record),
                bound(before),
                _memory(record, graphs),
                losses[-1] if losses else None,
                moved(entries[-1].record, record) if entries else None,
            )
        )
    return tuple(entries)


def bound(values: Sequence[float]) -> Bound | None:
    """Where one more value is expected, by Student's prediction interval of their logarithms.

    mean ± t · s · sqrt(1 + 1/n) (Hahn and Meeker, "Statistical intervals", 4.4). None for fewer
    than `FEWEST` values.
    """
    if len(values) < FEWEST:
        return None
    logs = [math.log(value) for value in values]
    half = t_quantile(CONFIDENCE, len(logs) - 1) * statistics.stdev(logs)
    half *= math.sqrt(1 + 1 / len(logs))
    middle = statistics.fmean(logs)
    return Bound(math.exp(middle - half), math.exp(middle + half), len(values))


def moved(before: Record, now: Record) -> float | None:
    """The largest relative difference of two runs' losses; None where their steps differ."""
    x, y = ({step.index: step.loss for step in record.steps} for record in (before, now))
    if not x or x.keys() != y.keys():
        return None
    return max(relative_difference(x[step], y[step]) for step in x)


def _memory(record: Record, graphs: Sequence[Record]) -> int | None:
    if record.graph is not None:
        return record.graph.peak_memory_bytes
    earlier = [g for g in graphs if g.manifest.started <= record.manifest.started]
    found = earlier[-1] if earlier else (graphs[0] if graphs else None)
    return None if found is None or found.graph is None else found.graph.peak_memory_bytes
