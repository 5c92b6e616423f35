"""What a rung is given: two Records, and what is known of the noise between equal runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from harness.base.errors import BadInput
from harness.config.settings import Tolerance
from harness.record.files import Fingerprint, Parameter, Record

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
    graphs:   a run of each side that has its compiled step, where it was dumped
    timing:   runs of both sides whose windows took turns, one pair for each launch
    looks:    how often the timing may be looked at: each look is the stricter for it
    """

    a: Record
    b: Record
    tolerance: Tolerance
    control: tuple[Record, Record] | None = None
    arbiter: Record | None = None
    own: Mapping[str, Record] = field(default_factory=dict)
    graphs: tuple[Record, Record] | None = None
    timing: tuple[tuple[Record, Record], ...] = ()
    looks: int = 1

    @property
    def names(self) -> tuple[str, str]:
        """Labels of both runs."""
        return self.a.label, self.b.label

    def limit(self, metric: str, distance: Distance) -> Limit:
        """The limit for `metric`, from the distance between the two runs of the control."""
        return self.limit_over(metric, None if self.control is None else distance(*self.control))

    def limit_over(self, metric: str, measured: float | None) -> Limit:
        """The limit for `metric`: a margin over the noise floor.

        The floor is what the control `measured`, but at least the documented one for the dtype of
        the weights: a single control run may be lucky. Where the runs' dtypes differ, the smaller
        of both floors counts. Raises BadInput where one of them has none.
        """
        documented, dtype = min(self._documented(metric, record) for record in (self.a, self.b))
        margin = self.tolerance.margin
        source = f"{margin:g} × {documented:.2g}, the floor documented for {dtype}"
        if self.control is None or measured is None or not math.isfinite(measured):
            return Limit(margin * documented, source)
        if measured <= documented:
            return Limit(margin * documented, f"{source} (the control run measured {measured:.2g})")
        return Limit(
            margin * measured,
            f"{margin:g} × {measured:.2g}, what weights perturbed by one unit in the last place do "
            f"to {self.control[0].label}",
        )

    def _documented(self, metric: str, record: Record) -> tuple[float, str]:
        """The documented floor for the dtype of a run's weights, and that dtype."""
        dtype = str(record.manifest["case"]["dtype"])
        floor = self.tolerance.floor.get(dtype, {}).get(metric)
        if floor is None:  # `parity train` trains in any dtype
            raise BadInput(
                f"{record.label} ({record.directory}) was trained in {dtype}, and there is no "
                f"tolerance.floor.{dtype}.{metric} to say how far apart equal runs are: compare "
                f"runs in {' or '.join(self.tolerance.floor)}"
            )
        return floor, dtype


def by_name(record: Record) -> dict[str, Parameter]:
    """Parameters by canonical name."""
    return {parameter.name: parameter for parameter in record.parameters}


SKETCH_CERTAINTY = 1.71
"""A difference that is spread over a tensor is estimated from 8 sums, with 8 degrees of freedom:
with a probability of 95 % the estimate is at least 1/1.71 of it (the 5 % quantile of chi-squared
with 8 degrees of freedom is 2.73, and sqrt(8 / 2.73) = 1.71)."""


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


def relative_difference(x: float | None, y: float | None) -> float:
    """|x - y| over the larger of both; NaN where either is missing or not finite."""
    if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
        return math.nan
    return 0.0 if x == y else abs(x - y) / max(abs(x), abs(y))


def exceeds(value: float | None, limit: float) -> bool:
    """Whether a distance is beyond its limit. Missing and NaN always are."""
    return value is None or not value <= limit


def worst(values: Mapping[str, float]) -> tuple[str, float]:
    """The entry that is furthest from 0; NaN is further than anything."""
    name = max(values, key=lambda key: nan_last(values[key]))
    return name, values[name]


def largest(values: Iterable[float]) -> float:
    """The largest of some distances; NaN is larger than anything."""
    return max(values, key=nan_last)


def nan_last(value: float) -> float:
    """A key to sort distances by: a NaN that compares false with everything must not get lost."""
    return math.inf if math.isnan(value) else value
