"""The verdict in a terminal, in a plain log, and in pytest's summary: one layout for all three.

The headline is the first line and the last. Rungs that hold are named in one line, those that say
the same make one entry; `verbose` shows every rung with its numbers. Nothing is a table, so that
the same text can be read at 40 columns and at 200.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from harness.base.text import printable
from harness.ladder.result import Result, RungResult
from harness.ladder.verdict import PairVerdict, Verdict
from harness.report.text import MISSING, headline, judged, title
from harness.report.wrap import wrap

STYLES = {
    Result.PASS: "green",
    Result.FAIL: "bold red",
    Result.INVALID: "magenta",
    Result.INCONCLUSIVE: "yellow",
    Result.NOT_EXERCISED: "dim",
}
"""Colour helps, but the word alone is enough."""

FINDINGS_SHOWN = 8
"""Findings shown of one rung; the JSON and the HTML report hold more."""

NAMED_ONLY = (Result.PASS, Result.NOT_EXERCISED)
"""What is only named, unless every rung is asked for."""

INDENT = "  "


@dataclass(frozen=True)
class Line:
    """A paragraph before it is broken into lines.

    style:   rich's, for all of it
    head:    its first characters, in the style `of_head`, such as the word FAIL
    indent:  of the first line; the others are indented by `hanging` in its place
    whole:   never broken, as a path that is to be copied must not be
    """

    text: str
    style: str = ""
    head: str = ""
    of_head: str = ""
    indent: str = ""
    hanging: str = ""
    whole: bool = False

    def render(self, width: int) -> Iterator[Text]:
        """Its lines, as literal text: what looks like markup in it (`[0,1]`) is data."""
        text = printable(self.head + self.text)
        if self.whole:
            lines = [self.indent + text]
        else:
            lines = wrap(text, width, self.indent, self.hanging or self.indent)
        for number, line in enumerate(lines):
            rendered = Text(line, style=self.style)
            if number == 0 and self.head:
                start = len(self.indent)
                rendered.stylize(self.of_head, start, start + len(self.head))
            yield rendered


def print_verdict(
    verdict: Verdict, console: Console, verbose: bool = False, written: Sequence[str] = ()
) -> None:
    """Print the headline, what was compared, each pair's ladder, and the headline again.

    verbose: every rung by itself, with its value, its limit and what it would have caught
    written: where the reports went, one line each
    """
    for line in layout(verdict, verbose, written):
        for text in line.render(console.width):
            console.print(text, highlight=False, soft_wrap=True)


def verdict_lines(
    verdict: Verdict, width: int, colour: bool = False, verbose: bool = False,
    written: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """The same as lines of at most `width` columns, for pytest's terminal summary."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        legacy_windows=False,
    )
    print_verdict(verdict, console, verbose, written)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def layout(verdict: Verdict, verbose: bool, written: Sequence[str]) -> Iterator[Line]:
    """Everything that is printed of a verdict."""
    word = verdict.result.value
    result = Line(f"  {headline(verdict)}", head=word, of_head=STYLES[verdict.result])
    yield result
    yield Line(verdict.compared, "bold")
    for pair in verdict.pairs:
        if len(verdict.pairs) > 1:
            yield Line("")
            yield Line(f"  {title(pair)}", "bold cyan", pair.result.value, STYLES[pair.result])
        yield from _every_rung(pair) if verbose else _ladder(pair)
        yield from _notes(pair.notes)
    yield from _notes(verdict.notes)
    yield from (Line(line, whole=True) for line in written)
    yield result


def _ladder(pair: PairVerdict) -> Iterator[Line]:
    """What holds and what was not exercised, by name; what is said of the others, once."""
    for result in NAMED_ONLY:
        if named := [rung.rung for rung in pair.rungs if rung.result is result]:
            yield _rung_line(result, named, "")
    for rung, alike in _by_explanation(r for r in pair.rungs if r.result not in NAMED_ONLY):
        yield _rung_line(rung.result, alike, f": {rung.explanation}")
        if rung.result is Result.FAIL or pair.headline_rung is rung:
            yield from _evidence(rung)


def _by_explanation(rungs: Iterable[RungResult]) -> list[tuple[RungResult, list[str]]]:
    """Rungs that came to the same for the same reason, as the first of them and all names."""
    grouped: dict[tuple[Result, str], tuple[RungResult, list[str]]] = {}
    for rung in rungs:
        grouped.setdefault((rung.result, rung.explanation), (rung, []))[1].append(rung.rung)
    return list(grouped.values())


def _rung_line(result: Result, rungs: Sequence[str], text: str) -> Line:
    word = result.value.ljust(len(Result.NOT_EXERCISED.value))
    return Line(f"  {', '.join(rungs)}{text}", head=word, of_head=STYLES[result],
                indent=INDENT, hanging=INDENT * 3)  # fmt: skip


def _every_rung(pair: PairVerdict) -> Iterator[Line]:
    for rung in pair.rungs:
        value, limit = judged(rung)
        numbers = "" if value == limit == MISSING else f"  {value} (limit {limit})"
        yield _rung_line(rung.result, [rung.rung], numbers)
        yield _under(rung.explanation)
        if rung.result is Result.PASS and rung.detects:
            yield _under(f"would have caught {rung.detects}", "dim")
        if rung.result is Result.FAIL or rung is pair.headline_rung:
            yield from _evidence(rung)
        elif rung.result is Result.PASS and rung.metric:
            yield _under(f"limit: {rung.limit_source}", "dim")


def _evidence(rung: RungResult) -> Iterator[Line]:
    """The findings of a rung, and its limit. The first is often the explanation already."""
    findings = [f.text for f in rung.findings if f.text != rung.explanation]
    for text in findings[:FINDINGS_SHOWN]:
        yield _under(f"{MISSING} {text}")
    if (more := len(findings) - FINDINGS_SHOWN) > 0:
        yield _under(f"{MISSING} and {more} more", "dim")
    if rung.limit_source:
        yield _under(f"{MISSING} limit {judged(rung)[1]}: {rung.limit_source}", "dim")


def _under(text: str, style: str = "") -> Line:
    return Line(text, style, indent=INDENT * 3, hanging=INDENT * 4)


def _notes(notes: tuple[str, ...]) -> Iterator[Line]:
    for note in notes:
        yield Line(note, head="note: ", of_head="bold", hanging=INDENT)
