"""What a rung measures between two runs, and how far apart equal runs are known to be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from harness.record.evidence import Record

Distance = Callable[[Record, Record], float | None]
"""A number that is 0 for equal runs; None where the evidence for it is missing."""


@dataclass(frozen=True)
class Floor:
    """The smallest noise floor that is believed, as it was measured under some conditions.

    device:    PJRT device on which it was measured, such as "CPU"
    dtype:     dtype of the weights
    precision: precision of matrix products there; "" for a device that has only one
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
    distance:   measures it between two whole runs, and so between the two that make a noise floor;
                None for what is judged within one run, or step by step
    largest:    the largest value that it can have: a limit from there on decides nothing
    rounding:   how many documented floors one unit in the last place of the initial weights may
                come to; infinite where later steps amplify what they start from
    by_float64: the float64 reference computes it too, and can say which of two runs deviates
    """

    name: str
    what: str
    floors: tuple[Floor, ...]
    distance: Distance | None = None
    largest: float = math.inf
    rounding: float = math.inf
    by_float64: bool = False

    def floor(self, device: str, dtype: str, precision: str = "") -> Floor | None:
        """The documented floor under these conditions.

        Where none was measured on that device, the first one of the same dtype stands in. None
        where there is none for the dtype.
        """
        fitting = [floor for floor in self.floors if floor.dtype == dtype]
        here = [f for f in fitting if (f.device, f.precision) == (device, precision)]
        return next(iter(here or fitting), None)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that it has documented floors for."""
        return tuple(dict.fromkeys(floor.dtype for floor in self.floors))
