"""The rung of gradient clipping: what was asked, what was measured, and what was really done."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.ladder.comparison import Comparison
from harness.ladder.distances import by_name, exceeds, largest, relative_difference, worst
from harness.ladder.metric import ANY_DEVICE, IN_DTYPE, Floor, Metric
from harness.ladder.result import Finding, Limit, RungResult
from harness.ladder.rung import Rung
from harness.ladder.rungs.backward import gradient_norm, shown
from harness.ladder.series import gradient_norms
from harness.record.evidence import Clip, Record, Step

TOTAL_NORM_EPSILON = 1e-6
"""`clip_grad_norm_` scales by max_norm / (norm + 1e-6), at most by 1 (torch.nn.utils)."""

AS_CASE = 4e-3
"""One unit in the last place of a bfloat16: a scale that is so near to what the case asks for is
taken to be meant by a function that is not watched, and so is one that is as near as a norm that is
added up in the run's own dtype allows. Their exact limits come after."""

EQUAL_GRADIENTS = ("data", "init", "forward", "backward")
"""Without these, two runs do not have the same gradients to clip."""


def clip(c: Comparison) -> RungResult:
    """Threshold, measured norm, and the scale that was really applied to the gradients.

    Where the gradients differ already, each run's scale is judged by its own norm only; without
    finite norms nothing is said. What differs then follows from a rung above.
    """
    accuracy, each = c.limit(MEASURED_NORM), c.limit(PARAMETER_SCALE)
    near = max(AS_CASE, accuracy.value)
    sides = [_clipping(c.a, near), _clipping(c.b, near)]
    for record, side in zip((c.a, c.b), sides, strict=True):
        if side is None:
            text = f"{record.label}: no gradient of step 0 was observed"
            return RungResult.invalid("clip", text)
    x, y = sides
    assert x is not None
    assert y is not None
    limit = c.limit(SCALE)
    equal_gradients = c.holds(*EQUAL_GRADIENTS)
    if not equal_gradients and not (math.isfinite(x.norm) and math.isfinite(y.norm)):
        text = f"says nothing while {c.broken[0]} does not hold: a gradient norm is not finite"
        return RungResult.invalid("clip", text)
    # There is no limit for a run that rounds otherwise than its case says, as `sharding` says.
    in_dtype = [side for side, r in zip((x, y), (c.a, c.b), strict=True) if r.dtype == r.case.dtype]
    own = [side.scaling_error() for side in in_dtype if side.by_value is None]
    value = scale_distance(c.a, c.b) if equal_gradients else largest([0.0, *own])
    both = f"{c.a.label} {x.described()}; {c.b.label} {y.described()}"
    findings = (Finding(f"step 0: {both}", 0, None, x.scale, y.scale),)

    def fail(text: str, at_fault: float | None, most: Limit) -> RungResult:
        return RungResult.failed("clip", text, at_fault, most, findings)

    for side in (x, y):
        if side.by_itself and side.threshold is None:
            text = f"step 0: {both}: {side.label}'s gradients were "
            text += "clipped" if side.scale < 1 else "scaled"
            return fail(f"{text} by a function that is not watched", abs(side.scale - 1), limit)
    if x.clips_to != y.clips_to:
        without = [side.label for side in (x, y) if side.clips_to == (None, None)]
        cause = f"{without[0]} does not clip" if without else "the thresholds differ"
        return fail(f"step 0: {both}: {cause}", value, limit)
    other = _other_threshold(c, [side.label for side in (x, y) if side.by_itself])
    if other is not None:
        return fail(other, None, limit)
    for side in in_dtype:
        if side.threshold is not None and exceeds(side.measuring_error(), accuracy.value):
            text = (
                f"step 0: {side.label} {'clipped by' if side.by_itself else 'measured'} a gradient "
            )
            text += f"norm of {shown(side.measured)}, but the gradients' norm is {side.norm:.6g}"
            return fail(text, side.measuring_error(), accuracy)
        apart = side.apart(each.value)
        if apart is not None:
            text = f"step 0: {side.label} clips {len(side.clips)} sets of parameters, each by a "
            return fail(f"{text}norm of its own: {apart}", None, each)
        if side.threshold is None and any(call.kind == "norm" for call in side.clips):
            return fail(f"step 0: {side.label} clips to several norms", None, each)
        if side.by_value is not None:
            continue
        if exceeds(side.scaling_error(), each.value):
            text = f"step 0: {both}: {side.label} ought to have scaled by {side.wanted():.6g}"
            if side.norms > 1:
                text = f"step 0: {side.label} clips {len(side.clips)} sets of parameters, each by "
                text += f"a norm of its own: scaled by {side.scale:.6g}, and by the norm of all it "
                text += f"is {side.wanted():.6g}"
            return fail(text, side.scaling_error(), each)
        if exceeds(side.unevenness, each.value):
            text = f"step 0: {side.label} did not scale all gradients alike: {side.odd_one} by "
            return fail(
                f"{text}{side.odd_scale:.6g}, all by {side.scale:.6g}", side.unevenness, each
            )
    if exceeds(value, limit.value):
        return fail(f"step 0: {both}", value, limit)
    if x.by_value is not None and equal_gradients:
        name, distance = worst(_clipped_norm_differences(c.a, c.b))
        if exceeds(distance, each.value):
            text = f"step 0: {both}, but {name}'s gradients differ by {distance:.2g} thereafter"
            return fail(text, distance, each)
    if x.clips_to == (None, None):
        return RungResult.not_exercised("clip", "neither run clips, as the case asks")
    above = sum((s.gradient_norm or 0) > (s.max_norm or math.inf) for s in c.a.steps)
    if x.threshold is not None and max(x.norm, y.norm) <= x.threshold:
        text = f"the gradient norm of step 0 ({x.norm:.4g}) is within the maximum "
        text += (
            f"{x.threshold:g}, so that no scaling could be seen ({above} later steps are above it)"
        )
        return RungResult.not_exercised("clip", text)
    for each_limit in (accuracy, each):
        if each_limit.useless:
            return RungResult.inconclusive("clip", each_limit.blind, None, each_limit, findings)
    if not equal_gradients:
        both += "; each by its own norm, as the gradients differ"
    return RungResult.passed(
        "clip", f"step 0: {both}; {above} of {len(c.a.steps)} steps are above the maximum", value,
        limit, detects=f"a scale that is off by {limit.value:.2g}", findings=findings,
    )  # fmt: skip


@dataclass(frozen=True)
class _Clipping:
    """What one run did to its gradients at step 0.

    threshold: the norm that clipping functions were called with; None where none was. Where the
               trainer clips by another function, that of the case, if it does as the case asks
    by_itself: the trainer clips by a function that is not watched
    by_value:  the absolute value that functions were called with; None where none was called
    measured:  the norm that was measured, or handed over, to clip by; of a function that is not
               watched, the one that its scale comes from
    norm:      the norm before clipping, from fp32 sums
    scale:     norm of the gradients that the optimizer saw, over `norm`
    odd_one:   the parameter whose own scale is furthest from that
    odd_scale: its scale
    clips:     the calls, where there was not one for all parameters
    scales:    by parameter, the scale that its calls come to
    """

    label: str
    threshold: float | None
    by_itself: bool
    by_value: float | None
    measured: float | None
    norm: float
    scale: float
    odd_one: str
    odd_scale: float
    clips: tuple[Clip, ...]
    scales: Mapping[str, float]

    @property
    def clips_to(self) -> tuple[float | None, float | None]:
        """The largest norm and the largest absolute value."""
        return self.threshold, self.by_value

    @property
    def unevenness(self) -> float:
        """Relative difference of the odd one's scale."""
        return abs(self.odd_scale / self.scale - 1) if self.scale > 0 else math.nan

    @property
    def norms(self) -> int:
        """How many norms its calls clip by."""
        return len({call.norm for call in self.clips if call.kind == "norm"})

    def apart(self, limit: float) -> str | None:
        """Two parameters that the calls scale otherwise, where they do; one norm was asked for."""
        if not self.scales:
            return None
        low, high = (of(self.scales, key=self.scales.__getitem__) for of in (min, max))
        if not exceeds(relative_difference(self.scales[low], self.scales[high]), limit):
            return None
        return f"{low} is scaled by {self.scales[low]:.6g}, {high} by {self.scales[high]:.6g}"

    def wanted(self) -> float:
        """The scale that the threshold and the run's own measurement ask for."""
        if self.threshold is None or self.measured is None:
            return 1.0
        return _wanted(self.threshold, self.measured)

    def scaling_error(self) -> float:
        """Relative difference of the applied and the wanted scale."""
        return abs(self.scale / self.wanted() - 1) if self.wanted() > 0 else math.nan

    def measuring_error(self) -> float | None:
        """Relative difference of the measured norm from the norm; bfloat16 sums cost percents."""
        return None if self.measured is None else abs(self.measured / self.norm - 1)

    def described(self) -> str:
        """In words."""
        how = _maximum(self.threshold)
        if self.by_itself:
            how += " by a function that is not watched"
        if self.by_value is not None:
            how += f", values to {self.by_value:g}"
        return f"scaled its gradients by {self.scale:.6g} (norm {self.norm:.6g}, {how})"


def _clipping(record: Record, near: float) -> _Clipping | None:
    """What a run did. A scale that is off by no more than `near` is meant to be the case's."""
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
    threshold, measured = first.max_norm, first.gradient_norm
    called = any(step.clips or step.max_norm is not None for step in record.steps)
    by_itself = not called and exceeds(abs(scale - 1), AS_CASE)
    if by_itself:
        of_case = record.case.max_norm
        if of_case is not None and all(
            not exceeds(abs(s / _wanted(of_case, norm) - 1), near) for s in scales.values()
        ):
            threshold, measured = of_case, of_case / scale - TOTAL_NORM_EPSILON
    return _Clipping(
        record.label, threshold, by_itself,
        max((call.limit for call in first.clips if call.kind == "value"), default=None),
        measured, norm, scale, odd_one, scales[odd_one], first.clips,
        _called_scales(record, first.clips),
    )  # fmt: skip


def _wanted(threshold: float, norm: float) -> float:
    """The scale that gradients of this norm are clipped by."""
    return min(1.0, threshold / (norm + TOTAL_NORM_EPSILON))


def _called_scales(record: Record, clips: tuple[Clip, ...]) -> dict[str, float]:
    """By parameter with a gradient, the scale that the calls of step 0 come to."""
    scales = {p.name: 1.0 for p in record.parameters if p.gradient is not None} if clips else {}
    for parameter in record.parameters:
        for call in (clips[i] for i in parameter.clipped_by if i < len(clips)):
            if call.kind == "norm" and parameter.name in scales:
                norm = math.nan if call.norm is None else call.norm
                scales[parameter.name] *= _wanted(call.limit, norm)
    return scales


def _clipped_norm_differences(a: Record, b: Record) -> dict[str, float]:
    """By parameter, the relative difference of the gradients' norms that the optimizer saw."""
    left, right = by_name(a), by_name(b)
    return {
        name: relative_difference(left[name].clipped_norm, right[name].clipped_norm)
        for name in left
        if name in right and left[name].gradient is not None
    }


def _other_threshold(c: Comparison, by_itself: Sequence[str]) -> str | None:
    """The first step at which a run clips otherwise than the other, or than the case asks.

    by_itself: runs that clip by a function that is not watched: no threshold of theirs is known
    """
    left, right = ({s.index: _thresholds(s) for s in r.steps if s.finished} for r in (c.a, c.b))
    if not by_itself:
        for step in sorted(left.keys() & right.keys()):
            if left[step] != right[step]:
                return (
                    f"step {step}: {c.a.label} clips to {_maxima(left[step])}, {c.b.label} to "
                    f"{_maxima(right[step])}"
                )
    for record, thresholds in ((c.a, left), (c.b, right)):
        threshold_of_case = record.case.max_norm
        for step, (threshold, _) in sorted(thresholds.items()):
            if threshold != threshold_of_case and record.label not in by_itself:
                return (
                    f"step {step}: {record.label} clips to {_maximum(threshold)}, but the case "
                    f"asks for {_maximum(threshold_of_case)}"
                )
    return None


def _thresholds(step: Step) -> tuple[float | None, tuple[float, ...]]:
    """The largest norm of a step, and the largest absolute values."""
    return step.max_norm, tuple(sorted({c.limit for c in step.clips if c.kind == "value"}))


def _maxima(thresholds: tuple[float | None, tuple[float, ...]]) -> str:
    norm, values = thresholds
    return _maximum(norm) + "".join(f", values to {value:g}" for value in values)


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
    unrelated=1.0,  # of two numbers of one sign
    series=gradient_norms,
    resolution=IN_DTYPE,
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
    unrelated=1.0,
    floors=(
        Floor(ANY_DEVICE, "float32", "", 1e-6, "rounding of sums of squares"),
        Floor(ANY_DEVICE, "bfloat16", "", 5e-2, "measured: trainers that add up squares in "
              "bfloat16 take a norm of 1.444 for 1.36"),
    ),
)  # fmt: skip
PARAMETER_SCALE = Metric(
    name="parameter_scale",
    what="scale of all gradients against the norm's, and of one against that of all",
    unrelated=1.0,
    floors=(
        Floor(ANY_DEVICE, "float32", "", 1e-6, "8 units in the last place; measured on "
              "CPU: hf and torchprime 2.5e-7 at most"),
        Floor(ANY_DEVICE, "bfloat16", "", 4e-3, "1 unit in the last place; measured on CPU: hf and "
              "torchprime 9e-4 at most"),
    ),
)  # fmt: skip

RUNG = Rung(
    name="clip",
    what="threshold, measured norm, and the scale that was really applied",
    judge=clip,
    partly=EQUAL_GRADIENTS,
    metrics=(SCALE, MEASURED_NORM, PARAMETER_SCALE),
)
