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
WIDTHS = [40, 80, 120]


def text(shown: Verdict, width: int = 120, colour: bool = False, verbose: bool = False) -> str:
    return "\n".join(verdict_lines(shown, width, colour, verbose))


def words(lines: list[str]) -> list[str]:
    return " ".join(lines).split()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("verbose", [False, True])
def test_the_headline_is_first_and_last(width: int, verbose: bool) -> None:
    lines = verdict_lines(verdict(pair(), pair(CLIP, b="ref")), width, verbose=verbose)
    expected = f"FAIL hf against ref: clip: {CLIP.explanation} (1 of 2 pairs FAIL)".split()
    assert words(lines)[: len(expected)] == expected
    assert words(lines)[-len(expected) :] == expected
    compared = ["hf", "against", "torchprime,", "llama-tiny"]
    assert words(lines)[len(expected) : len(expected) + len(compared)] == compared


def test_a_pass_fits_in_ten_lines() -> None:
    compared = (
        "hf (transformers 4.57.6) against torchprime (torchprime 44646da of 2025-07-02): case "
        "llama-tiny, float32, matmul precision highest, 20 steps, mesh fsdp 4 × tensor 1 on cpu"
    )
    passed = pair(
        rung("compiled", Result.NOT_EXERCISED, explanation="nothing was compiled " * 9),
        rung("step_time", Result.NOT_EXERCISED, explanation="not judged " * 20),
    )
    lines = verdict_lines(verdict(passed, compared=compared), 80, written=("report: /x.html",))
    assert len(lines) <= 10
    for name in names():
        assert re.search(rf"\b{name}\b", " ".join(lines))


def test_verbose_shows_every_rung_with_its_numbers() -> None:
    passed = rung("forward", value=1.5e-7, limit=1e-6, detects="a loss off by 1e-6",
                  metric="loss", limit_source="4 × 2.4e-07")  # fmt: skip
    failed = rung("backward", Result.FAIL, detects="never shown")
    shown = text(verdict(pair(passed, failed)), verbose=True)
    rows = re.findall(r"^  (PASS|FAIL) +(\w+)", shown, re.MULTILINE)
    assert [name for _, name in rows] == list(names())
    assert "forward  1.5e-07 (limit 1e-06)" in shown
    assert "would have caught a loss off by 1e-6" in shown
    assert "limit: 4 × 2.4e-07" in shown
    assert "never shown" not in shown


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_terminal_and_nothing_is_cut_off(width: int) -> None:
    long = rung(
        "optimizer",
        Result.FAIL,
        explanation=f"largest distance: {LONG}",
        value=1.23e-7,
        limit=1e-7,
        findings=(Finding(f"{LONG}: 0.1 against 0.2"),),
    )
    lines = verdict_lines(verdict(pair(long), compared=LONG + LONG), width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    together = re.sub(r"\s", "", "".join(lines))
    assert together.count(LONG) == 6  # compared, explanation, finding, headline twice


@pytest.mark.parametrize("width", WIDTHS)
def test_no_word_is_broken(width: int) -> None:
    said = "the gradients of the first step are further apart than rounding explains"
    lines = verdict_lines(verdict(pair(rung("backward", Result.FAIL, explanation=said))), width)
    assert set(said.split()) <= set(words(lines))


def test_what_is_said_of_several_rungs_is_said_once() -> None:
    crashed = [rung(name, Result.INVALID, explanation="hf failed: exit 3") for name in names()]
    lines = verdict_lines(verdict(pair(*crashed)), 200)
    assert sum("exit 3" in line for line in lines) == 3  # headline twice, and the ladder
    assert any(all(name in line for name in names()) for line in lines)


def test_results_that_differ_are_not_merged_by_what_they_say() -> None:
    shown = text(
        verdict(
            pair(
                rung("data", Result.FAIL, explanation="same words"),
                rung("init", Result.INVALID, explanation="same words"),
            )
        )
    )
    assert re.search(r"^  FAIL +data: same words", shown, re.MULTILINE)
    assert re.search(r"^  INVALID +init: same words", shown, re.MULTILINE)


def test_a_plain_log_has_no_colour_and_a_terminal_has() -> None:
    shown = verdict(pair(CLIP))
    assert "\x1b" not in text(shown)
    coloured = text(shown, colour=True)
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
    assert "[red]{devices=[4,1]0,1}[/red]" in shown
    assert "[bold]x[/bold]" in shown.splitlines()
    assert "\x1b" not in shown


def test_findings_beyond_the_explanation_are_shown_and_the_rest_is_counted() -> None:
    shown = text(verdict(pair(CLIP)))
    assert shown.count(CLIP.explanation) == 3  # ladder, headline twice
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


def test_a_nan_is_shown_as_one() -> None:
    failed = rung("loss_curve", Result.FAIL, value=math.nan, limit=1e-6)
    assert "loss_curve  NaN (limit 1e-06)" in text(verdict(pair(failed)), verbose=True)


def test_notes_are_shown_and_where_the_reports_went_in_one_piece() -> None:
    both = Verdict("x", "y", (pair(notes=("float64 believes hf",)),), ("fast flags",))
    path = "report: /a/path/that/is/longer/than/forty/columns/report.html"
    lines = verdict_lines(both, 40, written=(path,))
    assert path in lines
    assert "note: float64 believes hf" in lines
    assert "note: fast flags" in lines


def test_nothing_compared_is_invalid() -> None:
    assert verdict_lines(verdict(), 80)[-1] == "INVALID  nothing was compared"
