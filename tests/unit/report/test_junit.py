"""The verdict as JUnit's XML."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from report_samples import CLIP, HOSTILE, pair, rung, verdict

from harness.ladder.ladder import names
from harness.ladder.result import Finding, Result
from harness.report.junit import junit


def test_a_test_for_each_rung_with_its_numbers() -> None:
    root = ElementTree.fromstring(junit(verdict(pair(CLIP))))
    tests = root.findall("testsuite/testcase")
    assert [test.get("name") for test in tests] == list(names())
    (clip,) = (test for test in tests if test.get("name") == "clip")
    failure = clip.find("failure")
    assert failure is not None
    assert failure.get("message") == f"FAIL: {CLIP.explanation}"
    properties = {p.get("name"): p.get("value") for p in clip.iter("property")}
    assert float(str(properties["parity_value"])) == CLIP.value
    assert float(str(properties["parity_limit"])) == CLIP.limit
    assert root.get("failures") == "1"
    assert root.get("tests") == str(len(names()))


@pytest.mark.parametrize(
    ("result", "element"),
    [
        (Result.PASS, None),
        (Result.FAIL, "failure"),
        (Result.INVALID, "error"),
        (Result.INCONCLUSIVE, "error"),
        (Result.NOT_EXERCISED, "skipped"),
    ],
)
def test_what_each_result_is(result: Result, element: str | None) -> None:
    root = ElementTree.fromstring(junit(verdict(pair(rung("data", result)))))
    (test,) = (t for t in root.iter("testcase") if t.get("name") == "data")
    assert [child.tag for child in test if child.tag != "properties"] == (
        [element] if element else []
    )


def test_whatever_a_trainer_printed_is_readable_xml() -> None:
    text = HOSTILE + "\x1b[31m\x00\ud800"
    failed = rung("data", Result.FAIL, explanation=text, findings=(Finding(text),))
    root = ElementTree.fromstring(junit(verdict(pair(failed))))
    assert root.find("testsuite/testcase/failure") is not None
