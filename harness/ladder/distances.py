"""How far two numbers, two tensors or two sets of them are apart. All functions are pure."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from harness.record.evidence import Fingerprint, Output, Parameter, Record, Sums

K = TypeVar("K", bound=Hashable)

SKETCH_CERTAINTY = 1.71
"""A difference that is spread over a tensor is estimated from 8 sums, with 8 degrees of freedom:
with a probability of 95 % the estimate is at least 1/1.71 of it (the 5 % quantile of chi-squared
with 8 degrees of freedom is 2.73, and sqrt(8 / 2.73) = 1.71)."""


OPPOSITE = 2.0
"""The furthest that two tensors can be apart, over the larger of their norms."""


def detected(limit: float, what: str) -> str:
    """What a limit on the furthest of all parameters' tensors surely catches, in words.

    A difference of one parameter, as long as its estimate can exceed the limit; then only tensors
    that are unrelated in every parameter, of which some surely do.
    """
    surely = SKETCH_CERTAINTY * limit
    if surely <= OPPOSITE:
        return f"one parameter's {what} that is off by {surely:.2g}"
    return f"{what}s that are unrelated in every parameter"


def relative_difference(x: float | None, y: float | None) -> float:
    """|x - y| over the larger of |x| and |y|; NaN where either is missing or not finite."""
    if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
        return math.nan
    return 0.0 if x == y else abs(x - y) / max(abs(x), abs(y))


def relative_distance(x: Fingerprint, y: Fingerprint) -> float:
    """Estimate of |x - y| over the larger of |x| and |y|; 0 for bitwise equal tensors.

    NaN where either is not finite, or where they cannot be compared. The sketches estimate it, and
    it cannot be smaller than the difference of the norms.
    """
    scale = max(x.norm, y.norm)
    difference = max(sketch_norm(sketch_difference(x, y)), abs(x.norm - y.norm), key=nan_last)
    if not math.isfinite(difference) or not math.isfinite(scale):
        return math.nan
    return difference / scale if scale > 0 else (0.0 if difference == 0 else math.inf)


def sums_distance(x: Output | Sums, y: Output | Sums) -> float:
    """As `relative_distance`, of tensors of which only a sketch and the norm were kept."""
    left, right = (Fingerprint(0, each.sketch, each.norm) for each in (x, y))
    return relative_distance(left, right)


def sketch_norm(sketch: tuple[float, ...]) -> float:
    """Estimate of the L2 norm of the tensor behind a sketch (see `harness.probe.fingerprint`).

    NaN for an empty sketch.
    """
    return math.sqrt(math.fsum(s * s for s in sketch) / len(sketch)) if sketch else math.nan


def sketch_difference(x: Fingerprint, y: Fingerprint) -> tuple[float, ...]:
    """The sketch of x - y; sketches are linear. Empty where their sizes differ."""
    if len(x.sketch) != len(y.sketch):
        return ()
    return tuple(s - t for s, t in zip(x.sketch, y.sketch, strict=True))


def sketch_distance(x: tuple[float, ...], y: tuple[float, ...]) -> float:
    """|x - y| over the larger of two sketches, of which one is not 0; NaN for other sizes."""
    if len(x) != len(y):
        return math.nan
    difference = sketch_norm(tuple(p - q for p, q in zip(x, y, strict=True)))
    return difference / max(sketch_norm(x), sketch_norm(y))


def by_name(record: Record) -> dict[str, Parameter]:
    """Parameters by canonical name."""
    return {parameter.name: parameter for parameter in record.parameters}


def exceeds(value: float | None, limit: float) -> bool:
    """Whether a distance is beyond its limit. Missing and NaN always are."""
    return value is None or not value <= limit


def worst(values: Mapping[K, float]) -> tuple[K, float]:
    """The entry that is furthest from 0; NaN is further than anything."""
    name = max(values, key=lambda key: nan_last(values[key]))
    return name, values[name]


def worst_of(distances: Mapping[K, float] | None) -> float | None:
    """The furthest of some distances; None where there are none."""
    return worst(distances)[1] if distances else None


def largest(values: Iterable[float]) -> float:
    """The largest of some distances; NaN is larger than anything."""
    return max(values, key=nan_last)


def nan_last(value: float) -> float:
    """A key to sort distances by: a NaN that compares false with everything must not get lost."""
    return math.inf if math.isnan(value) else value
