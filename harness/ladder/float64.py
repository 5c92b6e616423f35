"""Which of two engines that disagree is the one that deviates: float64 says."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.ladder.beyond_case import beyond_case
from harness.ladder.comparison import Comparison
from harness.ladder.ladder import rung
from harness.ladder.metric import Metric
from harness.ladder.result import Result, RungResult
from harness.record.evidence import Record

TIMES_NEARER = 3.0
"""How much nearer to float64 one engine has to be before the other is said to deviate."""


def can_tell(results: Sequence[RungResult]) -> bool:
    """Whether a rung fails by a number that the float64 reference computes too."""
    return any(_measured(result) for result in results)


def silent(a: Record, b: Record) -> str | None:
    """Why float64 cannot tell who deviates: it trains what the case says, and nothing beyond."""
    for record in (a, b):
        if beyond := beyond_case(record):
            return f"float64 is not asked: {record.label} {beyond[0]}, which its case does not say"
    return None


def who_deviates(c: Comparison, results: Sequence[RungResult]) -> tuple[str, ...]:
    """A note for the first rung that fails and that float64 can tell of; none without float64."""
    failed = next(((r, metric) for r in results if (metric := _measured(r))), None)
    if (why := silent(c.a, c.b)) is not None:
        return (why,)
    if c.float64 is None or failed is None:
        return ()
    result, metric = failed
    assert metric.distance is not None
    x, y = metric.distance(c.a, c.float64), metric.distance(c.b, c.float64)
    if x is None or y is None or math.isnan(x) or math.isnan(y):
        return (f"{result.rung}: the float64 reference cannot tell, as a value is missing or NaN",)
    text = f"{result.rung}: from the float64 reference {c.a.label} is {x:.2g} away, "
    text += f"{c.b.label} {y:.2g}"
    if x > TIMES_NEARER * y:
        return (f"{text}: {c.a.label} is the one that deviates",)
    if y > TIMES_NEARER * x:
        return (f"{text}: {c.b.label} is the one that deviates",)
    return (f"{text}: both are about as far from it",)


def _measured(result: RungResult) -> Metric | None:
    """The metric by which a rung fails, where the float64 reference has it too.

    A rung that fails as values are missing names none: its first one is meant.
    """
    if result.result is not Result.FAIL:
        return None
    own = [metric for metric in rung(result.rung).metrics if metric.by_float64]
    return next((metric for metric in own if result.metric in (metric.name, "")), None)
