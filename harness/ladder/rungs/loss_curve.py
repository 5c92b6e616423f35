"""The rung of the loss at every step, and of where the parameters end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

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
    worst_of,
)
from harness.ladder.late import cause
from harness.ladder.metric import UNRELATED, Floor, Metric
from harness.ladder.moments import last_moment_distances, observed_alone
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
    return _judge_ends(c, result)


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


def _judge_ends(c: Comparison, curve: RungResult) -> RungResult:
    """A curve that holds, with where each parameter ends, and what the optimizer keeps of it."""
    if unseen := _unseen(c):
        return RungResult.invalid("loss_curve", f"{curve.explanation}, but {unseen}")
    broken = [f for record in (c.a, c.b) for f in _not_finite(record)]
    if broken:
        text = f"{curve.explanation}, but {broken[0].text}"
        return RungResult.failed("loss_curve", text, len(broken), EQUAL, tuple(broken))
    texts, claims, blind = [curve.explanation], [curve.detects], None
    for end in ENDS:
        distances = end.distances(c.a, c.b)
        if not distances:
            continue  # an optimizer that keeps nothing
        limit = c.limit(end.metric)
        name, value = worst(distances)
        beyond = [n for n, distance in distances.items() if exceeds(distance, limit.value)]
        if beyond:
            findings = tuple(
                Finding(f"{n}: its {end.noun} is {distances[n]:.2g} apart, relatively", None, n)
                for n in sorted(beyond, key=lambda n: -nan_last(distances[n]))
            )
            text = f"{curve.explanation}, but {len(beyond)} of {len(distances)} parameters "
            text += f"{end.differ}; most: {name}, by {value:.2g} of {end.of}"
            return RungResult.failed("loss_curve", text, value, limit, findings)
        texts.append(end.within.format(f"{value:.2g}"))
        if limit.blind_to(value):
            texts[-1] += f", which is not judged: {limit.blind}"
            blind = blind or (value, limit)
        else:
            claims.append(detected(limit.value, end.noun))
    text = "; ".join(texts)
    if curve.result is Result.PASS and blind is not None:
        return RungResult.inconclusive("loss_curve", text, *blind)
    detects = ", or ".join(claims) if curve.result is Result.PASS else curve.detects
    return dataclasses.replace(curve, explanation=text, detects=detects)


def _unseen(c: Comparison) -> str | None:
    """What of the ends of two runs was not observed: unknown and unknown are not equal."""
    if course_distances(c.a, c.b) is None:
        return "where the parameters end was not observed"
    if alone := observed_alone(c.a, c.b, lambda p: p.state_final):
        return f"of {alone} alone was observed what the optimizer keeps at the end"
    return None


def _not_finite(record: Record) -> list[Finding]:
    """Parameters that end, or of which the optimizer keeps, what is no number."""
    findings = []
    for p in record.parameters:
        ends = {"its last value": p.final, **{f"its last {k}": f for k, f in p.state_final.items()}}
        for what, found in ends.items():
            if found is not None and not all(map(math.isfinite, (*found.sketch, found.norm))):
                text = f"{p.name}: {what} is not finite in {record.label}"
                findings.append(Finding(text, None, p.name, found.norm))
    return findings


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
    return worst_of(course_distances(a, b))


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

KEPT = Metric(
    name="kept",
    what="worst moment that the optimizer keeps at the end",
    distance=lambda a, b: worst_of(last_moment_distances(a, b)),
    unrelated=UNRELATED,
    floors=(
        Floor("CPU", "float32", "", 1e-5, "measured: perturbed weights 1.7e-6, hf against "
              "torchprime 2.0e-6"),
        Floor("CPU", "bfloat16", "", 2e-1, "measured over 6 steps: perturbed weights "
              "6.3e-2"),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class _End:
    """What is compared of the ends of two runs, and how it is put into words.

    within: what is said of a number that is within the limit, which stands for {}
    of:     what such a number is a share of
    """

    metric: Metric
    noun: str
    distances: Callable[[Record, Record], dict[str, float] | None]
    differ: str
    within: str
    of: str


ENDS = (
    _End(
        COURSE, "course", course_distances, "end elsewhere",
        "parameters end within {} of their course", "its course from the first value to the last",
    ),
    _End(
        KEPT, "last moment", last_moment_distances, "leave other moments",
        "last moments are within {} of their size", "their size",
    ),
)  # fmt: skip

RUNG = Rung(
    name="loss_curve",
    what="loss at every step, and where parameters and their moments end",
    judge=explained,
    needs=("data", "init", "forward", "backward", "clip", "optimizer", "schedule"),
    follows=("environment", "sharding"),
    metrics=(LOSSES, COURSE, KEPT),
    blamed_for=Stage.TRAINING,
    from_numbers=True,
)
