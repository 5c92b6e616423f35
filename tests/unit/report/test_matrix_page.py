"""A matrix as lines and as a page."""

from __future__ import annotations

import math
from dataclasses import replace

from harness.config.matrix import Cell
from harness.ladder.matrix import REFUSED, Entry, State
from harness.report.matrix import line, page

CELL = Cell("fsdp | 4", "llama-tiny", ["case.steps=5"], see="findings/mine.md")
PAIR = ("hf", "reference")
PASSED = State("PASS", loss=1.5e-6, norm=2e-7, first=3, seconds=41.2, when="2026-01-02T00:00:00Z",
               sources={"hf": "transformers 4.57.6"}, words=("float64=never",))  # fmt: skip
FAILED = State("FAIL", "clip", "clip: a | b does not clip", math.nan, None, None, 9.0)


def test_lines() -> None:
    assert line(Entry("", CELL, PAIR, PASSED)) == (
        "PASS      fsdp | 4, hf–reference: max |Δloss| 1.5e-06, gradient norms 2e-07, first at "
        "step 3, 41 s"
    )
    assert line(Entry("", CELL, PAIR, FAILED)) == (
        "FAIL      fsdp | 4, hf–reference: max |Δloss| NaN, bitwise equal, 9 s; "
        "clip: a | b does not clip"
    )
    refused = line(Entry("", CELL, PAIR, State(REFUSED, text="it has none")))
    assert refused == "refused   fsdp | 4, hf–reference; it has none"


def test_the_page_has_a_row_for_each_pair_and_says_why() -> None:
    entries = [
        Entry("Shardings", CELL, PAIR, PASSED),
        Entry("Shardings", CELL, ("hf", "torchprime"), FAILED),
        Entry("Data", Cell("rows", "mine"), PAIR, State(REFUSED, text="it has none")),
    ]
    lines = page(entries, ["workspace=/mine", "case.steps=9"]).splitlines()
    assert any("`parity matrix --markdown FILE case.steps=9`" in text for text in lines)
    assert any("on 2026-01-02: 1 PASS, 1 FAIL, 1 refused." in text for text in lines)
    assert "- hf: transformers 4.57.6" in lines
    assert [text for text in lines if text.startswith("## ")] == ["## Shardings", "## Data"]
    rows = [text for text in lines if text.startswith("| ") and "cell" not in text]
    assert rows == [
        "| fsdp \\| 4 | `case=llama-tiny case.steps=5` | hf–reference | PASS ¹ | 1.5e-06 | 2e-07 "
        "| 3 | 41 |",
        "|  |  | hf–torchprime | FAIL clip | NaN | – | none | 9 |",
        "| rows | `case=mine` | hf–reference | refused | – | – | – | – |",
    ]
    told = [text for text in lines if text.startswith("- ") and "transformers" not in text]
    assert told == [
        "- fsdp \\| 4, hf–torchprime: clip: a \\| b does not clip "
        "([findings/mine.md](findings/mine.md))",
        "- rows, hf–reference: it has none",
    ]


def test_each_other_way_of_judging_has_a_mark_of_its_own() -> None:
    ways = (("float64=never",), ("tolerance.noise_floor=table",), ())
    entries = [Entry("", CELL, PAIR, replace(PASSED, words=words)) for words in ways]
    lines = page(entries).splitlines()
    assert [text for text in lines if "judged under" in text] == [
        "¹ judged under `float64=never`", "² judged under `tolerance.noise_floor=table`",
    ]  # fmt: skip
    rows = [text.split(" | ")[3] for text in lines if text.startswith("| ") and "cell" not in text]
    assert rows == ["PASS ¹", "PASS ²", "PASS"]


def test_what_nobody_trains_is_trained_as_nothing() -> None:
    state = State(REFUSED, text="nobody scans")
    lines = page([Entry("", Cell("scan", "llama-tiny", refused="nobody scans"), PAIR, state)])
    assert "| scan | – | hf–reference | refused | – | – | – | – |" in lines.splitlines()
