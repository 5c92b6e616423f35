"""The history of a case as a page shows it: step times with their bounds, and a table."""

from __future__ import annotations

from typing import Any

from harness.base.text import printable
from harness.report import figures
from harness.report.history import Entry, HistoryLine
from harness.report.tables import Table
from harness.report.text import MISSING, format_number

COLUMNS = (
    "started", "source", "versions", "median, s a step", "95 % interval",
    "expected by the runs before", "peak memory, bytes", "last loss", "losses moved by",
)  # fmt: skip


def history_view(line: HistoryLine) -> dict[str, Any]:
    """What the template draws of one line."""
    odd = [entry for entry in line.entries if entry.slower_or_faster]
    notes = [_beyond(entry) for entry in odd]
    return {
        "title": printable(f"{line.case}: {line.engine} on {line.device}"),
        "notes": notes,
        "figure": _figure(line),
        "table": Table(f"{line.case}, {line.engine}", COLUMNS, tuple(map(_row, line.entries))),
    }


def _beyond(entry: Entry) -> str:
    assert entry.seconds is not None
    assert entry.bound is not None
    word = "slower" if entry.seconds.median > entry.bound.high else "faster"
    return (
        f"{entry.started} ({printable(entry.source)}): {format_number(entry.seconds.median, 4)} s "
        f"a step, {word} than the {entry.bound.runs} runs before explain ({_interval(entry)})"
    )


def _figure(line: HistoryLine) -> dict[str, Any] | None:
    timed = [entry for entry in line.entries if entry.seconds is not None]
    if not timed:
        return None
    dates = [entry.started for entry in timed]
    bounds = [entry for entry in timed if entry.bound is not None]
    traces: list[figures.Trace] = []
    for name, edge in (("expected, from", "low"), ("expected, to", "high")):
        if bounds:
            traces.append(
                {
                    "type": "scatter",
                    "name": name,
                    "x": [entry.started for entry in bounds],
                    "y": [getattr(entry.bound, edge) for entry in bounds],
                    "mode": "lines",
                    "line": {"color": figures.GREY, "width": 1, "dash": "dot"},
                    "hoverinfo": "skip",
                }
            )
    medians = [entry.seconds.median for entry in timed if entry.seconds]
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
        _interval(entry),
        MISSING if entry.memory is None else f"{entry.memory:,}",
        format_number(entry.last_loss, 7),
        format_number(entry.moved),
    )
    return tuple(map(printable, cells))


def _interval(entry: Entry) -> str:
    if entry.bound is None:
        return MISSING
    return f"{format_number(entry.bound.low, 4)} to {format_number(entry.bound.high, 4)}"
