"""How a case did over time: step time, memory, compilations and losses of its runs, by date and
version.

Bounds move by evidence: a run is held against the runs of the same engine, case and device before
it, by an interval that one more of their kind would be in (`harness.report.bounds`). Nobody sets
one by hand.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.ladder.distances import relative_difference
from harness.record.evidence import Record
from harness.record.writer import encode
from harness.report.bounds import Judged, judged
from harness.report.made import iso, source, versions
from harness.report.step_times import MedianInterval, step_times

STEP_TIME, MEMORY, COMPILATIONS = "step time", "peak memory", "compilations"


@dataclass(frozen=True)
class Entry:
    """One run in the history of its case.

    started:   when, in ISO 8601
    seconds:   a step; None where no window was steady
    judged:    its step time (seconds), peak memory of the compiled step on one device (bytes) and
               number of compilations, against those of the runs before; what it has not is missing
    last_loss: of its last step
    moved:     largest relative difference of its losses from those of the run before, of the same
               engine; None where there is none, or it has other steps
    changed:   what it was made of otherwise than the run before, such as "transformers 4.56.2 →
               4.57.6"
    """

    record: Record
    started: str
    source: str
    versions: tuple[tuple[str, str], ...]
    seconds: MedianInterval | None
    judged: Mapping[str, Judged]
    last_loss: float | None
    moved: float | None
    changed: tuple[str, ...]


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
            runs = lines[record.case.name, record.engine, device, _case(record)]
            if not runs or runs[-1].manifest.started != record.manifest.started:
                runs.append(record)  # else it is a baseline, of a run that is there too
    return tuple(
        HistoryLine(case, engine, device, _entries(runs, graphs[case, engine]))
        for (case, engine, device, _), runs in sorted(lines.items())
        if len(runs) > 1
    )


def _case(record: Record) -> str:
    """All that a case asks for: two of one name may differ, and are two lines then."""
    return json.dumps(encode(dataclasses.asdict(record.case)), sort_keys=True, default=str)


def _entries(runs: Sequence[Record], graphs: Sequence[Record]) -> tuple[Entry, ...]:
    timed = [step_times(record) for record in runs]
    measured: dict[str, list[Judged | None]] = {
        STEP_TIME: judged(None if each is None else each.median for each in timed),
        MEMORY: judged(_memory(record, graphs) for record in runs),
        COMPILATIONS: judged(_compilations(record) for record in runs),
    }
    entries: list[Entry] = []
    for index, record in enumerate(runs):
        before = runs[index - 1] if index else None
        losses = [step.loss for step in record.steps]
        at = {name: values[index] for name, values in measured.items()}
        entries.append(
            Entry(
                record,
                iso(record.manifest.started),
                source(record),
                tuple(versions(record).items()),
                timed[index],
                {name: value for name, value in at.items() if value is not None},
                losses[-1] if losses else None,
                None if before is None else moved(before, record),
                () if before is None else changed(before, record),
            )
        )
    return tuple(entries)


def changed(before: Record, now: Record) -> tuple[str, ...]:
    """What two runs were made of otherwise: packages by version, and the source by its commit."""
    x, y = versions(before), versions(now)
    found = [
        f"{name} {x.get(name, 'none')} → {y.get(name, 'none')}"
        for name in sorted({*x, *y})
        if x.get(name) != y.get(name)
    ]
    commits = [record.manifest.origin.commit or "" for record in (before, now)]
    if commits[0] != commits[1]:
        found.append(f"commit {commits[0][:12] or 'none'} → {commits[1][:12] or 'none'}")
    return tuple(found)


def _compilations(record: Record) -> int | None:
    return sum(window.compilations for window in record.windows) if record.windows else None


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
