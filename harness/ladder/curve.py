"""A number at every step of two runs: how it is read, compared, and seen to lag."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count

from harness.ladder.comparison import Comparison
from harness.ladder.distances import exceeds, largest, relative_difference
from harness.ladder.imported import first_steps, imported_runs
from harness.ladder.metric import Metric
from harness.ladder.result import Finding, Limit, Result, RungResult
from harness.ladder.series import Values

Rates = tuple[float | None, ...]
"""Learning rates of one step; None for one that was not observed."""


@dataclass(frozen=True)
class Curve:
    """One number of a run by step, as a rung judges it.

    rung:   name of the rung
    what:   a person's name for the number
    metric: its relative difference between two runs, and its series
    """

    rung: str
    what: str
    metric: Metric


def judge_curve(c: Comparison, curve: Curve) -> RungResult:
    """Both curves at every step that was asked for: there, finite, and within the limit of it."""
    name_a, name_b = c.names
    rung, what, series = curve.rung, curve.what, curve.metric.series
    assert series is not None
    requested = max(c.a.requested_steps, c.b.requested_steps)
    left, right = series(c.a), series(c.b)
    beyond = sorted(i for i in left.keys() | right.keys() if i >= requested)
    total = requested + len(beyond)
    for name, values in ((name_a, left), (name_b, right)):
        there = {i for i, value in values.items() if value is not None}
        if len(there) < total:
            # Counted, not listed: a damaged case may ask for a thousand million steps.
            first = next(i for i in chain(range(requested), beyond) if i not in there)
            finding = Finding(f"step {first}: {name} has no {what}", first)
            text = (
                f"{name} has no {what} at {total - len(there)} of {total} steps, first at {first}"
            )
            if imported_runs(c):
                return _judge_logged(c, curve, left, right, text)
            return RungResult.failed(rung, text, findings=(finding,))
    steps = sorted(left)
    for name, record in ((name_a, c.a), (name_b, c.b)):
        if not record.complete:
            text = (
                f"{name} did not train just the {record.requested_steps} steps that were asked for"
            )
            return RungResult.failed(rung, text)
    x, y = ([v for i in steps if (v := s[i]) is not None] for s in (left, right))
    for name, numbers in ((name_a, x), (name_b, y)):
        broken = [i for i, v in enumerate(numbers) if not math.isfinite(v)]
        if broken:
            text = f"step {broken[0]}: {what} of {name} is {numbers[broken[0]]}"
            finding = Finding(text, broken[0], None, x[broken[0]], y[broken[0]])
            return RungResult.failed(rung, text, math.nan, findings=(finding,))
    return _judge(c, curve, x, y, curve_limits(c, curve, len(steps)))


def _judge_logged(
    c: Comparison, curve: Curve, left: Values, right: Values, lacking: str
) -> RungResult:
    """The first steps, as far as imported runs log both numbers: they can fail it, not pass it."""
    common = (i for i in count() if left.get(i) is None or right.get(i) is None)
    steps = next(common)
    if steps == 0:
        return RungResult.invalid(curve.rung, f"not proven: {lacking}")
    a, b = (first_steps(record, steps) for record in (c.a, c.b))
    result = judge_curve(dataclasses.replace(c, a=a, b=b), curve)
    if result.result is Result.FAIL:
        return result
    text = f"not proven: {lacking}; {result.explanation}"
    return RungResult.invalid(curve.rung, text, result.findings)


def curve_limits(c: Comparison, curve: Curve, steps: int) -> list[Limit]:
    """The limit at each step, as a relative difference.

    Differences of two runs build up step by step; so do those of equal runs, and the limit of a
    step comes from the largest difference of these up to it.
    """
    measured = [c.noise_by_step(curve.metric, p, steps) for p in (c.noise_floor, c.repeat)]
    if measured == [None, None]:
        return [c.limit_over(curve.metric)] * steps
    perturbed, repeated = (values or [None] * steps for values in measured)
    return [c.limit_over(curve.metric, p, r) for p, r in zip(perturbed, repeated, strict=True)]


def _judge(
    c: Comparison, curve: Curve, x: list[float], y: list[float], limits: list[Limit]
) -> RungResult:
    name_a, name_b = c.names
    rung, what = curve.rung, curve.what
    differences = [relative_difference(p, q) for p, q in zip(x, y, strict=True)]
    beyond = [i for i, d in enumerate(differences) if exceeds(d, limits[i].value)]
    worst_at = max(range(len(x)), key=lambda i: differences[i])
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
        return RungResult.failed(rung, text, differences[first], limits[first], tuple(findings))
    furthest_apart = differences[worst_at]
    blind = [i for i, limit in enumerate(limits) if limit.blind_to(furthest_apart)]
    if blind:
        text = f"from step {blind[0]} on the {what} is not judged: {limits[blind[0]].blind}"
        return RungResult.inconclusive(rung, text, differences[blind[0]], limits[blind[0]])
    equal = next((i for i, (p, q) in enumerate(zip(x, y, strict=True)) if p != q), len(x))
    same = (
        f"all {len(x)} steps are bitwise equal"
        if equal == len(x)
        else f"the first {equal} of {len(x)} steps are bitwise equal, max |Δ| {absolute:.2g} at "
        f"step {max(range(len(x)), key=lambda i: abs(x[i] - y[i]))}"
    )
    return RungResult.passed(
        rung, f"{what}: {same}", furthest_apart, limits[worst_at],
        detects=f"a relative difference of {max(li.value for li in limits):.2g}",
    )  # fmt: skip


def furthest(x: Rates, y: Rates) -> float:
    """The largest relative difference of two steps' rates."""
    return largest(relative_difference(p, q) for p, q in zip(x, y, strict=True))


def lagging(left: Sequence[Rates], right: Sequence[Rates], limit: float) -> int:
    """1 where `right` is `left` one step late, -1 where it is one step early, else 0.

    Both have a value for each of the same steps.
    """
    for lag in (1, -1):
        x, y = (left[:-1], right[1:]) if lag > 0 else (left[1:], right[:-1])
        pairs = zip(x, y, strict=True)
        if len(x) > 2 and all(not exceeds(furthest(p, q), limit) for p, q in pairs):
            return lag
    return 0
