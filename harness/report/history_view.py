"""The history of a case as a page shows it: step times with their bounds, and a table."""

from __future__ import annotations

from typing import Any

from harness.base.text import printable
from harness.report import figures
from harness.report.history import COMPILATIONS, MEMORY, STEP_TIME, Entry, HistoryLine
from harness.report.history_text import interval, number, remarks
from harness.report.tables import Table
from harness.report.text import MISSING, format_number

COLUMNS = (
    "started", "source", "versions", "median, s a step", "95 % interval",
    "expected by the runs before", "peak memory", "compilations", "last loss", "losses moved by",
)  # fmt: skip


def history_view(line: HistoryLine) -> dict[str, Any]:
    """What the template draws of one line."""
    notes = [
        printable(f"{entry.started} ({entry.source}): {text}")
        for index, entry in enumerate(line.entries)
        for text in remarks(line.entries, index)
    ]
    return {
        "title": printable(f"{line.case}: {line.engine} on {line.device}"),
        "notes": notes,
        "figure": _figure(line),
        "table": Table(f"{line.case}, {line.engine}", COLUMNS, tuple(map(_row, line.entries))),
    }


def _figure(line: HistoryLine) -> dict[str, Any] | None:
    timed = [(e.started, e.judged[STEP_TIME]) for e in line.entries if STEP_TIME in e.judged]
    if not timed:
        return None
    dates = [started for started, _ in timed]
    bounds = [(started, judged.bound) for started, judged in timed if judged.bound is not None]
    traces: list[figures.Trace] = []
    for name, edge in (("expected, from", "low"), ("expected, to", "high")):
        if bounds:
            traces.append(
                {
                    "type": "scatter",
                    "name": name,
                    "x": [started for started, _ in bounds],
                    "y": [getattr(found, edge) for _, found in bounds],
                    "mode": "lines",
                    "line": {"color": figures.GREY, "width": 1, "dash": "dot"},
                    "hoverinfo": "skip",
                }
            )
    medians = [judged.value for _, judged in timed]
    traces.append(
        {
            "type": "scatter",
            "name": "median",
            "x": dates,
            "y": medians,
            "mode": "lines+markers",
            "line": {"color": figures.A, "width": 2},
            "hovertemplate": "%{y:.4g} s a step",
        }
    )
    return figures.figure(
        traces,
        "seconds a step",
        xaxis={"type": "date", "title": {"text": "started"}},
        yaxis={"rangemode": "tozero"},
    )


def _row(entry: Entry) -> tuple[str, ...]:
    seconds = entry.seconds
    listed = ", ".join(f"{name} {version}" for name, version in entry.versions)
    interval = MISSING
    if seconds is not None and seconds.low is not None:
        interval = f"{format_number(seconds.low, 4)} to {format_number(seconds.high, 4)}"
    cells = (
        entry.started,
        entry.source or MISSING,
        listed or MISSING,
        format_number(None if seconds is None else seconds.median, 4),
        interval,
        _expected(entry, STEP_TIME),
        _value(entry, MEMORY),
        _value(entry, COMPILATIONS),
        format_number(entry.last_loss, 7),
        format_number(entry.moved),
    )
    return tuple(map(printable, cells))


def _expected(entry: Entry, name: str) -> str:
    judged = entry.judged.get(name)
    return interval(name, None if judged is None else judged.bound)


def _value(entry: Entry, name: str) -> str:
    judged = entry.judged.get(name)
    return MISSING if judged is None else number(name, judged.value)
