"""The verdict as Markdown, read back by a Markdown parser."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from report_samples import CLIP, HOSTILE, MADE, pair, record, rung, verdict

from harness.base.errors import BadInput
from harness.base.text import printable
from harness.ladder.ladder import names
from harness.ladder.result import Finding, Result
from harness.ladder.verdict import Verdict
from harness.record.evidence import Record
from harness.report import github
from harness.report.github import append_job_summary


def job_summary(shown: Verdict, records: Mapping[str, Record] | None = None) -> str:
    return github.job_summary(shown, records or {}, MADE)


def parse(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def inlines(tokens: list[Token]) -> list[str]:
    """The text of every block, as a reader sees it."""
    return [
        "".join(child.content for child in token.children or ())
        for token in tokens
        if token.type == "inline"
    ]


def cells(tokens: list[Token]) -> list[str]:
    texts = []
    for token, inline in itertools.pairwise(tokens):
        if token.type == "td_open":
            texts.append("".join(child.content for child in inline.children or ()))
    return texts


def test_the_ladder_is_a_table_of_five_columns() -> None:
    shown = cells(parse(job_summary(verdict(pair(CLIP)))))
    assert len(shown) == 5 * len(names())
    assert shown[::5] == list(names())
    row = shown[names().index("clip") * 5 :][:5]
    assert row == ["clip", "❌ FAIL", "0.64", "1e-05", CLIP.explanation]


def test_headline_and_what_was_compared_come_first() -> None:
    shown = inlines(parse(job_summary(verdict(pair(CLIP)))))
    assert shown[0] == f"❌ FAIL clip: {CLIP.explanation}"
    assert "hf against torchprime, llama-tiny" in shown[1]


@pytest.mark.parametrize(
    "text",
    [
        "a|b ``c|d`` \\| *x* _y_ ~~z~~",
        "<details><script>alert(1)</script> &lt; &amp;",
        "[link](https://example.org) ![x](y) https://example.org www.example.org a@example.org",
        "# not a heading",
        "- not a list",
        "12. not a list",
        "$x^2$ {devices=[4,1]0,1,2,3}",
        HOSTILE,
    ],
)
def test_text_is_shown_as_it_is_wherever_it_stands(text: str) -> None:
    failed = rung("data", Result.FAIL, explanation=text, findings=(Finding(text),))
    tokens = parse(job_summary(verdict(pair(failed, notes=(text,)), compared=text)))
    literal = " ".join(printable(text).split())
    assert cells(tokens)[names().index("data") * 5 + 4] == literal
    shown = inlines(tokens)
    assert shown.count(literal) == 3  # cell, note, evidence
    assert f"data: {literal}" in shown  # the pair's headline
    kinds = {child.type for t in tokens if t.type == "inline" for child in t.children or ()}
    assert not kinds & {"html_inline", "link_open", "image", "em_open", "code_inline"}
    html = [t.content.strip() for t in tokens if t.type == "html_block"]
    folded = ("evidence", "how this was made")
    expected = [[f"<details><summary>{name}</summary>", "</details>"] for name in folded]
    assert html == list(itertools.chain(*expected))


def test_addresses_stay_behind_no_autolink() -> None:
    text = "see https://example.org/x and mail a@b"
    shown = job_summary(verdict(pair(notes=(text,))))
    assert "https://" not in shown
    assert "@" not in shown


def test_evidence_has_both_values_and_is_counted() -> None:
    many = tuple(Finding(f"finding {n}", n, "p", 0.25, None) for n in range(25))
    failed = rung("init", Result.FAIL, limit=0.0, limit_source="equal bits", findings=many)
    shown = inlines(parse(job_summary(verdict(pair(failed)))))
    assert "finding 0 (0.25 against –)" in shown
    assert "finding 20 (0.25 against –)" not in shown
    assert "and 5 more" in shown
    assert "limit 0: equal bits" in shown


def test_a_very_long_finding_is_cut_and_says_so() -> None:
    failed = rung("init", Result.FAIL, findings=(Finding("x" * 100_000),))
    shown = job_summary(verdict(pair(failed)))
    assert len(shown) < 10_000
    assert "x…" in shown


def test_summaries_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    shown = verdict(pair(CLIP))
    append_job_summary(shown, {}, MADE, {"GITHUB_STEP_SUMMARY": str(path)})
    append_job_summary(shown, {}, MADE, {"GITHUB_STEP_SUMMARY": str(path)})
    assert path.read_text(encoding="utf-8") == "before\n" + 2 * job_summary(shown)


@pytest.mark.parametrize("environ", [{}, {"GITHUB_STEP_SUMMARY": ""}])
def test_without_the_variable_nothing_is_written(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    append_job_summary(verdict(pair()), {}, MADE, environ)
    assert list(tmp_path.iterdir()) == []


def test_a_summary_that_cannot_be_written_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"GITHUB_STEP_SUMMARY names .*missing/x"):
        append_job_summary(
            verdict(pair()), {}, MADE, {"GITHUB_STEP_SUMMARY": str(tmp_path / "missing" / "x")}
        )


def test_it_says_how_it_was_made_and_out_of_what(tmp_path: Path) -> None:
    run = record(tmp_path / "a")
    shown = "\n".join(inlines(parse(job_summary(verdict(pair()), {str(tmp_path / "a"): run}))))
    assert MADE.command in shown
    assert MADE.date in shown
    assert "torch 2.9.0" in shown
    assert "4 × CPU" in shown


def test_a_summary_of_many_pairs_is_one_that_github_takes() -> None:
    findings = tuple(Finding("x" * 400 + str(n), n) for n in range(20))
    broken = [rung(name, Result.FAIL, findings=findings) for name in names()]
    many = [pair(*broken, b=f"engine {n}") for n in range(10)]
    shown = job_summary(verdict(*many))
    assert len(shown.encode()) < 2**20
    assert shown.count("engine 9") == 1
    assert shown.count("| step\\_time |") == 10
