"""The history of cases in a terminal: a line a run, and what has to be known of it below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.base.text import printable
from harness.report.bounds import Bound, Judged
from harness.report.history import COMPILATIONS, MEMORY, STEP_TIME, Entry, HistoryLine
from harness.report.text import MISSING, format_number

WORDS = {
    STEP_TIME: ("faster", "slower"),
    MEMORY: ("less memory", "more memory"),
    COMPILATIONS: ("fewer compilations", "more compilations"),
}
"""What a value below a bound is, and one above."""


def history_lines(lines: Sequence[HistoryLine]) -> Iterator[str]:
    """Each line of runs, by date, with what was expected of each, what moved, and why."""
    for line in lines:
        yield printable(f"{line.case}: {line.engine} on {line.device}")
        for index, entry in enumerate(line.entries):
            yield f"  {entry.started}  {_facts(entry)}"
            for text in remarks(line.entries, index):
                yield printable(f"    {text}")


def remarks(entries: Sequence[Entry], index: int) -> Iterator[str]:
    """What the runs before do not explain of one run, and where a bound moves by it, and since
    what."""
    entry = entries[index]
    for name, judged in entry.judged.items():
        if judged.side and judged.bound is not None:
            word = WORDS[name][judged.side > 0]
            yield (
                f"{word} than the {judged.bound.runs} runs before explain: {name} "
                f"{number(name, judged.value)}, expected {interval(name, judged.bound)}"
            )
        if judged.moves:
            yield f"the bound on {name} moves here: {_why(entries, index, name, judged)}"


def _why(entries: Sequence[Entry], index: int, name: str, judged: Judged) -> str:
    """How many runs say so, and what was changed at the first of them."""
    having = [i for i in range(index + 1) if name in entries[i].judged]
    first = entries[having[-judged.moves]]
    since = ", ".join(first.changed) or "with the versions of the run before"
    values = [number(name, entries[i].judged[name].value) for i in having[-judged.moves :]]
    return (
        f"{judged.moves} runs in a row ({', '.join(values)}) are beyond it, from {first.started} "
        f"on ({since})"
    )


def number(name: str, value: float) -> str:
    """A value in its unit.

    >>> number(MEMORY, 4096.0), number(STEP_TIME, 0.5)
    ('4,096 bytes', '0.5 s')
    """
    if name == STEP_TIME:
        return f"{format_number(value, 4)} s"
    return f"{value:,.0f}" + (" bytes" if name == MEMORY else "")


def interval(name: str, bound: Bound | None) -> str:
    """A bound in the unit of its value; a dash for none."""
    if bound is None:
        return MISSING
    low, high = number(name, bound.low), number(name, bound.high)
    return low if low == high else f"{low} to {high}"


def _facts(entry: Entry) -> str:
    parts = []
    for name in WORDS:
        judged = entry.judged.get(name)
        text = MISSING if judged is None else number(name, judged.value)
        parts.append(f"{name} {text}" if judged is None or judged.bound is None else
                     f"{name} {text} (expected {interval(name, judged.bound)})")  # fmt: skip
    moved = MISSING if entry.moved is None else format_number(entry.moved)
    parts += [f"loss {format_number(entry.last_loss, 7)}", f"moved {moved}"]
    return printable(", ".join([*parts, entry.source or MISSING]))
