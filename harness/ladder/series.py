"""A number at every step of a run, and how far apart that of two runs is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from harness.ladder.distances import largest, relative_difference
from harness.record.evidence import Record

Values = Mapping[int, float | None]
"""A number by optimizer step; None where none was observed."""
Series = Callable[[Record], Values]
"""Reads Values out of a Record."""

NEARBY = 4
"""Steps before and after one whose differences are taken for draws of the same noise. Noise grows
over a run: in products of bfloat16 eightfold over the first six steps, then hardly."""

FURTHEST = 3.0
"""How far normally distributed differences are from 0, over their root mean square: 99.7 % of them
are nearer. A limit of twice that is exceeded in one of 250 runs of 10 to 40 steps that differ by
equal noise (simulated, with the estimate from `NEARBY` steps)."""


def losses(record: Record) -> Values:
    """Loss by step."""
    return {step.index: step.loss for step in record.steps}


def gradient_norms(record: Record) -> Values:
    """Measured gradient norm by step."""
    return {step.index: step.gradient_norm for step in record.steps}


def differences(x: Values, y: Values, steps: int) -> list[float]:
    """The relative difference at each of the first steps; NaN where one has no value."""
    return [relative_difference(x.get(step), y.get(step)) for step in range(steps)]


def largest_so_far(values: Sequence[float]) -> list[float]:
    """For each value the largest up to it; NaN from a NaN on."""
    found: list[float] = []
    for value in values:
        found.append(largest([*found[-1:], value]))
    return found


def furthest_by_noise(drawn: Sequence[float]) -> list[float]:
    """By step, how far apart two runs may be that differ by noise alone.

    The difference of two runs at one step is a single draw: near 0 by chance in one of ten. So that
    of each step is estimated from all of `NEARBY` steps. NaN from where one of these is NaN.

    drawn: by step, what two runs of equal noise differ by
    """
    return largest_so_far(
        [
            FURTHEST * math.sqrt(math.fsum(d * d for d in near) / len(near))
            for step in range(len(drawn))
            for near in [drawn[max(0, step - NEARBY) : step + NEARBY + 1]]
        ]
    )


def furthest_apart(x: Values, y: Values) -> float | None:
    """The largest relative difference at any step; None where the steps are not the same."""
    if not x or x.keys() != y.keys():
        return None
    return largest(relative_difference(x[step], y[step]) for step in x)
