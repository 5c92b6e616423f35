"""What one rung says of one pair of runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Result(str, Enum):
    """What one rung, one pair or one session came to."""

    PASS = "PASS"
    FAIL = "FAIL"
    INVALID = "INVALID"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_EXERCISED = "NOT_EXERCISED"


@dataclass(frozen=True)
class Limit:
    """The largest value that counts as no difference, and where that number comes from.

    metric:    name of the `Metric` that it limits; "" for an identity and for a fixed limit
    unrelated: what two unrelated values come to: a limit from there on decides nothing
    exact:     the values have all of their digits, so that equal values are equal: what a trainer
               printed has not
    """

    value: float
    source: str
    metric: str = ""
    unrelated: float = math.inf
    exact: bool = True

    @property
    def useless(self) -> bool:
        """Whether two values that have nothing in common would be within it."""
        return self.value >= self.unrelated

    def blind_to(self, value: float | None) -> bool:
        """Whether it decides nothing about `value`. Where none is known, equal is equal."""
        return self.useless and not (self.exact and value == 0 and math.isinf(self.value))

    @property
    def blind(self) -> str:
        """Why a useless limit decides nothing."""
        if math.isinf(self.value):
            return f"there is no limit to judge by: {self.source}"
        return (
            f"unrelated values would be within the limit of {self.value:.2g}: the case is too "
            "noisy for this rung; ask for float32, for fewer steps, or for other weights or data"
        )


EQUAL = Limit(0, "equal or not")
"""The limit of an identity: there is nothing to tolerate."""


@dataclass(frozen=True)
class Finding:
    """One difference, in the user's terms, with the evidence for it.

    text:      one line, for example "step 0: hf scaled its gradients by 0.36, torchprime by 1"
    step:      optimizer step, where it is about one
    parameter: canonical parameter name, where it is about one
    a, b:      the two values: of either run, or of one and of what its case asks for
    run:       "a" or "b", where it is of that run alone
    kind:      of such a one, what is found, so that the same is known again in another run
    """

    text: str
    step: int | None = None
    parameter: str | None = None
    a: Any = None
    b: Any = None
    run: str | None = None
    kind: str = ""


@dataclass(frozen=True)
class RungResult:
    """One rung's judgement of one pair. A rung makes it by the constructor for what it came to.

    explanation:  one line
    value, limit: the number that was judged, and what it may be at most
    limit_source: where the limit comes from
    detects:      for a PASS, the smallest difference that it would have caught
    findings:     every difference found, the most telling first
    metric:       name of the metric whose value and limit these are; "" for an identity
    """

    rung: str
    result: Result
    explanation: str
    value: float | None = None
    limit: float | None = None
    limit_source: str = ""
    detects: str = ""
    findings: tuple[Finding, ...] = ()
    metric: str = ""

    @classmethod
    def passed(
        cls, rung: str, explanation: str, value: float | None, limit: Limit, *, detects: str,
        findings: tuple[Finding, ...] = (),
    ) -> RungResult:  # fmt: skip
        """`value` is within `limit`, and `detects` is what would not have been.

        A PASS within a limit that unrelated values would not exceed is none: that is INCONCLUSIVE.
        Equal runs need no limit.
        """
        if limit.blind_to(value):
            text = f"{limit.blind} ({explanation})"
            return cls.inconclusive(rung, text, value, limit, findings)
        if math.isinf(limit.value):
            limit, detects = EQUAL, "any difference"
        return cls._of(rung, Result.PASS, explanation, value, limit, findings, detects)

    @classmethod
    def failed(
        cls, rung: str, explanation: str, value: float | None = None, limit: Limit | None = None,
        findings: tuple[Finding, ...] = (),
    ) -> RungResult:  # fmt: skip
        """The runs differ: `value` is beyond `limit`, where the difference is a number."""
        return cls._of(rung, Result.FAIL, explanation, value, limit, findings)

    @classmethod
    def invalid(
        cls, rung: str, explanation: str, findings: tuple[Finding, ...] = ()
    ) -> RungResult:  # fmt: skip
        """Evidence is missing, or a rung above does not hold: this says nothing."""
        return cls._of(rung, Result.INVALID, explanation, None, None, findings)

    @classmethod
    def inconclusive(
        cls, rung: str, explanation: str, value: float | None = None, limit: Limit | None = None,
        findings: tuple[Finding, ...] = (),
    ) -> RungResult:  # fmt: skip
        """The evidence cannot resolve the limit; `explanation` says what would."""
        return cls._of(rung, Result.INCONCLUSIVE, explanation, value, limit, findings)

    @classmethod
    def not_exercised(
        cls, rung: str, explanation: str, value: float | None = None,
        findings: tuple[Finding, ...] = (),
    ) -> RungResult:  # fmt: skip
        """The case never reaches what the rung judges."""
        return cls._of(rung, Result.NOT_EXERCISED, explanation, value, None, findings)

    @classmethod
    def identity(cls, rung: str, findings: tuple[Finding, ...], explanation: str) -> RungResult:
        """PASS with `explanation` where nothing was found: any finding fails an identity."""
        if findings:
            return cls.failed(rung, summary(findings), len(findings), EQUAL, findings)
        return cls.passed(rung, explanation, 0, EQUAL, detects="any difference")

    @classmethod
    def _of(
        cls, rung: str, result: Result, explanation: str, value: float | None, limit: Limit | None,
        findings: tuple[Finding, ...], detects: str = "",
    ) -> RungResult:  # fmt: skip
        number, source, metric = (
            (None, "", "") if limit is None else (limit.value, limit.source, limit.metric)
        )
        number = None if number is not None and math.isinf(number) else number
        return cls(rung, result, explanation, value, number, source, detects, findings, metric)

    @property
    def since(self) -> int:
        """The first step that the findings are about; 0 where one is about the whole run."""
        return min((finding.step or 0 for finding in self.findings), default=0)

    @property
    def holds(self) -> bool:
        """Whether what lies below this rung can be judged: nothing is known to be wrong with it.

        An INCONCLUSIVE rung is too noisy to tell. What lies below has noise, and evidence, of its
        own.
        """
        return self.result not in (Result.FAIL, Result.INVALID)


def summary(findings: tuple[Finding, ...]) -> str:
    """The first of some findings, and how many more there are."""
    more = f" (and {len(findings) - 1} more)" if findings[1:] else ""
    return findings[0].text + more
