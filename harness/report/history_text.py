"""The history of cases in a terminal: a line a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.base.text import printable
from harness.report.history import Entry, HistoryLine
from harness.report.text import MISSING, format_number


def history_lines(lines: Sequence[HistoryLine]) -> Iterator[str]:
    """Each line of runs, by date: step time, what was expected of it, last loss, and what moved."""
    for line in lines:
        yield printable(f"{line.case}: {line.engine} on {line.device}")
        for entry in line.entries:
            yield f"  {entry.started}  {_facts(entry)}"


def _facts(entry: Entry) -> str:
    seconds = format_number(None if entry.seconds is None else entry.seconds.median, 4)
    expected = ""
    if entry.bound is not None:
        low, high = format_number(entry.bound.low, 4), format_number(entry.bound.high, 4)
        expected = f" (expected {low} to {high})"
    if entry.slower_or_faster and entry.seconds is not None and entry.bound is not None:
        expected += ": slower" if entry.seconds.median > entry.bound.high else ": faster"
    moved = MISSING if entry.moved is None else format_number(entry.moved)
    return printable(
        f"{seconds} s a step{expected}, loss {format_number(entry.last_loss, 7)}, moved {moved}, "
        f"{entry.source or MISSING}"
    )
