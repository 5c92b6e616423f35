"""Rungs of what is done with gradients: optimizer and schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness.ladder.comparison import (
    SKETCH_CERTAINTY,
    Comparison,
    by_name,
    exceeds,
    largest,
    nan_last,
    relative_difference,
    sketch_difference,
    sketch_norm,
    worst,
)
from harness.ladder.verdict import Finding, Result, RungResult
from harness.record import Parameter, Record, encode

IMPLEMENTATION = frozenset({"foreach", "fused", "capturable", "differentiable"})
"""Hyper-parameters that choose how an update is computed, not what it is."""

NAN = "nan"
"""As `harness.record.encode` writes it: equal to itself, and yet never equal."""

RATE_LIMIT = 1e-9
"""Relative difference of learning rates, which are Python floats: far above their rounding (1e-16)
and far below any difference of two schedules."""


def optimizer(c: Comparison, updates: bool = True) -> RungResult:
    """Class, hyper-parameters of every parameter, and the first updates.

    `updates` is False where a rung above says that the updates have to differ anyway; the
    hyper-parameters are still judged.
    """
    name_a, name_b = c.names
    for name, record in zip(c.names, (c.a, c.b), strict=True):
        unknown = _unobserved(record)
        if unknown is not None:
            return RungResult("optimizer", Result.INVALID, f"{name}: {unknown} was not observed")
    findings = _compare_settings(c)
    if findings:
        text = findings[0].text + (f" (and {len(findings) - 1} more)" if findings[1:] else "")
        return RungResult(
            "optimizer", Result.FAIL, text, len(findings), 0, "equal or not", "", tuple(findings)
        )
    groups = tuple(len(record.groups[0][2]) for record in (c.a, c.b))
    settings = f"{_class(c.a)}, every parameter with equal hyper-parameters"
    if groups[0] != groups[1]:
        settings += f" ({groups[0]} groups in {name_a}, {groups[1]} in {name_b})"
    if not updates:
        return RungResult(
            "optimizer", Result.PASS, f"{settings}; updates were not compared, as what they are "
            "made of differs", 0, 0, "equal or not", "any other hyper-parameter",
        )  # fmt: skip
    return _judge_updates(c, settings)


def _unobserved(record: Record) -> str | None:
    """The first thing about an optimizer that is not known: unknown and unknown are not equal."""
    if not record.groups or record.groups[0][0] != 0:
        return "the optimizer of step 0"
    held = [p for p in record.parameters if p.group is not None]
    if not held:
        return "any parameter that the optimizer holds"
    for parameter in held:
        for step, _, groups in record.groups:
            group = groups[parameter.group] if parameter.group < len(groups) else None
            if group is None or not group.hyper:
                return f"what the optimizer does with {parameter.name} at step {step}"
    return None


def _compare_settings(c: Comparison) -> list[Finding]:
    name_a, name_b = c.names
    findings = []
    if _class(c.a) != _class(c.b):
        text = f"{name_a} trains with {_class(c.a)}, {name_b} with {_class(c.b)}"
        findings.append(Finding(text, None, None, _class(c.a), _class(c.b)))
    left, right = by_name(c.a), by_name(c.b)
    both = [name for name in left if name in right]
    for name in both:
        x, y = left[name].group, right[name].group
        if (x is None) != (y is None):
            who = name_a if x is None else name_b
            findings.append(Finding(f"{name}: {who}'s optimizer does not hold it", None, name))
    for step in sorted({step for record in (c.a, c.b) for step, _, _ in record.groups}):
        differing: dict[tuple[str, str, str], list[str]] = {}
        for name in both:
            x, y = _hyper(c.a, left[name], step), _hyper(c.b, right[name], step)
            if x is None or y is None:
                continue
            for key in sorted({*x, *y} - IMPLEMENTATION):
                p, q = x.get(key, "nothing"), y.get(key, "nothing")
                if p != q or encode(p) == NAN:
                    differing.setdefault((key, str(p), str(q)), []).append(name)
        for (key, p, q), names in sorted(differing.items()):
            text = f"step {step}: {key} of {_which(names, len(left))}: {p} in {name_a}, {q} in "
            only = names[0] if len(names) == 1 else None
            findings.append(Finding(text + name_b, step, only, p, q))
    return findings


def _which(names: list[str], total: int) -> str:
    """A person's name for a set of parameters."""
    if len(names) == total:
        return "every parameter"
    if all("norm" in name for name in names):
        return f"the {len(names)} norm weights"
    return names[0] if len(names) == 1 else f"{len(names)} parameters ({names[0]}, …)"


def _class(record: Record) -> str:
    return record.groups[0][1].rsplit(".", 1)[-1]


def _hyper(record: Record, parameter: Parameter, step: int) -> dict[str, Any] | None:
    """A parameter's hyper-parameters at a step: they are told where they change."""
    if parameter.group is None:
        return None
    told = [groups for since, _, groups in record.groups if since <= step]
    return told[-1][parameter.group].hyper


def _judge_updates(c: Comparison, settings: str) -> RungResult:
    limit = c.limit("update", worst_update_distance)
    distances = update_distances(c.a, c.b)
    if distances is None:
        return RungResult(
            "optimizer", Result.INVALID, f"{settings}, but an update was not observed"
        )
    if not distances:
        return RungResult(
            "optimizer", Result.NOT_EXERCISED,
            f"{settings}, but no parameter moved in the first two steps of either run",
        )  # fmt: skip
    name, value = worst(distances)
    findings = tuple(
        Finding(_update_text(c, key, distance), None, key, *_update_norms(c, key))
        for key, distance in sorted(distances.items(), key=lambda item: -nan_last(item[1]))
        if exceeds(distance, limit.value)
    )
    if findings:
        text = f"{settings}, but {len(findings)} parameters were updated otherwise; most: "
        return RungResult(
            "optimizer", Result.FAIL, text + findings[0].text, value, limit.value, limit.source,
            "", findings,
        )  # fmt: skip
    return RungResult(
        "optimizer", Result.PASS, f"{settings}; first updates agree, furthest apart: {name}, "
        f"{value:.2g}", value, limit.value, limit.source,
        "any other hyper-parameter, or an update that is off by "
        f"{SKETCH_CERTAINTY * limit.value:.2g}",
    )  # fmt: skip


def _sketches_of_updates(parameter: Parameter) -> list[tuple[float, ...]] | None:
    """Sketches of what the first step, and the first two, did to a parameter."""
    if parameter.initial is None or len(parameter.after) < 2:
        return None
    return [sketch_difference(after, parameter.initial) for after in parameter.after[:2]]


def update_distances(a: Record, b: Record) -> dict[str, float] | None:
    """Estimate, by parameter, of |update_a - update_b| / |update|.

    The larger one of the update of the first step and that of the first two: where a warm-up
    starts from zero, the first is none. Parameters that neither run moved are left out; one that
    only one run moved is infinitely far. None where an update was not observed.
    """
    left, right = by_name(a), by_name(b)
    if not left or left.keys() != right.keys():
        return None
    distances: dict[str, float] = {}
    for name in left:
        updates = _sketches_of_updates(left[name]), _sketches_of_updates(right[name])
        if updates[0] is None or updates[1] is None:
            return None
        for x, y in zip(*updates, strict=True):
            norms = sketch_norm(x), sketch_norm(y)
            if norms != (0.0, 0.0):
                distance = _update_distance(x, y) if 0.0 not in norms else math.inf
                distances[name] = largest([distance, distances.get(name, 0.0)])
    return distances


def _update_distance(x: tuple[float, ...], y: tuple[float, ...]) -> float:
    if len(x) != len(y):
        return math.nan
    difference = sketch_norm(tuple(p - q for p, q in zip(x, y, strict=True)))
    return difference / max(sketch_norm(x), sketch_norm(y))


def worst_update_distance(a: Record, b: Record) -> float | None:
    """The largest of `update_distances`."""
    distances = update_distances(a, b)
    return worst(distances)[1] if distances else None


def _update_norms(c: Comparison, name: str) -> tuple[float | None, float | None]:
    updates = [_sketches_of_updates(by_name(record)[name]) for record in (c.a, c.b)]
    first, second = (None if u is None else sketch_norm(u[1]) for u in updates)
    return first, second


def _update_text(c: Comparison, name: str, distance: float) -> str:
    x, y = _update_norms(c, name)
    return (
        f"{name}: by about {x:.3g} in {c.a.label}, {y:.3g} in {c.b.label}, relative distance "
        f"{distance:.2g}"
    )


def schedule(c: Comparison) -> RungResult:
    """The learning rate that each step really used, for every parameter."""
    name_a, name_b = c.names
    left, right = _rates(c)
    if not left:
        return RungResult("schedule", Result.INVALID, "no step and parameter is in both runs")
    for name, series in ((name_a, left), (name_b, right)):
        for step, rates in series.items():
            if not rates or None in rates:
                text = f"{name}: a learning rate of step {step} was not observed"
                return RungResult("schedule", Result.INVALID, text)
    differences = {step: _furthest(left[step], right[step]) for step in left}
    findings = tuple(
        Finding(f"step {i}: {name_a} used {_rate(left[i])}, {name_b} {_rate(right[i])}", i, None,
                left[i], right[i])
        for i, difference in differences.items()
        if exceeds(difference, RATE_LIMIT)
    )  # fmt: skip
    if findings:
        return RungResult(
            "schedule", Result.FAIL, _explain(c, findings, left, right),
            largest(differences.values()), RATE_LIMIT, "rounding of Python floats", "", findings,
        )  # fmt: skip
    for name, record in zip(c.names, (c.a, c.b), strict=True):
        if missing := record.missing_steps:
            text = f"{len(left)} learning rates agree, but {name} has no step {missing[0]}"
            return RungResult("schedule", Result.INVALID, text)
    peak = max(rate or 0.0 for rates in left.values() for rate in rates)
    if peak == 0:
        return RungResult("schedule", Result.NOT_EXERCISED, "every learning rate is zero")
    return RungResult(
        "schedule", Result.PASS, f"{len(left)} learning rates agree (peak {peak:g})",
        largest(differences.values()), RATE_LIMIT, "rounding of Python floats",
        f"a relative difference of {RATE_LIMIT:g}",
    )  # fmt: skip


Rates = tuple[float | None, ...]
"""Learning rates of one step; None for one that was not observed."""


def _rates(c: Comparison) -> tuple[dict[int, Rates], dict[int, Rates]]:
    """The rates that both runs used, by step, in the same order.

    One rate stands for all parameters that share a group in both runs: groups need not be cut
    alike, and the same rates given to other parameters are not the same rates.
    """
    left, right = by_name(c.a), by_name(c.b)
    groups = sorted(
        {
            (x, y)
            for name in left.keys() & right.keys()
            if (x := left[name].group) is not None and (y := right[name].group) is not None
        }
    )
    steps = [{s.index: s.learning_rates for s in r.steps if s.finished} for r in (c.a, c.b)]
    common = sorted(steps[0].keys() & steps[1].keys()) if groups else []
    first, second = (
        {
            step: tuple(
                rates[step][pair[side]] if pair[side] < len(rates[step]) else None
                for pair in groups
            )
            for step in common
        }
        for side, rates in enumerate(steps)
    )
    return first, second


def _furthest(x: Rates, y: Rates) -> float:
    return largest(relative_difference(p, q) for p, q in zip(x, y, strict=True))


def _rate(rates: Rates) -> str:
    return " and ".join(f"{rate:.6g}" for rate in dict.fromkeys(rates) if rate is not None)


def _explain(
    c: Comparison, findings: tuple[Finding, ...], left: dict[int, Rates], right: dict[int, Rates]
) -> str:
    """What kind of difference it is: a lag, a factor, or the first step that differs."""
    text = findings[0].text
    lag = lagging(list(left.values()), list(right.values()), RATE_LIMIT)
    if lag:
        late = c.names[1] if lag > 0 else c.names[0]
        return f"a lag of one step: {late} uses the rate of the step before; {text}"
    if len(findings) == 1:
        return text
    pairs = [(x, y) for i in left for x, y in zip(left[i], right[i], strict=True) if x and y]
    ratios = [y / x for x, y in pairs]
    constant = ""
    if ratios and max(ratios) - min(ratios) <= RATE_LIMIT * max(map(abs, ratios)):
        constant = f", always {ratios[0]:g} times as much"
    return f"{text}{constant} ({len(findings)} of {len(left)} steps differ)"


def lagging(left: Sequence[Rates], right: Sequence[Rates], limit: float) -> int:
    """1 where `right` is `left` one step late, -1 where it is one step early, else 0.

    Both have a value for each of the same steps.
    """
    for lag in (1, -1):
        x, y = (left[:-1], right[1:]) if lag > 0 else (left[1:], right[:-1])
        pairs = zip(x, y, strict=True)
        if len(x) > 2 and all(not exceeds(_furthest(p, q), limit) for p, q in pairs):
            return lag
    return 0
