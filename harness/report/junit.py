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
            suite.append(_test(pair, rung))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _test(pair: PairVerdict, rung: RungResult) -> ElementTree.Element:
    names = {"classname": printable(f"{pair.a} against {pair.b}"), "name": rung.rung}
    test = ElementTree.Element("testcase", names)
    properties = ElementTree.SubElement(test, "properties")
    for name, value in (
        ("result", rung.result.value), ("metric", rung.metric or None),
        ("value", rung.value), ("limit", rung.limit),
    ):  # fmt: skip
        if value is not None:
            ElementTree.SubElement(properties, "property", {"name": name, "value": str(value)})
    if (kind := OUTCOMES.get(rung.result)) is not None:
        message = printable(f"{rung.result.value}: {rung.explanation}")
        outcome = ElementTree.SubElement(test, kind, {"message": message})
        outcome.text = "\n".join(printable(finding.text) for finding in rung.findings)
    return test
