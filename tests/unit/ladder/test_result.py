"""What a rung may say: a PASS needs a limit that decides something."""

from __future__ import annotations

import math

import pytest

from harness.ladder.result import EQUAL, Finding, Limit, Result, RungResult, summary

PASS, INCONCLUSIVE = Result.PASS, Result.INCONCLUSIVE


class TestPassed:
    @pytest.mark.parametrize(
        ("limit", "value", "result"),
        [
            (Limit(0.5, "measured", "m", 1.0), 0.4, PASS),
            (Limit(0.5, "measured", "m", 0.5), 0.4, INCONCLUSIVE),
            (Limit(0.5, "measured", "m", 0.5), 0.0, INCONCLUSIVE),
            (Limit(math.inf, "none", "m", 1.0), 0.4, INCONCLUSIVE),
            (Limit(math.inf, "none", "m", 1.0), None, INCONCLUSIVE),
            (Limit(math.inf, "none", "m", 1.0), 0.0, PASS),
            (Limit(math.inf, "none", "m", 1.0, exact=False), 0.0, INCONCLUSIVE),
            (EQUAL, 0.0, PASS),
        ],
    )
    def test_within_a_limit_that_decides(
        self, limit: Limit, value: float | None, result: Result
    ) -> None:
        found = RungResult.passed("r", "alike", value, limit, detects="some of it")
        assert (found.result, found.value) == (result, value)
        assert found.explanation.endswith("alike" if result is PASS else "(alike)")
        assert bool(found.detects) == (result is PASS)

    def test_equal_runs_need_no_limit(self) -> None:
        found = RungResult.passed("r", "alike", 0.0, Limit(math.inf, "none", "m", 1.0), detects="")
        assert (found.limit, found.limit_source, found.metric) == (0, EQUAL.source, "")
        assert found.detects == "any difference"

    def test_an_infinite_limit_is_not_shown(self) -> None:
        found = RungResult.inconclusive("r", "why", 0.4, Limit(math.inf, "none", "m"))
        assert (found.limit, found.limit_source, found.metric) == (None, "none", "m")


class TestFindings:
    ONE, TWO = Finding("one", 5), Finding("two", 3)

    def test_an_identity_fails_by_each(self) -> None:
        equal = RungResult.identity("r", (), "equal")
        assert (equal.result, equal.value, equal.limit) == (PASS, 0, 0)
        for findings, text in (((self.ONE,), "one"), ((self.ONE, self.TWO), "one (and 1 more)")):
            found = RungResult.identity("r", findings, "equal")
            assert (found.result, found.value, found.limit) == (Result.FAIL, len(findings), 0)
            assert found.explanation == summary(findings) == text

    @pytest.mark.parametrize(
        ("steps", "since"), [((), 0), ((5, 3), 3), ((3, 5), 3), ((5, None), 0), ((0,), 0)]
    )
    def test_since_when(self, steps: tuple[int | None, ...], since: int) -> None:
        findings = tuple(Finding("", step) for step in steps)
        assert RungResult.failed("r", "", findings=findings).since == since

    @pytest.mark.parametrize("result", Result)
    def test_what_lies_below_can_be_judged(self, result: Result) -> None:
        assert RungResult("r", result, "").holds == (result not in (Result.FAIL, Result.INVALID))
