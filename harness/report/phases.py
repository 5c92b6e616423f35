"""A table of where the seconds of runs went, for `parity run -v`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.record.evidence import Record
from harness.record.phases import phases

LAUNCHED = {True: "forked", False: "by itself"}


def phase_lines(records: Iterable[Record]) -> list[str]:
    """One line a phase, one column a run; no line where no run came to its first step."""
    found = [(record, phases(record)) for record in records]
    found = [(record, spent) for record, spent in found if spent]
    if not found:
        return []
    names = list(dict.fromkeys(name for _, spent in found for name in spent))
    rows = [["seconds", *(record.label for record, _ in found)]]
    rows += [[name, *(_cell(spent.get(name)) for _, spent in found)] for name in names]
    rows.append(["in all", *(_cell(record.ended.seconds) for record, _ in found)])
    rows.append(["launched", *(LAUNCHED[record.observed.forked] for record, _ in found)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def session_line(seconds: Mapping[str, float]) -> str:
    """What a session takes by phase: planning, all of its runs, judging and writing."""
    listed = ", ".join(f"{name} {spent:.2f}" for name, spent in seconds.items())
    return f"session: {listed}, in all {sum(seconds.values()):.2f}"


def _cell(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.2f}"
