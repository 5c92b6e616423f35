"""What a rung is given: two Records, and what is known of the noise between equal runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from harness.record import Fingerprint, Parameter, Record
from harness.settings import Tolerance

Distance = Callable[[Record, Record], float | None]
"""A number that is 0 for equal runs; None where the evidence for it is missing."""


@dataclass(frozen=True)
class Limit:
    """The largest distance that counts as none, and where that number comes from."""

    value: float
    source: str


@dataclass(frozen=True)
class Comparison:
    """One pair of runs to be judged.

    a, b:     the two Records
    tolerance: margins and documented floors
    control:  two Records of one engine, the second from weights perturbed by one unit in the last
              place; the distance between them is the noise floor of this case
    arbiter:  the same case in float64, where it was run
    own:      by Record folder: step 0 in float64 from that Record's own weights and batch
    repeats:  by Record folder: all runs of that same thing, in order, itself among them
    """

    a: Record
    b: Record
    tolerance: Tolerance
    control: tuple[Record, Record] | None = None
    arbiter: Record | None = None
    own: Mapping[str, Record] = field(default_factory=dict)
    repeats: Mapping[str, tuple[Record, ...]] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        """Dtype of the weights that the case asks for."""
        return str(self.a.manifest["case"]["dtype"])

    @property
    def names(self) -> tuple[str, str]:
        """Labels of both runs."""
        return self.a.label, self.b.label

    def repeats_of(self, record: Record) -> tuple[Record, ...]:
        """All runs of the same thing as `record`."""
        return self.repeats.get(str(record.directory), (record,))

    def limit(self, metric: str, distance: Distance) -> Limit:
        """The limit for `metric`: a margin over the noise floor.

        The floor is the control's distance, but at least the documented one for the dtype: a
        single control run may be lucky.
        """
        documented = self.tolerance.floor[self.dtype][metric]
        margin = self.tolerance.margin
        measured = None if self.control is None else distance(*self.control)
        if measured is None or not math.isfinite(measured):
            return Limit(
                margin * documented,
                f"{margin:g} × {documented:.2g}, the floor documented for {self.dtype}",
            )
        if measured <= documented:
            return Limit(
                margin * documented,
                f"{margin:g} × {documented:.2g}, the floor documented for {self.dtype} (the control run "
                f"measured {measured:.2g})",
            )
        return Limit(
            margin * measured,
            f"{margin:g} × {measured:.2g}, what weights perturbed by one unit in the last place do "
            f"to {self.control[0].label}"
            if self.control
            else "",
        )


def by_name(record: Record) -> dict[str, Parameter]:
    """Parameters by canonical name."""
    return {parameter.name: parameter for parameter in record.parameters}


def sketch_norm(sketch: tuple[float, ...]) -> float:
    """Estimate of the L2 norm of the tensor behind a sketch (see `harness.probe.fingerprint`)."""
    return math.sqrt(math.fsum(s * s for s in sketch) / len(sketch))


def sketch_difference(x: Fingerprint, y: Fingerprint) -> tuple[float, ...]:
    """The sketch of x - y; sketches are linear. Raises ValueError where their sizes differ."""
    return tuple(s - t for s, t in zip(x.sketch, y.sketch, strict=True))


def relative_distance(x: Fingerprint, y: Fingerprint) -> float:
    """Estimate of |x - y| / |x|; 0 for bitwise equal tensors, NaN where either is not finite."""
    if x.bits == y.bits and x.sketch == y.sketch and math.isfinite(x.norm):
        return 0.0
    difference = sketch_norm(sketch_difference(x, y))
    scale = max(x.norm, y.norm)
    if not math.isfinite(difference) or not math.isfinite(scale):
        return math.nan
    return difference / scale if scale > 0 else (0.0 if difference == 0 else math.inf)


def exceeds(value: float | None, limit: float) -> bool:
    """Whether a distance is beyond its limit. Missing and NaN always are."""
    return value is None or not value <= limit


def worst(values: Mapping[str, float]) -> tuple[str, float]:
    """The entry that is furthest from 0; NaN is further than anything."""
    name = max(values, key=lambda key: math.inf if math.isnan(values[key]) else values[key])
    return name, values[name]
