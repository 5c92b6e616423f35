"""What a rung is given: two Records, and what is known of the noise between equal runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.compiler.compiled import CompiledStep
from harness.config.settings import Tolerance
from harness.ladder.metric import Metric
from harness.ladder.result import Finding, Limit
from harness.ladder.series import differences, furthest_by_noise, largest_so_far
from harness.record.evidence import Record

ROUNDING = 10.0
"""How many documented floors one unit in the last place of the initial weights may come to. What
was measured is at most 5 (docs/tolerances.md). More takes a repeat to be believed, which a session
launches by itself, so that a low number costs a run and never a verdict."""

RecordPair = tuple[Record, Record]


@dataclass(frozen=True)
class Resumption:
    """One trainer's training without a break, and the same saved and resumed on its way.

    straight: without a break
    saving:   the same, which saves after `case.save_at` steps, and goes on
    resumed:  the steps after that, by a fresh process; None where nothing came to be saved
    """

    straight: Record
    saving: Record
    resumed: Record | None = None


@dataclass(frozen=True)
class Comparison:
    """One pair of runs to be judged.

    a, b:          the two Records
    tolerance:     the margin, and floors that take the place of documented ones
    noise_floor:   two Records of one engine, the second (the perturbed run) from weights perturbed
                   by one unit in the last place: their distance is the noise of this case
    repeat:        two Records of one engine from equal weights
    deterministic: whether those have equal bits; None where there is no repeat to tell
    float64:       the same case by the float64 reference, where it was run
    first_float64: step 0 of the same case by the float64 reference, in whatever the runs agree
    float64_per_run: by Record folder: step 0 in float64 from that Record's own weights and batch
    graphs:        a run of each side that has its compiled step, where it was dumped
    compiled:      the step of each side as the TPU's own compiler makes it, a pair for each target
    timing:        runs of both sides that were launched to be timed, one pair for each launch
    rounds:        how often the timing may be judged: each judgement is the stricter for it
    resumptions:   of a case that saves, what became of either side's; None where it was not run
    broken:        names of the rungs above that do not hold
    configurations: both are one training in two configurations: meshes, the micro-batches of a
                   step and what is recomputed are those of each one's case
    versions:      both are versions of one trainer: what each of them does wrong is no change where
                   the other does it too
    """

    a: Record
    b: Record
    tolerance: Tolerance
    noise_floor: RecordPair | None = None
    repeat: RecordPair | None = None
    deterministic: bool | None = None
    float64: Record | None = None
    first_float64: Record | None = None
    float64_per_run: Mapping[str, Record] = field(default_factory=dict)
    graphs: RecordPair | None = None
    compiled: tuple[tuple[CompiledStep, CompiledStep], ...] = ()
    timing: tuple[RecordPair, ...] = ()
    rounds: int = 1
    resumptions: tuple[Resumption | None, Resumption | None] = (None, None)
    broken: tuple[str, ...] = ()
    versions: bool = False
    configurations: bool = False

    @property
    def names(self) -> tuple[str, str]:
        """Labels of both runs."""
        return self.a.label, self.b.label

    def of_each(self, check: Callable[[Record], Iterable[Finding]]) -> list[Finding]:
        """What `check` finds in either run by itself, with the run that it is of."""
        return [
            dataclasses.replace(finding, run=run)
            for run, record in (("a", self.a), ("b", self.b))
            for finding in check(record)
        ]

    def changed(self, check: Callable[[Record], Iterable[Finding]]) -> list[Finding]:
        """`of_each`, without what two versions of one trainer both have (`unshared`)."""
        return self.unshared(self.of_each(check))

    def unshared(self, found: list[Finding]) -> list[Finding]:
        """Findings of either run, without what two versions of one trainer both have: by kind, step
        and parameter, as their numbers may be noise apart."""
        if not self.versions:
            return found
        by_run = {
            run: {(f.kind, f.step, f.parameter) for f in found if f.run == run} for run in "ab"
        }
        both = by_run["a"] & by_run["b"]
        return [f for f in found if not f.kind or (f.kind, f.step, f.parameter) not in both]

    def holds(self, *rungs: str) -> bool:
        """Whether none of these rungs is broken, which are above the one that asks."""
        return not set(rungs) & set(self.broken)

    def judges_per_run(self, *values: str) -> bool:
        """Whether each run is held against float64 of its own: they start from different values.

        values: the rungs that compare the values that they start from
        """
        return bool(self.float64_per_run) and not self.holds(*values)

    def rounding(self, quantity: str) -> float:
        """How far, relatively, numbers may be from what was computed, as they were printed."""
        imported = (record.manifest.imported for record in (self.a, self.b))
        return max((i.rounding.get(quantity, 0.0) for i in imported if i is not None), default=0.0)

    def limit(self, metric: Metric) -> Limit:
        """The limit of `metric`: a margin over what equal runs differ by."""
        perturbed, repeated = (self.noise(metric, p) for p in (self.noise_floor, self.repeat))
        return self.limit_over(metric, perturbed, repeated)

    def noise(self, metric: Metric, pair: RecordPair | None) -> float | None:
        """How far apart the runs of `pair`, which differ by noise, are or may be by `metric`.

        Where nothing is known of the device, a number of one step has to be estimated from those of
        other steps as well: see `noise_by_step`.
        """
        if pair is None or metric.distance is None:
            return None
        drawn = (metric.noise or metric.distance)(*pair)
        if metric.series is None or self.documented(metric)[0] is not None:
            return drawn
        first, second = (metric.series(record) for record in pair)
        estimated = furthest_by_noise(differences(first, second, len(first)))[:1]
        found = [v for v in (drawn, *estimated) if v is not None]
        return max((v for v in found if math.isfinite(v)), default=drawn)

    def noise_by_step(
        self, metric: Metric, pair: RecordPair | None, steps: int
    ) -> Sequence[float | None] | None:
        """For each step how far apart the runs of `pair` are or may be up to it; None for no pair.

        The difference of two runs at one step is a single draw of their noise. Beside a documented
        floor that is enough; where there is none, the noise is estimated from several steps.
        """
        if pair is None or metric.series is None:
            return None
        first, second = (metric.series(record) for record in pair)
        drawn = differences(first, second, steps)
        known = self.documented(metric)[0] is not None
        return largest_so_far(drawn) if known else furthest_by_noise(drawn)

    def limit_over(
        self, metric: Metric, perturbed: float | None = None, repeated: float | None = None
    ) -> Limit:
        """The limit of `metric`: a margin over its noise floor.

        perturbed: what the perturbed run differs by; it counts as far as it is `believed`
        repeated:  what a repeat differs by; it counts on a device that is not deterministic

        The floor is the largest of these and the documented one: one run may be lucky. Where
        nothing tells how far equal runs are apart, the limit is infinite, and decides nothing.
        """
        documented, where, dtype = self.documented(metric)
        floors: list[tuple[float, str]] = []
        if documented is not None:
            floors.append((documented, f"the floor documented for {where}"))
        if self.deterministic is False and repeated is not None and math.isfinite(repeated):
            first = self.repeat[0].label if self.repeat else self.a.label
            floors.append((repeated, f"what {first} differs by from its own repeat"))
        why = f"no floor was measured for {where}, and no perturbed run of this case was"
        if perturbed is not None and math.isfinite(perturbed):
            believed = perturbed <= self.most(metric, documented, repeated)
            if documented is None and self.deterministic is None:
                why = f"no floor was measured for {where}: a perturbed run there needs a repeat"
            elif believed:
                first = self.noise_floor[0].label if self.noise_floor else self.a.label
                source = f"what weights perturbed by one unit in the last place do to {first}"
                floors.append((perturbed, source))
            else:
                why = f"the perturbed run is {perturbed:.2g} away, more than rounding can do"
        value, source = max(floors, default=(0.0, ""), key=lambda floor: floor[0])
        resolution = metric.resolution.get(dtype, 0.0)
        if not floors or value == resolution == 0.0:
            why += f"; tolerance.floor.{dtype}.{metric.name} states one"
            exact = self.rounding(metric.name) == 0.0
            return Limit(math.inf, why, metric.name, metric.unrelated, exact)
        if documented is None and value < resolution:
            value, source = resolution, "the rounding of the number itself"
        if value == documented and perturbed is not None and perturbed <= value:
            source += f" (the perturbed run measured {perturbed:.2g})"
        if (printed := self.rounding(metric.name)) > value:
            value, source = printed, "the digits that were printed of imported numbers"
        margin = self.tolerance.margin
        source = f"{margin:g} × {value:.2g}, {source}"
        return Limit(margin * value, source, metric.name, metric.unrelated)

    def most(
        self, metric: Metric, documented: float | None, repeated: float | None = None
    ) -> float:
        """The most that the perturbed run may differ by and be believed.

        On an engine that is deterministic, one unit in the last place may do whatever it does.
        Otherwise it is a multiple of the documented floor. Where there is none, and where rounding
        is another in each launch, it is one of what the repeat measured, or of the largest floor of
        the dtype on any device; and what training in the least precise dtype does, as a device may
        round that much in its products.
        """
        if self.deterministic:
            return math.inf
        if documented is not None and self.deterministic is None:
            most = ROUNDING * documented
        else:
            dtype = self.a.case.computed_in
            most = max(ROUNDING * metric.coarsest(dtype), metric.coarsest())
        if metric.bound is not None and self.noise_floor is not None:
            bound = metric.bound(*self.noise_floor)
            most = most if bound is None or math.isnan(bound) else min(most, bound)
        if repeated is not None and math.isfinite(repeated):
            most = max(most, ROUNDING * repeated)
        return most

    def documented(self, metric: Metric) -> tuple[float | None, str, str]:
        """The smaller of both runs' documented floors, what it is for, and its dtype.

        None where one of them has none: a device kind and dtype for which none was measured.
        """
        floors = [self._documented(metric, record) for record in (self.a, self.b)]
        return min(floors, key=lambda floor: -1.0 if floor[0] is None else floor[0])

    def _documented(self, metric: Metric, record: Record) -> tuple[float | None, str, str]:
        """The floor for a run's dtype on its device kind, a name for these, and the dtype."""
        dtype, seen = record.case.computed_in, record.observed
        given = self.tolerance.floor.get(dtype, {}).get(metric.name)
        if given is not None:
            return given, f"{dtype} (tolerance.floor.{dtype}.{metric.name})", dtype
        kind = seen.device_kind or "an unknown device"
        precision = seen.matmul_precision or ""
        floor = metric.floor(kind, dtype, precision)
        if floor is not None:
            return floor.value, f"{dtype} on {floor.device or 'any device'}", dtype
        return None, f"{dtype} on {kind}" + (f" ({precision})" if precision else ""), dtype
