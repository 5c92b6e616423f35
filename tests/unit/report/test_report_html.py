"""The HTML report: that it stands alone, shows what is true, and cannot be broken into."""

import base64
import dataclasses
import gzip
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from builders import Trainer
from compiled_samples import sample_module, sample_step
from plotly import graph_objects  # type: ignore[import-untyped]
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
from record_files import window_event
from report_samples import CLIP, HOSTILE, MADE, of, pair, record, rung, verdict

from harness.compiler.compiled import to_json
from harness.ladder.distances import relative_distance
from harness.ladder.ladder import names
from harness.ladder.result import Finding, Result
from harness.ladder.verdict import PairVerdict, Verdict
from harness.record.evidence import Record
from harness.record.layout import COMPILED
from harness.record.reader import read_record
from harness.record.writer import write_json
from harness.report.html import render
from harness.report.tables import tables
from harness.report.text import format_number


class Page(HTMLParser):
    """What a browser makes of the report: its elements, its text and its charts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.charts: list[dict[str, Any]] = []
        self._inside: tuple[str, dict[str, str | None]] = ("", {})
        self._data = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = (tag, dict(attrs))
        self.elements.append(self._inside)
        self._data = ""

    def handle_data(self, data: str) -> None:
        self._data += data
        if self._inside[0] not in ("script", "style"):
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "script" and self._inside[1].get("type") == "application/json":
            self.charts.append(json.loads(self._data, parse_constant=pytest.fail))
        self._inside = ("", {})

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def report(shown: Verdict, *records: Record) -> Page:
    return Page(render(shown, {str(r.directory): r for r in records}, MADE))


def both(a: Record, b: Record, *rungs: Any) -> Page:
    return report(verdict(of(a, b, *rungs)), a, b)


def trace(page: Page, chart: int, name: str) -> dict[str, Any]:
    return next(t for t in page.charts[chart]["data"] if t["name"] == name)


LOSS, DIFFERENCE, NORM, RATE, TIMELINE, DISTRIBUTION = range(6)


@pytest.fixture
def a(tmp_path: Path) -> Record:
    return record(
        tmp_path / "a",
        "hf",
        events=[window_event(0, 1, 18.0, compilations=1), window_event(2, 3, 0.5)],
    )


@pytest.fixture
def b(tmp_path: Path) -> Record:
    events = [window_event(0, 1, 16.0, compilations=1), window_event(2, 3, 0.75)]
    return record(tmp_path / "b", "torchprime", (6.5, 6.4, 6.3000005), events=events)


def test_one_file_that_needs_no_other(a: Record, b: Record) -> None:
    text = render(verdict(of(a, b), of(a, b)), {str(a.directory): a, str(b.directory): b}, MADE)
    (packed,) = re.findall(r'<script type="application/gzip" id="plotly">([^<]*)</script>', text)
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
        assert not attributes.get("src")
        assert (attributes.get("href") or "#").startswith("#")
    policy = next(d for t, d in page.elements if d.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").startswith("default-src 'none';")


def test_every_figure_is_one_that_plotly_knows(a: Record, b: Record) -> None:
    page = both(a, b, rung("loss_curve", limit=1e-6))
    assert len(page.charts) == 6
    for figure in page.charts:
        graph_objects.Figure(figure)  # raises on any property that plotly does not have


def test_headline_ladder_and_evidence(a: Record, b: Record) -> None:
    page = both(a, b, CLIP, rung("forward", detects="a loss off by 1e-6"))
    assert f"clip: {CLIP.explanation}" in page.text
    for name in names():
        assert name in page.text
    assert "float32 table" in page.text
    assert "step 13: scaled by 0.5 against 1" in page.text
    assert "would have caught a loss off by 1e-6" in page.text
    opened = [d for t, d in page.elements if t == "details" and "open" in d]
    # The evidence of the headline, step times, and what differs in the manifests.
    assert len(opened) == 3


def test_evidence_beyond_what_is_shown_is_counted(a: Record, b: Record) -> None:
    many = tuple(Finding(f"finding {n}") for n in range(205))
    page = both(a, b, rung("init", Result.FAIL, findings=many))
    assert "evidence (205)" in page.text
    assert "finding 199" in page.text
    assert "finding 200" not in page.text
    assert "and 5 more" in page.text


def test_hostile_text_stays_text_wherever_it_stands(tmp_path: Path) -> None:
    ended = {"status": "failed", "reason": HOSTILE, "log": [HOSTILE]}
    manifest = {"ended": ended, "observed": {"versions": {"torch": HOSTILE, HOSTILE: HOSTILE}}}
    a = record(tmp_path / "a", HOSTILE, manifest=manifest)
    b = record(
        tmp_path / "b", "torchprime", manifest={"ended": {"status": "failed", "log": [HOSTILE]}}
    )
    finding = Finding(HOSTILE, 1, HOSTILE, HOSTILE, {HOSTILE: HOSTILE})
    bad = rung(
        "data",
        Result.FAIL,
        explanation=HOSTILE,
        limit=1.0,
        limit_source=HOSTILE,
        detects=HOSTILE,
        findings=(finding,),
    )
    one = of(a, b, bad)
    hostile = PairVerdict(one.a, one.b, one.a_record, one.b_record, one.rungs, (HOSTILE,))
    gone = pair(a=HOSTILE, b=HOSTILE, a_record=HOSTILE, b_record=HOSTILE)
    shown = Verdict(HOSTILE, HOSTILE, (hostile, gone), (HOSTILE,))
    page, tame = report(shown, a, b), both(a, b)
    assert page.count("img") == 0
    # Scripts: one for each chart, plotly, and ours. A text that got out of its place would add one.
    assert page.count("script") == len(page.charts) + 2 == tame.count("script")
    assert page.text.count("<img src=x onerror=alert(1)>") > 15
    assert "\x1b" not in page.text
    assert "{{ 7*7 }}" in page.text
    # plotly reads a little HTML in names: there it is escaped once more.
    names = [t["name"] for figure in page.charts for t in figure["data"]]
    assert any("&lt;img" in name for name in names)
    assert not any("<" in name for name in names)


def test_losses_are_overlaid(a: Record, b: Record) -> None:
    page = both(a, b)
    assert trace(page, LOSS, "hf")["y"] == [6.5, 6.4, 6.3]
    assert trace(page, LOSS, "torchprime")["y"] == [6.5, 6.4, 6.3000005]
    assert (
        trace(page, LOSS, "hf")["line"]["dash"] != trace(page, LOSS, "torchprime")["line"]["dash"]
    )


def test_equal_steps_are_drawn_on_a_floor_under_their_own_mark(a: Record, b: Record) -> None:
    page = both(a, b, rung("loss_curve", limit=1e-6))
    figure = page.charts[DIFFERENCE]
    assert figure["layout"]["yaxis"]["type"] == "log"
    line, equal = trace(page, DIFFERENCE, "|hf − torchprime|"), trace(page, DIFFERENCE, "equal")
    x, y = a.steps[2].loss, b.steps[2].loss
    assert x is not None
    assert y is not None
    assert line["y"][2] == pytest.approx(abs(x - y) / max(x, y), rel=1e-3)
    floor = line["y"][0]
    assert line["y"][:2] == equal["y"] == [floor, floor]
    assert 0 < floor < line["y"][2] / 9
    assert equal["x"] == [0, 1]
    low, high = figure["layout"]["yaxis"]["range"]
    assert low < math.log10(floor) < math.log10(1e-6) < high
    assert trace(page, DIFFERENCE, "limit 1e-06")["y"] == [1e-6, 1e-6]
    assert "2 of 3 steps are equal to the last bit" in page.text
    assert "no step is over it" in page.text


def test_steps_over_the_limit_are_named(a: Record, b: Record) -> None:
    page = both(a, b, rung("loss_curve", Result.FAIL, limit=1e-9))
    assert "The limit is 1e-09; over it: step 2." in page.text


def test_a_limit_of_zero_is_said_since_it_cannot_be_drawn(a: Record, b: Record) -> None:
    page = both(a, b, rung("loss_curve", Result.FAIL, limit=0.0))
    assert "The limit is 0: any difference is over it." in page.text
    assert not any(t["name"].startswith("limit") for t in page.charts[DIFFERENCE]["data"])


def test_a_limit_that_is_no_number_is_not_drawn(a: Record, b: Record) -> None:
    for limit in (None, math.nan, math.inf):
        page = both(a, b, rung("loss_curve", Result.INVALID, limit=limit))
        assert not any(t["name"].startswith("limit") for t in page.charts[DIFFERENCE]["data"])


def test_runs_equal_at_every_step_still_have_a_visible_line(tmp_path: Path, a: Record) -> None:
    page = both(a, record(tmp_path / "c", "hf"))
    line = trace(page, DIFFERENCE, "|hf (a) − hf (b)|")
    assert len(line["y"]) == 3
    assert all(height > 0 for height in line["y"])
    assert "3 of 3 steps are equal to the last bit" in page.text


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nan_is_a_gap_with_a_cross(tmp_path: Path, a: Record, bad: float) -> None:
    page = both(a, record(tmp_path / "c", "other", (6.5, bad, 6.25)))
    assert trace(page, LOSS, "other")["y"] == [6.5, None, 6.25]
    cross = trace(page, LOSS, "other: not finite")
    assert (cross["x"], cross["y"], cross["marker"]["symbol"]) == ([1], [6.5], "x")
    assert trace(page, DIFFERENCE, "|hf − other|")["y"][1] is None
    assert trace(page, DIFFERENCE, "|hf − other|: not finite")["x"] == [1]
    assert "other: not finite at step 1 (crosses)." in page.text
    assert "A loss is not finite at step 1 (crosses)." in page.text


def test_a_run_of_nothing_but_nan_is_drawn_as_crosses(tmp_path: Path, a: Record) -> None:
    page = both(a, record(tmp_path / "c", "other", (math.nan,) * 3))
    assert trace(page, LOSS, "other: not finite")["x"] == [0, 1, 2]
    assert trace(page, DIFFERENCE, "|hf − other|: not finite")["x"] == [0, 1, 2]
    for figure in page.charts:
        graph_objects.Figure(figure)


def test_steps_that_are_missing_are_gaps(tmp_path: Path, a: Record) -> None:
    other = record(tmp_path / "c", "other", (6.5, 6.25), steps=(0, 5))
    page = both(a, other)
    line = trace(page, LOSS, "other")
    assert list(zip(line["x"], line["y"], strict=True)) == [(0, 6.5), (1, None), (5, 6.25)]
    assert line["connectgaps"] is False
    assert "The runs have different numbers of steps: hf 3, other 2." in page.text
    assert "Not both runs have a loss at steps 1, 2, 5." in page.text


def test_a_run_that_trained_nothing_is_not_equal_to_anything(tmp_path: Path, a: Record) -> None:
    page = both(a, record(tmp_path / "c", "other", ()))
    assert "equal to the last bit" not in page.text
    assert "other: not observed." in page.text
    assert "nothing to draw" in page.text


def test_a_missing_record_is_said_and_the_other_one_is_drawn(a: Record) -> None:
    missing = pair(a="hf", b="gone", a_record=str(a.directory), b_record="/records/gone")
    page = report(verdict(missing), a)
    assert "The Record /records/gone could not be read" in page.text
    assert "One of the two Records is missing." in page.text
    assert trace(page, LOSS, "hf")["y"] == [6.5, 6.4, 6.3]
    assert "equal to the last bit" not in page.text


def test_a_pair_without_any_record_shows_its_ladder() -> None:
    page = report(verdict(pair(CLIP)))
    assert page.charts == []
    assert page.text.count("could not be read") == 2
    assert CLIP.explanation in page.text


def test_two_runs_of_one_label_are_told_apart(tmp_path: Path, a: Record) -> None:
    page = both(a, record(tmp_path / "c", "hf"))
    assert [t["name"] for t in page.charts[LOSS]["data"]] == ["hf (a)", "hf (b)"]


def test_gradient_norms_come_with_each_threshold(tmp_path: Path, a: Record) -> None:
    page = both(a, record(tmp_path / "c", "old", norm=2.5, max_norm=None))
    assert trace(page, NORM, "old")["y"] == [2.5] * 3
    assert trace(page, NORM, "max 1 (hf)")["y"] == [1.0, 1.0]
    assert "old: never clipped." in page.text
    assert "hf: never clipped." not in page.text


def test_norms_that_nobody_observed_are_said(tmp_path: Path) -> None:
    a = record(tmp_path / "a", "hf", norm=None)
    page = both(a, record(tmp_path / "c", "other", norm=None))
    assert "hf: not observed." in page.text
    assert len(page.charts) == 3  # loss, its difference, learning rate


def test_a_group_with_a_rate_of_its_own_has_a_line_of_its_own(tmp_path: Path) -> None:
    same = record(tmp_path / "a", "hf", rates=[[1e-3, 1e-3]] * 3)
    other = record(tmp_path / "b", "other", rates=[[1e-3, 1e-3], [1e-3, 2e-3], [1e-3]])
    page = both(same, other)
    assert trace(page, RATE, "hf")["y"] == [1e-3] * 3
    assert trace(page, RATE, "other, group 0")["y"] == [1e-3] * 3
    assert trace(page, RATE, "other, group 1")["y"] == [1e-3, 2e-3, None]


def test_windows_in_which_xla_compiled_are_marked_and_left_out(a: Record, b: Record) -> None:
    page = both(a, b)
    assert trace(page, DISTRIBUTION, "hf")["y"] == [0.25]
    assert trace(page, DISTRIBUTION, "torchprime")["y"] == [0.375]
    assert trace(page, TIMELINE, "hf")["y"][0] == 0.25
    assert trace(page, TIMELINE, "hf, excluded")["y"][0] == 9.0
    assert "hf: steps 0–1 are not steady" in page.text
    assert "torchprime: 1 of 2 windows are steady, median 0.375 s a step." in page.text


def test_a_run_without_a_steady_window_says_so(tmp_path: Path, a: Record) -> None:
    page = both(
        a, record(tmp_path / "c", "other", events=[window_event(0, 2, 9.0, compilations=1)])
    )
    assert "other: no steady window." in page.text
    assert [t["name"] for t in page.charts[DISTRIBUTION]["data"]] == ["hf"]


def test_a_window_without_a_time_is_not_drawn_on_a_log_scale(tmp_path: Path, a: Record) -> None:
    events = [window_event(0, 1, 0.0), window_event(2, 2, 0.5)]
    page = both(a, record(tmp_path / "c", "other", events=events))
    assert trace(page, TIMELINE, "other")["y"] == [0.5, 0.5, 0.5, None]


def test_provenance_shows_what_differs_and_what_does_not(tmp_path: Path, a: Record) -> None:
    source = {"origin": {"commit": "c0ffee"}}
    page = both(a, record(tmp_path / "c", "other", manifest=source))
    differ, same = page.text.split("what is the same")
    assert "origin.commit" in differ
    assert "c0ffee" in differ
    assert "observed.versions.torch" in same
    assert "--xla_x=1" in same
    for fact in ("4 × CPU", "fsdp 4", "torch 2.9.0", "3 finished of 3"):
        assert fact in differ


def test_how_a_run_ended_and_its_last_lines_are_shown(tmp_path: Path, a: Record) -> None:
    ended = {"status": "killed", "reason": "time limit of 60 s", "log": ["step 2", "loss nan"]}
    page = both(a, record(tmp_path / "c", "other", manifest={"ended": ended, "observed": {}}))
    assert "killed – time limit of 60 s" in page.text
    assert "step 2\nloss nan" in page.text


def test_nothing_compared_is_invalid() -> None:
    page = report(verdict())
    assert "INVALID" in page.text
    assert "nothing was compared" in page.text


def cells(page_text: str, title: str) -> list[list[str]]:
    """The rows of the table of that title, as text."""
    table = page_text.split(f'<caption class="unseen">{title}</caption>')[1].split("</table>")[0]
    rows = table.split("<tbody>")[1].split("<tr>")[1:]
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in rows]


def html_of(shown: Verdict, *records: Record) -> str:
    return render(shown, {str(r.directory): r for r in records}, MADE)


def test_every_chart_has_its_numbers_in_a_table(a: Record, b: Record) -> None:
    text = html_of(verdict(of(a, b)), a, b)
    for step, row in zip(a.steps, cells(text, "Loss"), strict=True):
        other = b.steps[step.index].loss
        assert row == [str(step.index), format_number(step.loss, 9), format_number(other, 9)]
    assert [row[1] for row in cells(text, "Gradient norm before clipping")] == ["1.5"] * 3
    assert [row[0] for row in cells(text, "Step time of every window")] == ["0", "2"]
    assert len(cells(text, "Difference of the losses")) == 3


def test_a_long_run_is_thinned_out_and_says_so(tmp_path: Path) -> None:
    long = record(tmp_path / "a", "hf", [6.0 + i / 1e4 for i in range(1501)])
    text = html_of(verdict(of(long, long)), long)
    rows = cells(text, "Loss")
    assert len(rows) <= 502
    assert (rows[0][0], rows[-1][0]) == ("0", "1500")
    assert f"and {1501 - len(rows)} more rows" in text


def test_the_page_says_what_was_run_when_and_how_to_do_it_again(a: Record, b: Record) -> None:
    page = both(a, b)
    top = page.text.split("The ladder")[0]
    for fact in (MADE.command, MADE.date, MADE.harness, "4 × CPU", "torch 2.9.0"):
        assert fact in top


def test_several_pairs_are_held_against_all_rungs_at_a_glance(a: Record, b: Record) -> None:
    page = report(verdict(of(a, b), of(a, b, CLIP)), a, b)
    marked = [d for t, d in page.elements if t == "td" and "cell" in (d.get("class") or "")]
    assert len(marked) == 2 * len(names())
    failed = [d["title"] for d in marked if d.get("class") == "cell fail"]
    assert failed == ["clip: FAIL"]
    assert "llama-tiny: hf against torchprime" in page.text


def test_parameters_and_their_sharding_are_shown_also_where_all_is_well() -> None:
    one, other = Trainer().record(), Trainer(label="b", sums=-1).record()
    text = html_of(verdict(of(one, other)), one, other)
    rows = cells(text, "Parameters: sharding, and relative distance of the runs&#39; values")
    assert [row[0] for row in rows] == [p.name for p in one.parameters]
    for row, p, q in zip(rows, one.parameters, other.parameters, strict=True):
        assert row[3:5] == [p.sharding, q.sharding]
        assert row[5] == "equal bits"
        assert p.gradient is not None
        assert q.gradient is not None
        if p.gradient.bits != q.gradient.bits:
            assert row[6] == format_number(relative_distance(p.gradient, q.gradient))


def test_a_parameter_that_one_run_lacks_is_a_dash() -> None:
    one = Trainer().record()
    two = dataclasses.replace(one, parameters=one.parameters[1:])
    found = tables(("a", "b"), one, two)[0]
    assert found.rows[0][4:] == ("–",) * 5


def test_what_slices_exchange_is_in_the_table_of_compiled_steps(tmp_path: Path) -> None:
    path = Trainer().write(tmp_path / "r")
    (path / COMPILED).mkdir()
    two = sample_module("0.0.52-two-slices", slices=2)
    for target, module in (("v6e:2x2", sample_module()), ("2 × v6e:1x2", two)):
        step = sample_step(target=target, modules=(module,))
        write_json(path / COMPILED / f"{step.slices}.json", to_json(step))
    found = tables(("a", "b"), read_record(path), None)[-1]
    assert [row[1] for row in found.rows] == ["v6e:2x2", "2 × v6e:1x2"]
    assert [row[-1] for row in found.rows] == ["–", "1,600"]


def test_the_noise_of_the_case_is_a_band(tmp_path: Path, a: Record, b: Record) -> None:
    perturbed = record(tmp_path / "p", "hf", (6.5, 6.4000001, 6.3), manifest={"role": "perturbed"})
    page = report(verdict(of(a, b)), a, b, perturbed)
    noise = trace(page, DIFFERENCE, "noise")
    assert noise["fill"] == "tozeroy"
    assert noise["y"][1] == pytest.approx(1e-7 / 6.4, rel=1e-3)
    assert not any(t["name"] == "noise" for t in both(a, b).charts[DIFFERENCE]["data"])


def test_ten_cases_are_less_than_five_megabytes(tmp_path: Path) -> None:
    losses = [6.5 - i / 100 for i in range(40)]
    windows = [window_event(2 * i, 2 * i + 1, 0.5) for i in range(20)]
    parameters = Trainer().record().parameters * 40
    pairs, records = [], []
    for number in range(10):
        sides = [
            dataclasses.replace(
                record(tmp_path / f"{number}{side}", side, losses, events=windows),
                parameters=parameters,
            )
            for side in ("hf", "torchprime")
        ]
        records += sides
        pairs.append(of(sides[0], sides[1]))
    assert len(html_of(verdict(*pairs), *records).encode()) < 5_000_000
