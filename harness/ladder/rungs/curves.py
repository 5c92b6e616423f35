"""Rungs over the whole run: the loss curve and the gradient-norm curve."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

from harness.ladder.comparison import (
    SKETCH_CERTAINTY,
    Comparison,
    Limit,
    exceeds,
    largest,
    nan_last,
    relative_difference,
    worst,
)
from harness.ladder.rungs.optimizer import course_distances, worst_course_distance
from harness.ladder.rungs.schedule import lagging
from harness.ladder.verdict import Finding, Result, RungResult
from harness.record.files import Record

Values = Mapping[int, float | None]
"""A number by optimizer step; None where none was observed."""
Series = Callable[[Record], Values]
"""Reads Values out of a Record."""

OPPOSITE = 2.0
"""The relative distance of two courses that lead to opposite sides; there is no larger one."""


def loss_curve(c: Comparison) -> RungResult:
    """The loss at every step, and where the parameters end.

    No loss tells of the last update, and a loss tells little of a parameter that hardly counts.
    """
    result = _curve(c, "loss_curve", "loss", losses)
    return _judge_course(c, result) if result.result is Result.PASS else result


def grad_norm_curve(c: Comparison) -> RungResult:
    """The gradient norm that each trainer measured, at every step."""
    name_a, name_b = c.names
    seen = [any(n is not None for n in gradient_norms(r).values()) for r in (c.a, c.b)]
    called = [s.max_norm is not None for r in (c.a, c.b) for s in r.steps]
    if not any(seen) and any(called):
        text = "gradients were clipped, but no norm was observed"
        return RungResult("grad_norm_curve", Result.INVALID, text)
    if not any(seen):
        text = "neither trainer measures gradient norms in this case"
        return RungResult("grad_norm_curve", Result.NOT_EXERCISED, text)
    if not all(seen):
        text = f"{name_b if seen[0] else name_a} measured no gradient norm"
        return RungResult("grad_norm_curve", Result.INVALID, text)
    return _curve(c, "grad_norm_curve", "gradient_norm", gradient_norms)


def losses(record: Record) -> Values:
    """Loss by step."""
    return {step.index: step.loss for step in record.steps}


def gradient_norms(record: Record) -> Values:
    """Measured gradient norm by step."""
    return {step.index: step.gradient_norm for step in record.steps}


def _curve(c: Comparison, rung: str, metric: str, series: Series) -> RungResult:
    name_a, name_b = c.names
    what = "loss" if metric == "loss" else "gradient norm"
    asked = max(c.a.asked_steps, c.b.asked_steps)
    left, right = series(c.a), series(c.b)
    steps = sorted({*range(asked), *left, *right})
    for name, values in ((name_a, left), (name_b, right)):
        absent = [i for i in steps if values.get(i) is None]
        if absent:
            finding = Finding(f"step {absent[0]}: {name} has no {what}", absent[0])
            text = f"{name} has no {what} at {len(absent)} of {len(steps)} steps, first at "
            return RungResult(rung, Result.FAIL, f"{text}{absent[0]}", findings=(finding,))
    for name, record in ((name_a, c.a), (name_b, c.b)):
        if not record.complete:
            text = f"{name} did not train just the {record.asked_steps} steps that were asked for"
            return RungResult(rung, Result.FAIL, text)
    x, y = ([v for i in steps if (v := s[i]) is not None] for s in (left, right))
    for name, numbers in ((name_a, x), (name_b, y)):
        broken = [i for i, v in enumerate(numbers) if not math.isfinite(v)]
        if broken:
            text = f"step {broken[0]}: {what} of {name} is {numbers[broken[0]]}"
            finding = Finding(text, broken[0], None, x[broken[0]], y[broken[0]])
            return RungResult(rung, Result.FAIL, text, math.nan, findings=(finding,))
    limits = curve_limits(c, metric, series, len(steps))
    return _judge(c, rung, what, x, y, limits)


def _judge_course(c: Comparison, curve: RungResult) -> RungResult:
    """A curve that passes, with what the whole course did to each parameter."""
    distances = course_distances(c.a, c.b)
    if distances is None:
        text = f"{curve.explanation}, but where the parameters end was not observed"
        return RungResult("loss_curve", Result.INVALID, text)
    limit = c.limit("course", worst_course_distance)
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
        return RungResult(
            "loss_curve", Result.FAIL, text, value, limit.value, limit.source, "", findings
        )
    text = f"{curve.explanation}; parameters end within {value:.2g} of their course"
    if limit.value >= OPPOSITE:
        text += ", which is not judged: nothing could exceed the limit"
        return dataclasses.replace(curve, explanation=text)
    detects = f"{curve.detects}, or a course that is off by {SKETCH_CERTAINTY * limit.value:.2g}"
    return dataclasses.replace(curve, explanation=text, detects=detects)


def curve_limits(c: Comparison, metric: str, series: Series, steps: int) -> list[Limit]:
    """The limit at each step, as a relative difference.

    Differences of two runs build up step by step; so does the control's, and the limit of a step
    comes from the largest difference of the control up to it.
    """
    if c.control is None:
        return [c.limit_over(metric, None)] * steps
    first, second = (series(record) for record in c.control)
    limits, measured = [], 0.0
    for step in range(steps):
        difference = relative_difference(first.get(step), second.get(step))
        measured = largest([measured, difference])
        limits.append(c.limit_over(metric, measured))
    return limits


def _judge(
    c: Comparison, rung: str, what: str, x: list[float], y: list[float], limits: list[Limit]
) -> RungResult:
    name_a, name_b = c.names
    differences = [relative_difference(p, q) for p, q in zip(x, y, strict=True)]
    beyond = [i for i, d in enumerate(differences) if exceeds(d, limits[i].value)]
    furthest = max(range(len(x)), key=lambda i: differences[i])
    absolute = max(abs(p - q) for p, q in zip(x, y, strict=True))
    if beyond:
        first = beyond[0]
        findings = [
            Finding(f"step {i}: {what} {x[i]:.9g} in {name_a}, {y[i]:.9g} in {name_b} (relative "
                    f"difference {differences[i]:.2g}, limit {limits[i].value:.2g})",
                    i, None, x[i], y[i])
            for i in beyond
        ]  # fmt: skip
        text = findings[0].text
        lag = lagging([(v,) for v in x], [(v,) for v in y], max(limit.value for limit in limits))
        if lag:
            late = name_b if lag > 0 else name_a
            text = f"a lag of one step: {late}'s series is one step late; {text}"
        if len(beyond) > 1:
            text += f"; {len(beyond)} of {len(x)} steps differ"
        return RungResult(
            rung, Result.FAIL, text, differences[first], limits[first].value,
            limits[first].source, "", tuple(findings),
        )  # fmt: skip
    blind = [i for i, limit in enumerate(limits) if limit.value >= 1]
    if blind:
        text = f"from step {blind[0]} on no {what} could exceed its limit: the case is too noisy "
        return RungResult(
            rung, Result.INCONCLUSIVE, text + "for this rung; ask for fewer steps or for float32",
            differences[furthest], limits[furthest].value, limits[furthest].source,
        )  # fmt: skip
    equal = next((i for i, (p, q) in enumerate(zip(x, y, strict=True)) if p != q), len(x))
    same = (
        f"all {len(x)} steps are bitwise equal"
        if equal == len(x)
        else f"the first {equal} of {len(x)} steps are bitwise equal, max |Δ| {absolute:.2g} at "
        f"step {max(range(len(x)), key=lambda i: abs(x[i] - y[i]))}"
    )
    return RungResult(
        rung, Result.PASS, f"{what}: {same}", differences[furthest], limits[furthest].value,
        limits[furthest].source, f"a relative difference of {max(li.value for li in limits):.2g}",
    )  # fmt: skip
