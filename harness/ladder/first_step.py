"""Rungs of step 0, where nothing has been updated yet: forward, backward, clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.ladder.comparison import (
    SKETCH_CERTAINTY,
    Comparison,
    Limit,
    by_name,
    exceeds,
    largest,
    nan_last,
    relative_difference,
    relative_distance,
    worst,
)
from harness.ladder.verdict import Finding, Result, RungResult
from harness.record import Record

TOTAL_NORM_EPSILON = 1e-6
"""`clip_grad_norm_` scales by max_norm / (norm + 1e-6), at most by 1 (torch.nn.utils)."""


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
    same = "bitwise equal" if x == y else f"relative difference {value:.2g}"
    return RungResult(
        "forward", Result.PASS, f"loss of step 0 is {same} ({x:.7g})", value, limit.value,
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
    if not record.steps or not record.steps[0].batches or not math.isfinite(ratio):
        return ""
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
                text = f"{parameter}: gradients of norm {_number(norms[0])} in {x.label}, "
                text += f"{_number(norms[1])} in {y.label}, relative distance {distance:.2g}"
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


def _number(value: float | None) -> str:
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


def clip(c: Comparison) -> RungResult:
    """Threshold, measured norm, and the scale that was really applied to the gradients."""
    sides = [_clipping(c.a), _clipping(c.b)]
    for record, side in zip((c.a, c.b), sides, strict=True):
        if side is None:
            text = f"{record.label}: no gradient of step 0 was observed"
            return RungResult("clip", Result.INVALID, text)
    x, y = sides
    assert x is not None
    assert y is not None
    limit = c.limit("scale", scale_distance)
    value = scale_distance(c.a, c.b)
    told = f"{c.a.label} {x.told()}; {c.b.label} {y.told()}"
    findings = (Finding(f"step 0: {told}", 0, None, x.scale, y.scale),)

    def fail(text: str, at_fault: float | None, most: Limit) -> RungResult:
        return RungResult(
            "clip", Result.FAIL, text, at_fault, most.value, most.source, "", findings
        )

    if x.threshold != y.threshold:
        without = [n for n, side in zip(c.names, (x, y), strict=True) if side.threshold is None]
        cause = f"{without[0]} does not clip" if without else "the thresholds differ"
        return fail(f"step 0: {told}: {cause}", value, limit)
    other = _other_threshold(c)
    if other is not None:
        return fail(other, None, limit)
    accuracy, each = c.limit_over("measured_norm", None), c.limit_over("parameter_scale", None)
    for name, side in zip(c.names, (x, y), strict=True):
        if side.threshold is not None and exceeds(side.measuring_error(), accuracy.value):
            text = f"step 0: {name} measured a gradient norm of {_number(side.measured)}, but the "
            text += f"gradients' norm is {side.norm:.6g}"
            return fail(text, side.measuring_error(), accuracy)
        if exceeds(side.scaling_error(), limit.value):
            text = f"step 0: {told}: {name} ought to have scaled by {side.wanted():.6g}"
            return fail(text, side.scaling_error(), limit)
        if exceeds(side.unevenness, each.value):
            text = f"step 0: {name} did not scale all gradients alike: {side.odd_one} by "
            return fail(
                f"{text}{side.odd_scale:.6g}, all by {side.scale:.6g}", side.unevenness, each
            )
    if not c.own and exceeds(value, limit.value):
        return fail(f"step 0: {told}", value, limit)
    if x.threshold is None:
        return RungResult("clip", Result.NOT_EXERCISED, "neither run clips, as the case asks")
    above = sum((s.gradient_norm or 0) > (s.max_norm or math.inf) for s in c.a.steps)
    if max(x.norm, y.norm) <= x.threshold:
        return RungResult(
            "clip", Result.NOT_EXERCISED,
            f"the gradient norm of step 0 ({x.norm:.4g}) is within the maximum {x.threshold:g}, "
            f"so that no scaling could be seen ({above} later steps are above it)",
        )  # fmt: skip
    return RungResult(
        "clip", Result.PASS,
        f"step 0: {told}; {above} of {len(c.a.steps)} steps are above the maximum", value,
        limit.value, limit.source, f"a scale that is off by {limit.value:.2g}", findings,
    )  # fmt: skip


@dataclass(frozen=True)
class _Clipping:
    """What one run did to its gradients at step 0.

    threshold: what `clip_grad_norm_` was called with; None where it was not called
    measured:  the norm that it returned
    norm:      the norm before clipping, from fp32 sums
    scale:     norm of the gradients that the optimizer saw, over `norm`
    odd_one:   the parameter whose own scale is furthest from that
    odd_scale: its scale
    """

    threshold: float | None
    measured: float | None
    norm: float
    scale: float
    odd_one: str
    odd_scale: float

    @property
    def unevenness(self) -> float:
        """Relative difference of the odd one's scale."""
        return abs(self.odd_scale / self.scale - 1) if self.scale > 0 else math.nan

    def wanted(self) -> float:
        """The scale that the threshold and the run's own measurement ask for."""
        if self.threshold is None or self.measured is None:
            return 1.0
        return min(1.0, self.threshold / (self.measured + TOTAL_NORM_EPSILON))

    def scaling_error(self) -> float:
        """Relative difference of the applied and the wanted scale."""
        return abs(self.scale / self.wanted() - 1) if self.wanted() > 0 else math.nan

    def measuring_error(self) -> float | None:
        """Relative difference of the measured norm from the norm; bfloat16 sums cost percents."""
        return None if self.measured is None else abs(self.measured / self.norm - 1)

    def told(self) -> str:
        """In words."""
        return (
            f"scaled its gradients by {self.scale:.6g} (norm {self.norm:.6g}, "
            f"{_maximum(self.threshold)})"
        )


def _clipping(record: Record) -> _Clipping | None:
    norm, scale = gradient_norm(record), applied_scale(record)
    if not record.steps or record.steps[0].index != 0 or not norm or scale is None:
        return None
    scales = {
        p.name: p.clipped_norm / p.gradient.norm if p.gradient.norm else math.inf
        for p in record.parameters
        if p.gradient is not None and p.clipped_norm is not None
        if p.gradient.norm != 0 or p.clipped_norm != 0
    }
    odd_one, _ = worst({name: abs(s - scale) for name, s in scales.items()})
    first = record.steps[0]
    return _Clipping(first.max_norm, first.gradient_norm, norm, scale, odd_one, scales[odd_one])


def _other_threshold(c: Comparison) -> str | None:
    """The first step at which a run clips otherwise than the other, or than the case asks."""
    left, right = ({s.index: s.max_norm for s in r.steps if s.finished} for r in (c.a, c.b))
    for step in sorted(left.keys() & right.keys()):
        if left[step] != right[step]:
            return (
                f"step {step}: {c.a.label} clips to {_maximum(left[step])}, {c.b.label} to "
                f"{_maximum(right[step])}"
            )
    for record, thresholds in ((c.a, left), (c.b, right)):
        asked = record.manifest["case"]["max_norm"]
        for step, threshold in sorted(thresholds.items()):
            if threshold != asked:
                return (
                    f"step {step}: {record.label} clips to {_maximum(threshold)}, but the case "
                    f"asks for {_maximum(asked)}"
                )
    return None


def _maximum(threshold: float | None) -> str:
    return "no maximum" if threshold is None else f"max {threshold:g}"


def gradient_norm(record: Record) -> float | None:
    """L2 norm of all gradients of step 0 before clipping, from fp32 sums."""
    norms = [p.gradient.norm for p in record.parameters if p.gradient is not None]
    return math.sqrt(math.fsum(n * n for n in norms)) if norms else None


def applied_scale(record: Record) -> float | None:
    """Norm of the gradients that the optimizer saw at step 0, over the norm before clipping."""
    before = gradient_norm(record)
    after = [p.clipped_norm for p in record.parameters if p.gradient is not None]
    if not before or any(n is None for n in after):
        return None
    return math.sqrt(math.fsum(n * n for n in after if n is not None)) / before


def scale_distance(a: Record, b: Record) -> float | None:
    """Relative difference of the scales that were applied at step 0."""
    x, y = applied_scale(a), applied_scale(b)
    if x is None or y is None:
        return None
    return abs(x - y) / max(x, y) if max(x, y) > 0 else 0.0
