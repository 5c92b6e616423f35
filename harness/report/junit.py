"""The verdict as JUnit's XML: one test for each pair and rung, as CI systems list them."""

from __future__ import annotations

from xml.etree import ElementTree

from harness.base.text import printable
from harness.ladder.result import Result, RungResult
from harness.ladder.verdict import PairVerdict, Verdict

OUTCOMES = {
    Result.FAIL: "failure",
    Result.INVALID: "error",
    Result.INCONCLUSIVE: "error",
    Result.NOT_EXERCISED: "skipped",
}
"""The element within a test that did not pass."""


def junit(verdict: Verdict) -> str:
    """The XML. INVALID and INCONCLUSIVE are errors: what was to be tested could not be."""
    results = [rung.result for pair in verdict.pairs for rung in pair.rungs]
    counts = {
        "tests": len(results),
        "failures": results.count(Result.FAIL),
        "errors": results.count(Result.INVALID) + results.count(Result.INCONCLUSIVE),
        "skipped": results.count(Result.NOT_EXERCISED),
    }
    numbers = {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites", numbers)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "parity", **numbers})
    for pair in verdict.pairs:
        for rung in pair.rungs:
            suite.append(_test(verdict.case, pair, rung))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def properties(case: str, pair: PairVerdict, rung: RungResult) -> dict[str, str | float]:
    """What a test of one rung tells other programs: its numbers, and short texts."""
    headline = pair.headline_rung
    values = {
        "parity_case": case,
        "parity_a": pair.a,
        "parity_b": pair.b,
        "parity_rung": rung.rung,
        "parity_result": rung.result.value,
        "parity_value": rung.value,
        "parity_limit": rung.limit,
        "parity_metric": rung.metric or None,
        "parity_headline_rung": None if headline is None else headline.rung,
    }
    return {name: value for name, value in values.items() if value is not None}


def _test(case: str, pair: PairVerdict, rung: RungResult) -> ElementTree.Element:
    names = {"classname": printable(f"{pair.a} against {pair.b}"), "name": rung.rung}
    test = ElementTree.Element("testcase", names)
    element = ElementTree.SubElement(test, "properties")
    for name, value in properties(case, pair, rung).items():
        text = printable(str(value))
        ElementTree.SubElement(element, "property", {"name": name, "value": text})
    if (kind := OUTCOMES.get(rung.result)) is not None:
        message = printable(f"{rung.result.value}: {rung.explanation}")
        outcome = ElementTree.SubElement(test, kind, {"message": message})
        outcome.text = "\n".join(printable(finding.text) for finding in rung.findings)
    return test
