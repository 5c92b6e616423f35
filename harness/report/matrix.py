"""The states of a matrix: a line for a terminal, and the page of documentation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from harness.base.text import printable
from harness.ladder.matrix import Entry, State, counted
from harness.ladder.result import Result
from harness.report.markdown import escaped
from harness.report.text import MISSING, format_number

SHOWN = 320
"""Characters of a headline in the page."""

PASSED = Result.PASS.value
MARKS = "¹²³⁴⁵⁶⁷⁸⁹"
"""Mark what was judged otherwise than by default: each other way has a mark of its own, as far as
there are marks."""

INTRODUCTION = """\
Every cell is a case under overrides, and is trained by pairs of engines. Of each pair: the largest
difference of their losses at any step (in nats), the largest relative difference of their gradient
norms, the first step whose losses are not bitwise equal, and the seconds that its runs took, with
those that measured its noise. Limits come from that noise ([tolerances.md](tolerances.md)). A cell
that an engine has no way to train is refused, and says why.
"""


def line(entry: Entry) -> str:
    """One entry as a line of text."""
    state = entry.state
    text = f"{state.state:<9} {entry.cell.title}, {entry.between}"
    if numbers := _numbers(state):
        text += f": {numbers}"
    if state.state != PASSED and state.text:
        text += f"; {state.text}"
    return printable(text)


def _numbers(state: State) -> str:
    if state.loss is None:
        return ""
    text = f"max |Δloss| {format_number(state.loss, 2)}"
    if state.norm is not None:
        text += f", gradient norms {format_number(state.norm, 2)}"
    text += ", bitwise equal" if state.first is None else f", first at step {state.first}"
    return f"{text}, {state.seconds:.0f} s"


def page(entries: Sequence[Entry], words: Sequence[str] = ()) -> str:
    """The matrix as a page of Markdown; `words` are the overrides that every cell has."""
    parts = ["# The matrix", "", INTRODUCTION]
    states = [entry.state for entry in entries]
    last = max(state.when for state in states)[:10]
    command = " ".join(["parity matrix --markdown FILE", *filter(_says_something, words)])
    parts += [f"Made by `{command}`, last on {last}: {counted(states)}.", ""]
    sources = sorted({f"{label}: {text}" for s in states for label, text in s.sources.items()})
    parts += [*(f"- {escaped(text)}" for text in sources), ""]
    judged = sorted({" ".join(state.words) for state in states if state.words})
    marks = {words: MARKS[min(at, len(MARKS) - 1)] for at, words in enumerate(judged)}
    if marks:
        parts += [*(f"{mark} judged under `{words}`" for words, mark in marks.items()), ""]
    for heading, group in itertools.groupby(entries, lambda entry: entry.heading):
        parts += [*_group(heading, list(group), marks), ""]
    return "\n".join(parts).rstrip() + "\n"


def _group(heading: str, entries: list[Entry], marks: Mapping[str, str]) -> Iterator[str]:
    yield f"## {heading}"
    yield ""
    yield "| cell | trained as | pair | result | max \\|Δloss\\| | ‖g‖ | first step | s |"
    yield "|---|---|---|---|---|---|---|---|"
    last = ""
    for entry in entries:
        cell, state = entry.cell, entry.state
        words = " ".join([f"case={cell.case}", *cell.overrides])
        trained = MISSING if cell.refused else f"`{words}`"  # what nobody trains is no case of ours
        first = ["", ""] if cell.title == last else [escaped(cell.title), trained]
        last = cell.title
        mark = f" {marks[' '.join(state.words)]}" if state.words else ""
        result = f"{_result(state)}{mark}"
        yield "| " + " | ".join([*first, entry.between, result, *_cells(state)]) + " |"
    told = [entry for entry in entries if entry.state.state != PASSED and entry.state.text]
    if told:
        yield ""
    for (title, text), of_cell in itertools.groupby(told, _said):
        first_of, *others = list(of_cell)
        who = ", ".join(entry.between for entry in (first_of, *others))
        see = f" ([{first_of.cell.see}]({first_of.cell.see}))" if first_of.cell.see else ""
        yield f"- {escaped(title)}, {who}: {escaped(text, SHOWN)}{see}"


def _result(state: State) -> str:
    return f"{state.state} {state.rung}".strip()


def _cells(state: State) -> list[str]:
    if state.loss is None:
        return [MISSING] * 3 + [f"{state.seconds:.0f}" if state.seconds else MISSING]
    first = "none" if state.first is None else str(state.first)
    numbers = [format_number(value, 2) for value in (state.loss, state.norm)]
    return [*numbers, first, f"{state.seconds:.0f}"]


def _said(entry: Entry) -> tuple[str, str]:
    return entry.cell.title, entry.state.text


def _says_something(word: str) -> bool:
    """Whether an override is more than where things lie on one machine."""
    return not word.startswith(("workspace=", "engine.", "tolerance", "float64"))
