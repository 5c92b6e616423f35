"""The rung of gradient clipping: what was asked, what was measured, and what was really done."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.ladder.comparison import Comparison
from harness.ladder.distances import exceeds, relative_difference, worst
from harness.ladder.metric import Floor, Metric
from harness.ladder.result import Finding, Limit, RungResult
from harness.ladder.rung import Rung
from harness.ladder.rungs.backward import gradient_norm, shown
from harness.record.evidence import Record

TOTAL_NORM_EPSILON = 1e-6
"""`clip_grad_norm_` scales by max_norm / (norm + 1e-6), at most by 1 (torch.nn.utils)."""


def clip(c: Comparison) -> RungResult:
    """Threshold, measured norm, and the scale that was really applied to the gradients.

    Where the gradients have to differ anyway, as weights or data do, each run's scale is judged by
    its own norm only.
    """
    sides = [_clipping(c.a), _clipping(c.b)]
    for record, side in zip((c.a, c.b), sides, strict=True):
        if side is None:
            text = f"{record.label}: no gradient of step 0 was observed"
            return RungResult.invalid("clip", text)
    x, y = sides
    assert x is not None
    assert y is not None
    limit = c.limit(SCALE)
    value = scale_distance(c.a, c.b)
    both = f"{c.a.label} {x.described()}; {c.b.label} {y.described()}"
    findings = (Finding(f"step 0: {both}", 0, None, x.scale, y.scale),)

    def fail(text: str, at_fault: float | None, most: Limit) -> RungResult:
        return RungResult.failed("clip", text, at_fault, most, findings)

    if x.threshold != y.threshold:
        without = [n for n, side in zip(c.names, (x, y), strict=True) if side.threshold is None]
        cause = f"{without[0]} does not clip" if without else "the thresholds differ"
        return fail(f"step 0: {both}: {cause}", value, limit)
    other = _other_threshold(c)
    if other is not None:
        return fail(other, None, limit)
    accuracy, each = c.limit(MEASURED_NORM), c.limit(PARAMETER_SCALE)
    for name, side in zip(c.names, (x, y), strict=True):
        if side.threshold is not None and exceeds(side.measuring_error(), accuracy.value):
            text = f"step 0: {name} measured a gradient norm of {shown(side.measured)}, but the "
            text += f"gradients' norm is {side.norm:.6g}"
            return fail(text, side.measuring_error(), accuracy)
        if exceeds(side.scaling_error(), limit.value):
            text = f"step 0: {both}: {name} ought to have scaled by {side.wanted():.6g}"
            return fail(text, side.scaling_error(), limit)
        if exceeds(side.unevenness, each.value):
            text = f"step 0: {name} did not scale all gradients alike: {side.odd_one} by "
            return fail(
                f"{text}{side.odd_scale:.6g}, all by {side.scale:.6g}", side.unevenness, each
            )
    if c.holds("data", "init") and exceeds(value, limit.value):
        return fail(f"step 0: {both}", value, limit)
    if x.threshold is None:
        return RungResult.not_exercised("clip", "neither run clips, as the case asks")
    above = sum((s.gradient_norm or 0) > (s.max_norm or math.inf) for s in c.a.steps)
    if max(x.norm, y.norm) <= x.threshold:
        text = f"the gradient norm of step 0 ({x.norm:.4g}) is within the maximum "
        text += (
            f"{x.threshold:g}, so that no scaling could be seen ({above} later steps are above it)"
        )
        return RungResult.not_exercised("clip", text)
    return RungResult.passed(
        "clip", f"step 0: {both}; {above} of {len(c.a.steps)} steps are above the maximum", value,
        limit, detects=f"a scale that is off by {limit.value:.2g}", findings=findings,
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

    def described(self) -> str:
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
        asked = record.case.max_norm
        for step, threshold in sorted(thresholds.items()):
            if threshold != asked:
                return (
                    f"step {step}: {record.label} clips to {_maximum(threshold)}, but the case "
                    f"asks for {_maximum(asked)}"
                )
    return None


def _maximum(threshold: float | None) -> str:
    return "no maximum" if threshold is None else f"max {threshold:g}"


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
    return None if x is None or y is None else relative_difference(x, y)


SCALE = Metric(
    name="scale",
    what="scale applied by clipping",
    distance=scale_distance,
    largest=1.0,  # of two numbers of one sign
    floors=(
        Floor("CPU", "float32", "", 2.4e-7, "2 units in the last place; measured: perturbed "
              "weights 6.4e-8, hf against torchprime 3.1e-8"),
        Floor("CPU", "bfloat16", "", 4e-3, "1 unit in the last place; measured: perturbed weights "
              "5.2e-3, hf against torchprime 2.3e-6"),
    ),
)  # fmt: skip
MEASURED_NORM = Metric(
    name="measured_norm",
    what="the trainer's norm against fp32 sums",
    floors=(
        Floor("CPU", "float32", "", 1e-6, "rounding of sums of squares"),
        Floor("CPU", "bfloat16", "", 5e-2, "measured: trainers that add up squares in bfloat16 "
              "take a norm of 1.444 for 1.36"),
    ),
)  # fmt: skip
PARAMETER_SCALE = Metric(
    name="parameter_scale",
    what="one parameter's scale against that of all",
    floors=(
        Floor("CPU", "float32", "", 1e-6, "measured: hf and torchprime 2.5e-7 at most"),
        Floor("CPU", "bfloat16", "", 4e-3, "1 unit in the last place; measured: hf and torchprime "
              "9e-4 at most"),
    ),
)  # fmt: skip

RUNG = Rung(
    name="clip",
    what="threshold, measured norm, and the scale that was really applied",
    judge=clip,
    metrics=(SCALE, MEASURED_NORM, PARAMETER_SCALE),
)
