"""The verdict in a terminal and in a plain log."""

import io
import math
import re

import pytest
from report_samples import CLIP, HOSTILE, pair, rung, verdict
from rich.console import Console

from harness.ladder.ladder import names
from harness.ladder.result import Finding, Result
from harness.ladder.verdict import Verdict
from harness.report.terminal import print_verdict, verdict_lines

LONG = "model.layers.11.block_sparse_moe.experts.63.self_attn.k_proj.weight"


def text(shown: Verdict, width: int = 120) -> str:
    return "\n".join(verdict_lines(shown, width))


@pytest.mark.parametrize("width", [80, 120])
def test_first_what_was_compared_last_the_headline(width: int) -> None:
    lines = verdict_lines(verdict(pair(), pair(CLIP, b="ref")), width)
    assert lines[0] == "hf against torchprime, llama-tiny"
    last = " ".join(lines[len(lines) - lines[::-1].index("") :])
    expected = f"FAIL  hf against ref: clip: {CLIP.explanation} (1 of 2 pairs FAIL)"
    assert last.split() == expected.split()


def test_one_row_for_each_rung_in_causal_order() -> None:
    lines = verdict_lines(verdict(pair(CLIP)), 120)
    rows = [line.split() for line in lines if line.split()[:1] and line.split()[0] in names()]
    table = rows[: len(names())]
    assert [row[0] for row in table] == list(names())
    assert [row[1] for row in table] == ["FAIL" if n == "clip" else "PASS" for n in names()]
    clip = table[names().index("clip")]
    assert clip[2:4] == ["0.64", "1e-05"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_wider_than_the_terminal_and_nothing_is_cut_off(width: int) -> None:
    long = rung(
        "optimizer",
        Result.FAIL,
        explanation=f"largest distance: {LONG}",
        value=1.23e-7,
        limit=1e-7,
        findings=(Finding(f"{LONG}: 0.1 against 0.2"),),
    )
    graph = rung("graph", Result.NOT_EXERCISED)
    lines = verdict_lines(verdict(pair(long, graph), compared=LONG + LONG), width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    together = re.sub(r"\s", "", "".join(lines))
    assert together.count(LONG) >= 4  # compared, finding, headline
    assert "NOT_EXERCISED" in together


def test_a_plain_log_has_no_colour_and_a_terminal_has() -> None:
    shown = verdict(pair(CLIP))
    assert "\x1b" not in text(shown)
    coloured = "\n".join(verdict_lines(shown, 120, colour=True))
    assert "\x1b[1;31mFAIL" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).split() == text(shown).split()


def test_printing_and_the_lines_for_pytest_are_the_same() -> None:
    stream = io.StringIO()
    print_verdict(verdict(pair(CLIP)), Console(file=stream, width=100))
    printed = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert printed == verdict_lines(verdict(pair(CLIP)), 100)


def test_what_looks_like_markup_is_shown_as_it_is_and_escapes_are_not_obeyed() -> None:
    hostile = rung("sharding", Result.FAIL, explanation="[red]{devices=[4,1]0,1}[/red] \x1b[2J")
    shown = text(verdict(pair(hostile, notes=(HOSTILE,)), compared="[bold]x[/bold]"), 200)
    assert "[red]{devices=[4,1]0,1}[/red] �[2J" in shown
    assert shown.startswith("[bold]x[/bold]")
    assert "\x1b" not in shown


def test_findings_beyond_the_explanation_are_shown_and_the_rest_is_counted() -> None:
    shown = text(verdict(pair(CLIP)))
    assert shown.count(CLIP.explanation) == 2  # table, headline
    for step in range(1, 9):
        assert f"step {step}: scaled by 0.5 against 1" in shown
    assert "step 9:" not in shown
    assert "and 5 more" in shown
    assert "limit 1e-05: float32 table" in shown


def test_findings_of_a_headline_that_could_not_be_judged_are_shown() -> None:
    crashed = rung("environment", Result.INVALID, findings=(Finding("Killed: out of memory"),))
    after = rung("sharding", Result.INVALID, findings=(Finding("says nothing"),))
    shown = text(verdict(pair(crashed, after)))
    assert "Killed: out of memory" in shown
    assert "says nothing" not in shown


def test_a_pass_says_what_it_would_have_caught_and_nothing_else_does() -> None:
    passed = rung("forward", detects="a loss off by 1e-6")
    failed = rung("backward", Result.FAIL, detects="never shown")
    shown = text(verdict(pair(passed, failed)))
    assert "would have caught a loss off by 1e-6" in shown
    assert "never shown" not in shown


def test_a_nan_is_shown_as_one() -> None:
    failed = rung("loss_curve", Result.FAIL, value=math.nan, limit=1e-6)
    row = next(x for x in verdict_lines(verdict(pair(failed)), 120) if x.startswith("loss_curve"))
    assert row.split()[1:4] == ["FAIL", "NaN", "1e-06"]


def test_notes_are_shown() -> None:
    shown = text(Verdict("x", "y", (pair(notes=("float64 believes hf",)),), ("fast flags",)))
    assert "note: float64 believes hf" in shown
    assert "note: fast flags" in shown


def test_nothing_compared_is_invalid() -> None:
    assert verdict_lines(verdict(), 80)[-1] == "INVALID  nothing was compared"
