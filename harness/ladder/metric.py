"""What a rung measures between two runs, and how far apart equal runs are known to be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from harness.ladder.series import Series
from harness.record.evidence import Record

Distance = Callable[[Record, Record], float | None]
"""A number that is 0 for equal runs; None where the evidence for it is missing."""

UNRELATED = math.sqrt(2)
"""How far apart two tensors are, over their norm, that have one length and nothing in common: they
are at right angles."""

IN_FLOAT32 = {"float32": 2.0**-22, "bfloat16": 2.0**-22}
"""Rounding of a number that is a float32 whatever the weights are: two units in the last place."""

IN_DTYPE = {"float32": 2.0**-22, "bfloat16": 2.0**-7}
"""Rounding of a number that trainers compute in the dtype of the weights, such as a norm: two units
in the last place of a float32, and one of a bfloat16."""

ANY_DEVICE = ""
"""In a `Floor`: it follows from arithmetic in that dtype, and holds on any device."""


ALIKE = {"eager CPU": "CPU"}
"""Device kinds that have the floors of another: perturbed weights were measured to do the same
there, and equal runs to be as near (docs/tolerances.md)."""


@dataclass(frozen=True)
class Floor:
    """The noise floor of a metric, and the conditions under which it was measured.

    device:    device kind on which it was measured, such as "CPU" or "TPU v6e", as a Record has it
               (`observed.device_kind`); `ANY_DEVICE` where it follows from the dtype's arithmetic
    dtype:     dtype of the weights
    precision: matmul precision there; "" for a device on which it changes nothing
    value:     a relative difference
    source:    where that number comes from
    """

    device: str
    dtype: str
    precision: str
    value: float
    source: str


@dataclass(frozen=True)
class Metric:
    """One relative difference between two runs, and its documented noise floors.

    name:       also the key of `tolerance.floor.<dtype>.<name>`; metrics of several rungs that
                share a name share their floors
    what:       one line for the documentation
    floors:     as documented, by the conditions under which they were measured
    distance:   measures it between two whole runs, and so between those that make a noise floor;
                None for what is judged within one run
    unrelated:  what two values come to that have nothing to do with each other: a limit from there
                on decides nothing
    noise:      measures it between runs that make a noise floor, where `distance` is a single draw
                of the noise and the runs have more; None for `distance` itself
    series:     the same number at every step, or one that it follows from: where that of one step
                is a single draw of the noise, these are more of them
    resolution: by dtype of the weights, what rounding of the recorded numbers alone comes to, on
                any device: one pair of equal runs may be luckier
    bound:      what rounding can do to it at most, as it follows from other differences of the two
                runs; None where they do not tell
    by_float64: the float64 reference computes it too, and can say which of two runs deviates
    """

    name: str
    what: str
    floors: tuple[Floor, ...]
    distance: Distance | None = None
    unrelated: float = math.inf
    noise: Distance | None = None
    series: Series | None = None
    resolution: Mapping[str, float] = field(default_factory=dict)
    bound: Distance | None = None
    by_float64: bool = False

    def floor(self, kind: str, dtype: str, precision: str = "") -> Floor | None:
        """The documented floor on this device kind; None where none was measured there."""
        kind = ALIKE.get(kind, kind)
        return next(
            (
                floor
                for floor in self.floors
                if floor.device in (kind, ANY_DEVICE)
                and floor.dtype == dtype
                and floor.precision in (precision, "")
            ),
            None,
        )

    def coarsest(self, *dtypes: str) -> float:
        """The largest floor that was measured in these dtypes, or in any, on whatever device."""
        values = [f.value for f in self.floors if not dtypes or f.dtype in dtypes]
        return max(values, default=0.0)
