"""A session of parity tests is green only where something was judged, and held."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from harness.base.crash import CRASHED
from harness.ladder.ladder import names, preconditions
from harness.ladder.result import EQUAL, Result, RungResult
from harness.ladder.verdict import PairVerdict
from harness.plugins.ladder import as_selected

pytest_plugins = ["pytester"]

TESTS = """
from harness.plugins.ladder import assert_holds

def test_rung(parity_result):
    assert_holds(parity_result)
"""

WORLD = """
import pytest
from harness.ladder.ladder import names
from harness.ladder.result import EQUAL, RungResult
from harness.ladder.verdict import PairVerdict, Verdict
from harness.plugins import ladder as plugin
from harness.run.session import Outcome

RESULTS = {results}

def result(name):
    if RESULTS.get(name) == "PASS":
        return RungResult.passed(name, "holds", 0, EQUAL, detects="any")
    if RESULTS.get(name) == "FAIL":
        return RungResult.failed(name, "differs")
    return RungResult.not_exercised(name, "never reached")

def judged(config, pair, overrides):
    if RESULTS.get("all") == "crash":
        raise ZeroDivisionError("division by zero")
    pairs = (PairVerdict("hf", "b", "", "", tuple(map(result, names()))),)
    return Outcome(Verdict("hf against b", "llama-tiny", pairs), {{}})

plugin._run = judged
"""


def pair(**results: Result) -> PairVerdict:
    """A verdict in which every rung passes but those that are named."""

    def result(name: str) -> RungResult:
        if results.get(name) is Result.FAIL:
            return RungResult.failed(name, "differs")
        if results.get(name) is Result.NOT_EXERCISED:
            return RungResult.not_exercised(name, "never reached")
        return RungResult.passed(name, "holds", 0, EQUAL, detects="any")

    return PairVerdict("hf", "b", "", "", tuple(map(result, names())))


class TestOneRung:
    @pytest.mark.parametrize("broken", ["data", "forward", "clip"])
    @pytest.mark.parametrize("selected", ["optimizer", "loss_curve", "grad_norm_curve"])
    def test_a_broken_precondition_that_was_not_selected(self, selected: str, broken: str) -> None:
        verdict = pair(**{broken: Result.FAIL})
        alone = as_selected(selected, verdict, [selected])
        assert alone.result is Result.INVALID
        assert broken in alone.explanation
        # Its own test fails, which is where the eye has to fall.
        assert as_selected(selected, verdict, [selected, broken]) == verdict.rung(selected)

    def test_what_it_does_not_rest_on(self) -> None:
        verdict = pair(grad_norm_curve=Result.FAIL, init=Result.FAIL)
        for name in ("graph", "schedule", "data"):
            assert as_selected(name, verdict, [name]).result is Result.PASS

    def test_preconditions_of_preconditions(self) -> None:
        assert preconditions("grad_norm_curve") == (
            "data", "init", "routing", "forward", "backward", "clip", "optimizer", "schedule",
            "loss_curve",
        )  # fmt: skip
        assert preconditions("data") == ()

    def test_nothing_that_was_exercised(self) -> None:
        verdict = pair(clip=Result.NOT_EXERCISED, step_time=Result.NOT_EXERCISED)
        both = ["clip", "step_time"]
        assert all(as_selected(name, verdict, both).result is Result.INVALID for name in both)
        for name in both:
            assert as_selected(name, verdict, [*both, "graph"]).result is Result.NOT_EXERCISED

    def test_a_failure_stays_one(self) -> None:
        verdict = pair(data=Result.FAIL, clip=Result.FAIL)
        assert as_selected("clip", verdict, ["clip"]).result is Result.FAIL


WORKERS = pytest.mark.parametrize("workers", ["0", "1"])
"""What a test tells the summary crosses from xdist's workers otherwise than within a process."""


class TestSession:
    def run(
        self, pytester: pytest.Pytester, results: dict[str, str], selected: str, workers: str = "0"
    ) -> pytest.RunResult:
        pytester.makeconftest(WORLD.format(results=results))
        pytester.makepyfile(TESTS)
        words = ["--parity-pair", "hf,b", "--parity-case", "llama-tiny", "-n", workers]
        return pytester.runpytest_subprocess("-k", f"cpu and ({selected})", *words)

    def test_all_not_exercised_is_not_green(self, pytester: pytest.Pytester) -> None:
        done = self.run(pytester, {"data": "PASS"}, "clip or step_time")
        done.assert_outcomes(failed=2)
        assert done.ret == 1

    @WORKERS
    def test_a_broken_precondition_is_not_green(
        self, pytester: pytest.Pytester, workers: str
    ) -> None:
        results = {"forward": "FAIL", "optimizer": "PASS"}
        done = self.run(pytester, results, "optimizer", workers)
        done.assert_outcomes(failed=1)
        done.stdout.fnmatch_lines(["*forward, above it and not selected, is FAIL: differs*"])

    def test_what_was_judged_is(self, pytester: pytest.Pytester) -> None:
        done = self.run(pytester, {"schedule": "PASS"}, "schedule or step_time")
        done.assert_outcomes(passed=1, skipped=1)
        assert done.ret == 0

    @WORKERS
    def test_a_crash_of_the_harness(self, pytester: pytest.Pytester, workers: str) -> None:
        done = self.run(pytester, {"all": "crash"}, "data", workers)
        assert done.ret == CRASHED
        done.assert_outcomes(errors=1)
        out = done.stdout.str()
        assert "the harness itself failed" in out
        assert "Traceback" not in out

    @WORKERS
    def test_junit_has_numbers_and_the_summary_has_the_verdict(
        self, pytester: pytest.Pytester, workers: str
    ) -> None:
        """The verdict, which is the same for every rung, is in no test's properties."""
        results = {"schedule": "PASS", "data": "PASS"}
        pytester.makeconftest(WORLD.format(results=results))
        pytester.makepyfile(TESTS)
        words = ["--parity-pair", "hf,b", "--parity-case", "llama-tiny", "-n", workers]
        words += ["--junitxml", "junit.xml", "--parity-json", "verdict.json"]
        done = pytester.runpytest_subprocess("-k", "cpu", *words)
        cases = ElementTree.parse(pytester.path / "junit.xml").iter("testcase")
        found = {
            case.attrib["name"]: {
                p.attrib["name"]: p.attrib["value"] for p in case.iter("property")
            }
            for case in cases
        }
        properties = found["test_rung[llama-tiny-cpu-hf-b-schedule]"]
        assert properties == {
            "parity_case": "llama-tiny", "parity_a": "hf", "parity_b": "b",
            "parity_rung": "schedule", "parity_result": "PASS", "parity_value": "0",
            "parity_limit": "0",
        }  # fmt: skip
        assert float(properties["parity_value"]) <= float(properties["parity_limit"])
        assert not any("{" in value for test in found.values() for value in test.values())
        assert json.loads((pytester.path / "verdict.json").read_text())["result"] == "PASS"
        done.stdout.fnmatch_lines(["PASS  hf and b train alike: 2 rungs hold", "*verdict.json"])
