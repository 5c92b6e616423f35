"""Rungs of step 0, where nothing has been updated yet: forward and backward."""

from __future__ import annotations

import math

from harness.ladder.comparison import (
    SKETCH_CERTAINTY,
    Comparison,
    by_name,
    exceeds,
    largest,
    nan_last,
    relative_difference,
    relative_distance,
    worst,
)
from harness.ladder.verdict import Finding, Result, RungResult
from harness.record.files import Record


def forward(c: Comparison) -> RungResult:
    """The loss of step 0, at full precision."""
    limit = c.limit("loss", first_loss_distance)
    if c.own:
        return _forward_each(c)
    name_a, name_b = c.names
    x, y = first_loss(c.a), first_loss(c.b)
    if x is None or y is None:
        missing = name_a if x is None else name_b
        return RungResult("forward", Result.INVALID, f"{missing}: no loss was observed at step 0")
    if x == 0 and y == 0:
        text = "both losses of step 0 are exactly 0: nothing was predicted"
        return RungResult("forward", Result.INVALID, text)
    value = first_loss_distance(c.a, c.b)
    finding = Finding(f"loss of step 0: {name_a} {x:.9g}, {name_b} {y:.9g}", 0, None, x, y)
    if exceeds(value, limit.value):
        ratio = y / x if x else math.nan
        hint = _normalisation(c.a, x / y if y else math.nan) or _normalisation(c.b, ratio)
        text = f"step 0: loss {x:.7g} in {name_a}, {y:.7g} in {name_b} (ratio {ratio:.6g}){hint}"
        return RungResult(
            "forward", Result.FAIL, text, value, limit.value, limit.source, "", (finding,)
        )
    same = "are bitwise equal" if x == y else f"differ by {value:.2g} of their size"
    return RungResult(
        "forward", Result.PASS, f"the losses of step 0 {same} ({x:.7g})", value, limit.value,
        limit.source, f"a relative difference of {limit.value:.2g}", (finding,),
    )  # fmt: skip


def first_loss(record: Record) -> float | None:
    """The loss of step 0."""
    return record.steps[0].loss if record.steps and record.steps[0].index == 0 else None


def first_loss_distance(a: Record, b: Record) -> float | None:
    """Relative difference of the losses of step 0."""
    x, y = first_loss(a), first_loss(b)
    return None if x is None or y is None else relative_difference(x, y)


def _normalisation(record: Record, ratio: float) -> str:
    """A cause that explains this ratio to the mean over the labels that are predicted."""
    targets = sum(b.targets for b in record.steps[0].batches)
    first = sum(b.first_targets for b in record.steps[0].batches)
    if first and targets and abs(ratio * (targets + first) / targets - 1) < 1e-3:
        length = record.steps[0].batches[0].shape[-1]
        return (
            f": {record.label} divides by all {targets + first} labels, also the first of each "
            f"row, which is never predicted, instead of {targets}"
            f" ((S-1)/S with S = {length} where every label counts)"
        )
    return ""


def _forward_each(c: Comparison) -> RungResult:
    """Each run against float64 from its own weights and batch, where these differ by themselves."""
    ratios, findings, hints = [], [], []
    for record in (c.a, c.b):
        own = c.own.get(str(record.directory))
        x, exact = first_loss(record), None if own is None else first_loss(own)
        if x is None or exact is None or exact == 0:
            return RungResult(
                "forward", Result.INVALID, f"{record.label}: no loss at step 0, or none in float64"
            )
        ratios.append(x / exact)
        hints.append(_normalisation(record, x / exact))
        findings.append(
            Finding(f"{record.label}: loss {x:.7g}, {x / exact:.6f} × the float64 loss {exact:.7g} "
                    f"of its own weights and batch{hints[-1]}", 0, None, x, exact)
        )  # fmt: skip
    limit = c.limit("loss", first_loss_distance)
    deviations = [abs(r - 1) for r in ratios]
    value = largest(deviations)
    if exceeds(value, limit.value):
        worst_at = deviations.index(value)
        return RungResult(
            "forward", Result.FAIL, f"step 0: {findings[worst_at].text}", value, limit.value,
            limit.source, "", tuple(findings),
        )  # fmt: skip
    return RungResult(
        "forward", Result.PASS,
        "each loss of step 0 is that of float64 from its own weights and batch", value,
        limit.value, limit.source, f"a relative difference of {limit.value:.2g}", tuple(findings),
    )  # fmt: skip


def backward(c: Comparison) -> RungResult:
    """The gradient of every parameter at step 0, before clipping."""
    pairs = [(c.a, c.b)]
    if c.own:
        own = [(r, c.own.get(str(r.directory))) for r in (c.a, c.b)]
        pairs = [(r, exact) for r, exact in own if exact is not None]
        if len(pairs) < 2:
            return RungResult("backward", Result.INVALID, "a run in float64 is missing")
    findings: list[Finding] = []
    limit = c.limit("gradient", worst_gradient_distance)
    values = []
    for x, y in pairs:
        distances = gradient_distances(x, y)
        if distances is None:
            text = "the runs do not have the same parameters, or a gradient was not observed"
            return RungResult("backward", Result.INVALID, text)
        name, value = worst(distances)
        values.append((name, value, x, y))
        for parameter, distance in distances.items():
            if exceeds(distance, limit.value):
                p, q = by_name(x)[parameter].gradient, by_name(y)[parameter].gradient
                norms = [None if g is None else g.norm for g in (p, q)]
                text = f"{parameter}: gradients of norm {shown(norms[0])} in {x.label}, "
                text += f"{shown(norms[1])} in {y.label}, relative distance {distance:.2g}"
                findings.append(Finding(text, 0, parameter, norms[0], norms[1]))
    name, value, x, y = max(values, key=lambda v: nan_last(v[1]))
    if findings:
        ratio = _common_ratio(x, y)
        common = "" if ratio is None else f"; all gradients have the ratio {ratio:.6g}"
        text = f"step 0: {len(findings)} gradients differ, most that of {name}: relative "
        text += f"distance {value:.2g} between {x.label} and {y.label}{common}"
        return RungResult(
            "backward", Result.FAIL, text, value, limit.value, limit.source, "", tuple(findings)
        )
    count = len(by_name(c.a))
    return RungResult(
        "backward", Result.PASS,
        f"{count} gradients of step 0 agree; furthest apart: {name}, {value:.2g}",
        value, limit.value, limit.source,
        f"a change of {SKETCH_CERTAINTY * limit.value:.2g} of one parameter's gradient",
    )  # fmt: skip


def shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def gradient_distances(a: Record, b: Record) -> dict[str, float] | None:
    """Relative distance of every parameter's gradient; infinite where only one has a gradient.

    Parameters that no optimizer holds need none. None where parameters or gradients are missing,
    and where all gradients are zero, which says nothing.
    """
    left, right = by_name(a), by_name(b)
    if not left or left.keys() != right.keys():
        return None
    distances = {}
    for name in left:
        x, y = left[name].gradient, right[name].gradient
        if x is not None and y is not None:
            distances[name] = relative_distance(x, y)
        elif x is not y:
            distances[name] = math.inf
        elif left[name].group is not None or right[name].group is not None:
            return None
    return None if not (gradient_norm(a) and gradient_norm(b)) else distances


def gradient_norm(record: Record) -> float | None:
    """L2 norm of all gradients of step 0 before clipping, from fp32 sums."""
    norms = [p.gradient.norm for p in record.parameters if p.gradient is not None]
    return math.sqrt(math.fsum(n * n for n in norms)) if norms else None


def worst_gradient_distance(a: Record, b: Record) -> float | None:
    """The largest of `gradient_distances`."""
    distances = gradient_distances(a, b)
    return None if distances is None else worst(distances)[1]


def _common_ratio(a: Record, b: Record) -> float | None:
    """The ratio of gradient norms, b over a, where it is the same for every parameter."""
    left, right = by_name(a), by_name(b)
    ratios = [
        q.norm / p.norm
        for name in left
        if (p := left[name].gradient) and (q := right[name].gradient) and p.norm > 0
    ]
    if not ratios or not all(map(math.isfinite, ratios)) or min(ratios) <= 0:
        return None
    return ratios[0] if max(ratios) / min(ratios) < 1 + 1e-3 else None
