"""The verdict in a terminal, in a plain log, and in pytest's summary: one layout for all three."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.ladder.result import Result, RungResult
from harness.ladder.verdict import PairVerdict, Verdict
from harness.report.text import MISSING, headline, judged, printable, title

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


def print_verdict(verdict: Verdict, console: Console) -> None:
    """Print what was compared (first line), each pair's ladder, and the headline (last line)."""
    console.print(layout(verdict), highlight=False)


def verdict_lines(verdict: Verdict, width: int, colour: bool = False) -> list[str]:
    """The same as lines of at most `width` columns, for pytest's terminal summary."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        legacy_windows=False,
    )
    print_verdict(verdict, console)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def layout(verdict: Verdict) -> RenderableType:
    """Everything that is printed of a verdict."""
    blocks: list[RenderableType] = [_text(verdict.compared, "bold")]
    for pair in verdict.pairs:
        blocks += ["", _text(title(pair), "bold cyan"), ladder_table(pair)]
        blocks += [*_findings(pair), *_notes(pair.notes)]
    result = _text(verdict.result.value, STYLES[verdict.result])
    last = result.append("  ").append_text(_text(headline(verdict)))
    return Group(*blocks, *_notes(verdict.notes), "", last)


def ladder_table(pair: PairVerdict) -> Table:
    """One row for each rung, in causal order."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
    )
    table.add_column("rung", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("value", no_wrap=True, justify="right")
    table.add_column("limit", no_wrap=True, justify="right")
    table.add_column("explanation", overflow="fold", ratio=1)
    for rung in pair.rungs:
        value, limit = judged(rung)
        table.add_row(
            _text(rung.rung),
            _text(rung.result.value, STYLES[rung.result]),
            _text(value),
            _text(limit),
            _explanation(rung),
        )
    return table


def _explanation(rung: RungResult) -> Text:
    text = _text(rung.explanation)
    if rung.result is Result.PASS and rung.detects:
        text.append_text(_text(f"\nwould have caught {rung.detects}", "dim"))
    if rung.result is Result.PASS and rung.metric:
        text.append_text(_text(f"\nlimit: {rung.limit_source}", "dim"))
    return text


def _findings(pair: PairVerdict) -> Iterator[RenderableType]:
    """The evidence of the rungs that fail, and of the headline whatever it came to."""
    for rung in pair.rungs:
        if rung.result is not Result.FAIL and rung is not pair.headline_rung:
            continue
        # The first finding is often the explanation, which the table has shown already.
        findings = [f.text for f in rung.findings if f.text != rung.explanation]
        lines = [_text(text) for text in findings[:FINDINGS_SHOWN]]
        if (more := len(findings) - FINDINGS_SHOWN) > 0:
            lines.append(_text(f"and {more} more", "dim"))
        if rung.limit_source:
            lines.append(_text(f"limit {judged(rung)[1]}: {rung.limit_source}", "dim"))
        if not lines:
            continue
        bullets = Table.grid(padding=(0, 1))
        bullets.add_column(no_wrap=True)
        bullets.add_column(overflow="fold")
        for line in lines:
            bullets.add_row(MISSING, line)
        yield ""
        yield _text(f"{rung.rung} {rung.result.value}", STYLES[rung.result])
        yield Padding(bullets, (0, 0, 0, 2))


def _notes(notes: tuple[str, ...]) -> list[RenderableType]:
    return ["", *(_text(f"note: {note}") for note in notes)] if notes else []


def _text(text: str, style: str = "") -> Text:
    """Literal text: what looks like markup in it (`[0,1]`) is data."""
    return Text(printable(text), style=style)
