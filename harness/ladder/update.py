"""Rungs of what is done with gradients: optimizer and schedule."""

from __future__ import annotations

import math
from typing import Any

from harness.ladder.comparison import (
    Comparison,
    by_name,
    exceeds,
    sketch_difference,
    sketch_norm,
    worst,
)
from harness.ladder.verdict import Finding, Result, RungResult
from harness.record import Parameter, Record

IMPLEMENTATION = frozenset({"foreach", "fused", "capturable", "differentiable"})
"""Hyper-parameters that choose how an update is computed, not what it is."""

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
        if not record.groups:
            return RungResult("optimizer", Result.INVALID, f"{name}: no optimizer was observed")
    findings = _compare_settings(c)
    if findings:
        text = findings[0].text + (f" (and {len(findings) - 1} more)" if findings[1:] else "")
        return RungResult(
            "optimizer", Result.FAIL, text, len(findings), 0, "equal or not", "", tuple(findings)
        )
    groups = tuple(len(record.groups[0][2]) for record in (c.a, c.b))
    kind = _class(c.a)
    settings = f"{kind}, every parameter with equal hyper-parameters"
    if groups[0] != groups[1]:
        settings += f" ({groups[0]} groups in {name_a}, {groups[1]} in {name_b})"
    if not updates:
        return RungResult(
            "optimizer", Result.PASS, f"{settings}; updates were not compared, as what they are "
            "made of differs", 0, 0, "equal or not", "any other hyper-parameter",
        )  # fmt: skip
    return _judge_updates(c, settings)


def _compare_settings(c: Comparison) -> list[Finding]:
    name_a, name_b = c.names
    findings = []
    if _class(c.a) != _class(c.b):
        text = f"{name_a} trains with {_class(c.a)}, {name_b} with {_class(c.b)}"
        findings.append(Finding(text, None, None, _class(c.a), _class(c.b)))
    left, right = by_name(c.a), by_name(c.b)
    differing: dict[tuple[str, str, str], list[str]] = {}
    for name in left.keys() & right.keys():
        x, y = _hyper(c.a, left[name]), _hyper(c.b, right[name])
        if (x is None) != (y is None):
            who = name_b if y is None else name_a
            findings.append(Finding(f"{name}: {who}'s optimizer does not hold it", None, name))
            continue
        for key in sorted({*(x or {}), *(y or {})} - IMPLEMENTATION):
            p, q = (x or {}).get(key, "nothing"), (y or {}).get(key, "nothing")
            if p != q:
                differing.setdefault((key, str(p), str(q)), []).append(name)
    for (key, p, q), names in sorted(differing.items()):
        which = _which(names, len(left))
        text = f"{key} of {which}: {p} in {name_a}, {q} in {name_b}"
        findings.append(Finding(text, None, names[0] if len(names) == 1 else None, p, q))
    later_a, later_b = _later_changes(c.a), _later_changes(c.b)
    if later_a != later_b:
        text = f"hyper-parameters change at steps {later_a or 'none'} in {name_a}, "
        findings.append(Finding(text + f"{later_b or 'none'} in {name_b}", a=later_a, b=later_b))
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


def _hyper(record: Record, parameter: Parameter) -> dict[str, Any] | None:
    if parameter.group is None:
        return None
    return record.groups[0][2][parameter.group].hyper


def _later_changes(record: Record) -> list[int]:
    return [step for step, _, _ in record.groups[1:]]


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
        for key, distance in sorted(distances.items(), key=lambda item: -_order(item[1]))
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
        f"any other hyper-parameter, or an update that is off by {limit.value:.2g}",
    )  # fmt: skip


def _order(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _sketch_of_updates(parameter: Parameter) -> tuple[float, ...] | None:
    """Sketch of what the first two steps did to a parameter."""
    if parameter.initial is None or len(parameter.after) < 2:
        return None
    return sketch_difference(parameter.after[1], parameter.initial)


def update_distances(a: Record, b: Record) -> dict[str, float] | None:
    """Estimate, by parameter, of |update_a - update_b| / |update| over the first two steps.

    Parameters that neither run moved are left out; one that only one run moved is infinitely far.
    None where an update was not observed.
    """
    left, right = by_name(a), by_name(b)
    if not left or left.keys() != right.keys():
        return None
    distances = {}
    for name in left:
        x, y = _sketch_of_updates(left[name]), _sketch_of_updates(right[name])
        if x is None or y is None:
            return None
        norms = sketch_norm(x), sketch_norm(y)
        if norms == (0.0, 0.0):
            continue
        difference = sketch_norm(tuple(p - q for p, q in zip(x, y, strict=True)))
        distances[name] = math.inf if 0.0 in norms else difference / max(norms)
    return distances


def worst_update_distance(a: Record, b: Record) -> float | None:
    """The largest of `update_distances`."""
    distances = update_distances(a, b)
    return worst(distances)[1] if distances else None


def _update_norms(c: Comparison, name: str) -> tuple[float | None, float | None]:
    sketches = [_sketch_of_updates(by_name(record)[name]) for record in (c.a, c.b)]
    first, second = (None if s is None else sketch_norm(s) for s in sketches)
    return first, second


def _update_text(c: Comparison, name: str, distance: float) -> str:
    x, y = _update_norms(c, name)
    return (
        f"{name}: by about {x:.3g} in {c.a.label}, {y:.3g} in {c.b.label}, relative distance "
        f"{distance:.2g}"
    )


def schedule(c: Comparison) -> RungResult:
    """The learning rate that each step really used."""
    name_a, name_b = c.names
    left, right = rates(c.a), rates(c.b)
    for name, series in ((name_a, left), (name_b, right)):
        if not series or any(r is None for r in series):
            text = f"{name}: a learning rate was not observed"
            return RungResult("schedule", Result.INVALID, text)
    common = list(zip(left, right, strict=False))
    differences = [_relative(x, y) for x, y in common]
    findings = tuple(
        Finding(f"step {i}: {name_a} used {_rate(x)}, {name_b} {_rate(y)}", i, None, x, y)
        for i, (x, y) in enumerate(common)
        if exceeds(differences[i], RATE_LIMIT)
    )
    if findings:
        lag = lagging(left, right, RATE_LIMIT)
        text = findings[0].text
        if lag:
            late = name_b if lag > 0 else name_a
            text = f"a lag of one step: {late} uses the rate of the step before; {text}"
        elif len(findings) > 1:
            ratios = {round(y[0] / x[0], 9) for x, y in common if x and y and x[0]}
            constant = f", always {ratios.pop():g} times as much" if len(ratios) == 1 else ""
            text += f"{constant} ({len(findings)} of {len(common)} steps differ)"
        value = max(differences, key=_order)
        return RungResult(
            "schedule", Result.FAIL, text, value, RATE_LIMIT, "rounding of Python floats", "",
            findings,
        )  # fmt: skip
    peak = max(max(r) for r in left if r)
    if peak == 0:
        return RungResult("schedule", Result.NOT_EXERCISED, "every learning rate is zero")
    return RungResult(
        "schedule", Result.PASS, f"{len(common)} learning rates agree (peak {peak:g})",
        max(differences, key=_order), RATE_LIMIT, "rounding of Python floats",
        f"a relative difference of {RATE_LIMIT:g}",
    )  # fmt: skip


def rates(record: Record) -> list[tuple[float, ...]]:
    """The distinct learning rates of each step's groups."""
    return [tuple(sorted(set(step.learning_rates))) for step in record.steps]


def _rate(rate: tuple[float, ...]) -> str:
    return " and ".join(f"{r:.6g}" for r in rate) or "none"


def _relative(x: tuple[float, ...], y: tuple[float, ...]) -> float:
    if not x or len(x) != len(y):
        return math.inf
    return max(
        0.0 if p == q else abs(p - q) / max(abs(p), abs(q)) for p, q in zip(x, y, strict=True)
    )


def lagging(left: list[tuple[float, ...]], right: list[tuple[float, ...]], limit: float) -> int:
    """1 where `right` is `left` one step late, -1 where it is one step early, else 0."""
    for lag in (1, -1):
        x, y = (left[:-1], right[1:]) if lag > 0 else (left[1:], right[:-1])
        if len(x) > 2 and all(not exceeds(_relative(p, q), limit) for p, q in zip(x, y)):
            return lag
    return 0
