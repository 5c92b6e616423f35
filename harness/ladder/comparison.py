"""What a rung is given: two Records, and what is known of the noise between equal runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.base.errors import BadInput
from harness.compiler.compiled import CompiledStep
from harness.config.settings import Tolerance
from harness.ladder.metric import Metric
from harness.ladder.result import Limit
from harness.record.evidence import Record


@dataclass(frozen=True)
class Comparison:
    """One pair of runs to be judged.

    a, b:        the two Records
    tolerance:   the margin, and floors that take the place of documented ones
    noise_floor: two Records of one engine, the second (the control run) from weights perturbed by
                 one unit in the last place; the distance between them is the noise of this case
    float64:     the same case by the float64 reference, where it was run
    own:         by Record folder: step 0 in float64 from that Record's own weights and batch
    graphs:      a run of each side that has its compiled step, where it was dumped
    compiled:    the step of each side as the TPU's own compiler makes it, a pair for each target
    timing:      runs of both sides that were launched to be timed, one pair for each launch
    looks:       how often the timing may be looked at: each look is the stricter for it
    broken:      names of the rungs above that do not hold
    """

    a: Record
    b: Record
    tolerance: Tolerance
    noise_floor: tuple[Record, Record] | None = None
    float64: Record | None = None
    own: Mapping[str, Record] = field(default_factory=dict)
    graphs: tuple[Record, Record] | None = None
    compiled: tuple[tuple[CompiledStep, CompiledStep], ...] = ()
    timing: tuple[tuple[Record, Record], ...] = ()
    looks: int = 1
    broken: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, str]:
        """Labels of both runs."""
        return self.a.label, self.b.label

    def holds(self, *rungs: str) -> bool:
        """Whether all of these rungs hold, which are above the one that asks."""
        return not set(rungs) & set(self.broken)

    @property
    def each_by_float64(self) -> bool:
        """Whether each run is held against float64 of its own: they start from different values."""
        return bool(self.own) and not self.holds("data", "init")

    def limit(self, metric: Metric) -> Limit:
        """The limit of `metric`: a margin over what the two runs of the control differ by."""
        if self.noise_floor is None or metric.distance is None:
            return self.limit_over(metric, None)
        return self.limit_over(metric, metric.distance(*self.noise_floor))

    def limit_over(self, metric: Metric, measured: float | None) -> Limit:
        """The limit of `metric`: a margin over the noise floor.

        The floor is what the control `measured`, but at least the documented one for the dtype of
        the weights: a single control run may be lucky. Where the runs' dtypes differ, the smaller
        of both floors counts. Raises BadInput where one of them has none.
        """
        documented, dtype = self.documented(metric)
        margin = self.tolerance.margin
        source = f"{margin:g} × {documented:.2g}, the floor documented for {dtype}"
        value = margin * documented
        if self.noise_floor is not None and measured is not None and math.isfinite(measured):
            if measured <= documented:
                source += f" (the control run measured {measured:.2g})"
            else:
                value = margin * measured
                source = f"{margin:g} × {measured:.2g}, what weights perturbed by one unit in the "
                source += f"last place do to {self.noise_floor[0].label}"
        return Limit(value, source, metric.name, metric.largest)

    def documented(self, metric: Metric) -> tuple[float, str]:
        """The smaller of both runs' documented floors, and the dtype that it is for."""
        return min(self._documented(metric, record) for record in (self.a, self.b))

    def _documented(self, metric: Metric, record: Record) -> tuple[float, str]:
        """The floor for the dtype of a run's weights on its device, and that dtype."""
        dtype = record.case.dtype
        given = self.tolerance.floor.get(dtype, {}).get(metric.name)
        if given is not None:
            return given, dtype
        floor = metric.floor(str(record.observed.device), dtype)
        if floor is None:  # `parity train` trains in any dtype
            raise BadInput(
                f"{record.label} ({record.directory}) was trained in {dtype}, and there is no "
                f"tolerance.floor.{dtype}.{metric.name} to say how far apart equal runs are: "
                f"compare runs in {' or '.join(metric.dtypes)}"
            )
        return floor.value, dtype
