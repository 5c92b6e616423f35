"""Which of two engines that disagree is the one that deviates: float64 says."""

from __future__ import annotations

import math
from collections.abc import Mapping

from harness.ladder.comparison import Comparison, Distance, largest, relative_difference
from harness.ladder.rungs.curves import losses
from harness.ladder.rungs.first_step import first_loss_distance, worst_gradient_distance
from harness.ladder.rungs.optimizer import worst_course_distance
from harness.ladder.verdict import Result, RungResult
from harness.record.files import Record

FACTOR = 3.0
"""How much nearer to float64 one engine has to be before the other is said to deviate."""


def worst_loss_distance(a: Record, b: Record) -> float | None:
    """The largest relative difference of the losses at any step."""
    x, y = losses(a), losses(b)
    if not x or x.keys() != y.keys():
        return None
    return largest(relative_difference(x[step], y[step]) for step in x)


MEASURES: dict[str, Distance] = {
    "forward": first_loss_distance,
    "backward": worst_gradient_distance,
    "loss_curve": worst_loss_distance,
}


def who_deviates(c: Comparison, results: Mapping[str, RungResult]) -> tuple[str, ...]:
    """A note for the first rung that fails and can be arbitrated; none without an arbiter."""
    if c.arbiter is None:
        return ()
    for rung, measure in MEASURES.items():
        if results[rung].result is not Result.FAIL:
            continue
        if rung == "loss_curve" and results[rung].value == worst_course_distance(c.a, c.b):
            measure = worst_course_distance  # the losses agree: it is the parameters that do not
        x, y = measure(c.a, c.arbiter), measure(c.b, c.arbiter)
        if x is None or y is None or math.isnan(x) or math.isnan(y):
            return (f"{rung}: the float64 reference cannot tell, as a value is missing or NaN",)
        text = (
            f"{rung}: from the float64 reference {c.a.label} is {x:.2g} away, {c.b.label} {y:.2g}"
        )
        if x > FACTOR * y:
            return (f"{text}: {c.a.label} is the one that deviates",)
        if y > FACTOR * x:
            return (f"{text}: {c.b.label} is the one that deviates",)
        return (f"{text}: both are about as far from it",)
    return ()
