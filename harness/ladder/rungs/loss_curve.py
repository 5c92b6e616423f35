"""The rung of the loss at every step, and of where the parameters end."""

from __future__ import annotations

import dataclasses
import math

from harness.ladder import against_case
from harness.ladder.comparison import Comparison
from harness.ladder.curve import Curve, judge_curve, lagging
from harness.ladder.distances import (
    by_name,
    detected,
    exceeds,
    nan_last,
    sketch_difference,
    sketch_distance,
    sketch_norm,
    worst,
)
from harness.ladder.late import cause
from harness.ladder.metric import UNRELATED, Floor, Metric
from harness.ladder.reported import misreported
from harness.ladder.result import EQUAL, Finding, Result, RungResult, summary
from harness.ladder.rung import Rung, Stage
from harness.ladder.rungs.forward import LOSS
from harness.ladder.rungs.grad_norm_curve import GRADIENT_NORM
from harness.ladder.series import furthest_apart, losses
from harness.record.evidence import Record


def loss_curve(c: Comparison) -> RungResult:
    """The loss at every step, and where the parameters end.

    No loss tells of the last update, and a loss tells little of a parameter that hardly counts.
    """
    result = judge_curve(c, Curve("loss_curve", "loss", LOSSES))
    if not result.holds:
        return result
    findings = (*c.changed(misreported), *c.of_each(against_case.counted_updates))
    if findings:
        return RungResult.failed("loss_curve", summary(findings), len(findings), EQUAL, findings)
    return _judge_course(c, result)


def explained(c: Comparison) -> RungResult:
    """`loss_curve`, with what happened before the first loss that differs."""
    result = loss_curve(c)
    left, right = losses(c.a), losses(c.b)
    known = all(
        loss is not None and math.isfinite(loss) for r in (left, right) for loss in r.values()
    )
    if result.result is not Result.FAIL or result.metric != LOSSES.name or not known:
        return result
    series = [[(loss,) for loss in values.values()] for values in (left, right)]
    limit = c.limit(GRADIENT_NORM).value
    if len(left) != len(right) or lagging(series[0], series[1], limit):
        return result
    why = cause(c, result.since, limit)
    return (
        dataclasses.replace(result, explanation=f"{why}; {result.explanation}") if why else result
    )


def worst_loss_distance(a: Record, b: Record) -> float | None:
    """The largest relative difference of the losses at any step."""
    return furthest_apart(losses(a), losses(b))


def _judge_course(c: Comparison, curve: RungResult) -> RungResult:
    """A curve that holds, with what the whole course did to each parameter."""
    distances = course_distances(c.a, c.b)
    if distances is None:
        text = f"{curve.explanation}, but where the parameters end was not observed"
        return RungResult.invalid("loss_curve", text)
    limit = c.limit(COURSE)
    name, value = worst(distances)
    beyond = [n for n, distance in distances.items() if exceeds(distance, limit.value)]
    if beyond:
        findings = tuple(
            Finding(f"{n}: its course is {distances[n]:.2g} apart, relatively", None, n)
            for n in sorted(beyond, key=lambda n: -nan_last(distances[n]))
        )
        text = (
            f"{curve.explanation}, but {len(beyond)} of {len(distances)} parameters end elsewhere; "
            f"most: {name}, by {value:.2g} of its course from the first value to the last"
        )
        return RungResult.failed("loss_curve", text, value, limit, findings)
    text = f"{curve.explanation}; parameters end within {value:.2g} of their course"
    if curve.result is not Result.PASS:
        return dataclasses.replace(curve, explanation=text)
    if limit.blind_to(value):
        text += f", which is not judged: {limit.blind}"
        return RungResult.inconclusive("loss_curve", text, value, limit)
    detects = f"{curve.detects}, or {detected(limit.value, 'course')}"
    return dataclasses.replace(curve, explanation=text, detects=detects)


def course_distances(a: Record, b: Record) -> dict[str, float] | None:
    """Estimate, by parameter, of |course_a - course_b| / |course|: from initial to final value.

    Of the parameters that both runs have and that either moved. None where there is no such
    parameter, or where a value was not observed.
    """
    left, right = by_name(a), by_name(b)
    distances: dict[str, float] = {}
    for name in (n for n in left if n in right):
        courses = []
        for parameter in (left[name], right[name]):
            if parameter.initial is None or parameter.final is None:
                return None
            courses.append(sketch_difference(parameter.final, parameter.initial))
        if any(sketch_norm(course) != 0.0 for course in courses):
            distances[name] = sketch_distance(courses[0], courses[1])
    return distances or None


def worst_course_distance(a: Record, b: Record) -> float | None:
    """The largest of `course_distances`."""
    distances = course_distances(a, b)
    return worst(distances)[1] if distances else None


LOSSES = dataclasses.replace(LOSS, distance=worst_loss_distance)
"""The loss of any step: differences of two runs build up."""
COURSE = Metric(
    name="course",
    what="worst parameter's way from its first to its last value",
    distance=worst_course_distance,
    unrelated=UNRELATED,
    by_float64=True,
    floors=(
        Floor("CPU", "float32", "", 1e-4, "measured: perturbed weights 6.0e-5, hf against "
              "torchprime 1.5e-5"),
        Floor("CPU", "bfloat16", "", 2e-1, "measured: perturbed weights 0.19, hf against "
              "torchprime 0.14"),
    ),
)  # fmt: skip

RUNG = Rung(
    name="loss_curve",
    what="loss at every step, and where the parameters end",
    judge=explained,
    needs=("data", "init", "forward", "backward", "clip", "optimizer", "schedule"),
    follows=("environment", "sharding"),
    metrics=(LOSSES, COURSE),
    blamed_for=Stage.TRAINING,
    from_numbers=True,
)
