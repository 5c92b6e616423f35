"""The rung of the gradients of step 0, before clipping."""

from __future__ import annotations

import math

from harness.ladder.comparison import Comparison
from harness.ladder.distances import (
    by_name,
    detected,
    exceeds,
    nan_last,
    relative_distance,
    worst,
)
from harness.ladder.loss import divided
from harness.ladder.metric import UNRELATED, Floor, Metric
from harness.ladder.result import Finding, RungResult
from harness.ladder.rung import Rung
from harness.ladder.rungs.forward import VALUES
from harness.record.evidence import Record


def backward(c: Comparison) -> RungResult:
    """The gradient of every parameter at step 0, before clipping."""
    pairs = [(c.a, c.b)]
    if c.judges_per_run(*VALUES):
        own = [(r, c.float64_per_run.get(str(r.directory))) for r in (c.a, c.b)]
        pairs = [(r, exact) for r, exact in own if exact is not None]
        if len(pairs) < 2:
            return RungResult.invalid("backward", "a run in float64 is missing")
    findings: list[Finding] = []
    limit = c.limit(GRADIENT)
    values = []
    for x, y in pairs:
        distances = gradient_distances(x, y)
        if distances is None:
            text = "the runs do not have the same parameters, or a gradient was not observed"
            return RungResult.invalid("backward", text)
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
    if wrong := c.changed(divided):
        calls = "; ".join(finding.text for finding in wrong)
        text = f"step 0: {calls}: its gradients are not those of the loss"
        findings.insert(0, Finding(text, 0))
        return RungResult.failed("backward", text, value, limit, tuple(findings))
    if findings:
        ratio = _common_ratio(x, y)
        common = "" if ratio is None else f"; all gradients have the ratio {ratio:.6g}"
        text = f"step 0: {len(findings)} gradients differ, most that of {name}: relative "
        text += f"distance {value:.2g} between {x.label} and {y.label}{common}"
        return RungResult.failed("backward", text, value, limit, tuple(findings))
    count = len(by_name(c.a))
    alike = "".join(f"; {finding.text}" for finding in c.of_each(divided))
    text = f"{count} gradients of step 0 agree; furthest apart: {name}, {value:.2g}{alike}"
    return RungResult.passed(
        "backward", text, value, limit,
        detects=detected(limit.value, "gradient"),
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


GRADIENT = Metric(
    name="gradient",
    what="worst parameter's gradient at step 0",
    distance=worst_gradient_distance,
    unrelated=UNRELATED,
    by_float64=True,
    floors=(
        Floor("CPU", "float32", "", 2e-6, "measured: hf against torchprime 9.4e-7, and 2.1e-6 "
              "with four layers of Llama 4, of which float64 is 1.9e-6 and 2.2e-6 away; perturbed "
              "weights 1.5e-6"),
        Floor("CPU", "bfloat16", "", 3e-2, "measured: hf against torchprime 2.3e-2, perturbed "
              "weights 6.1e-2"),
    ),
)  # fmt: skip

RUNG = Rung(
    name="backward",
    what="gradient of every parameter at step 0",
    judge=backward,
    needs=(*VALUES, "forward"),
    follows=("environment", "sharding"),
    metrics=(GRADIENT,),
    compares="gradient",
    noisy=1e-2,  # in float32 the limit is 2e-6, in bfloat16 6e-2 and more
    float64_per_run=VALUES,
)
