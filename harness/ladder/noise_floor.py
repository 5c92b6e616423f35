"""Is the control run what it is taken for? Its noise loosens every limit, so that it has to be."""

from __future__ import annotations

import dataclasses
import math

from harness.ladder.comparison import Comparison
from harness.ladder.distances import by_name, exceeds, relative_distance, worst
from harness.ladder.ladder import rungs
from harness.ladder.result import Result
from harness.ladder.rungs.data import data
from harness.record.evidence import Record

LAST_PLACE = {"float32": 2.0**-23, "bfloat16": 2.0**-7}
"""Largest relative distance of a weight from its neighbour, by dtype."""

ESTIMATE = 4.0
"""How far a distance may be beyond that: it is estimated (see `comparison.SKETCH_CERTAINTY`)."""


def checked(c: Comparison) -> tuple[Comparison, tuple[str, ...]]:
    """The comparison without its control where that is none, and a note that says so."""
    if c.noise_floor is None:
        return c, ()
    fault = _fault(c)
    if fault is None:
        return c, ()
    note = f"the control run says nothing of noise, documented floors were taken: {fault}"
    return dataclasses.replace(c, noise_floor=None), (note,)


def _fault(c: Comparison) -> str | None:
    """Why the control's two runs differ by more than the last place of their initial weights."""
    assert c.noise_floor is not None
    first, second = c.noise_floor
    for record in c.noise_floor:
        if not record.complete:
            return f"{record.label} is not complete"
    pair = dataclasses.replace(c, a=first, b=second, noise_floor=None)
    if (same := data(pair)).result is not Result.PASS:
        return f"data: {same.explanation}"
    left, right = by_name(first), by_name(second)
    if not left or left.keys() != right.keys():
        return "its two runs do not have the same parameters"
    distances = {}
    for name in left:
        x, y = left[name].initial, right[name].initial
        if x is None or y is None:
            return f"{name} was not observed before the first step"
        distances[name] = relative_distance(x, y)
    name, distance = worst(distances)
    limit = ESTIMATE * LAST_PLACE[first.case.dtype]
    if exceeds(distance, limit):
        return f"{name} starts {distance:.2g} away, which is more than one unit in the last place"
    return _not_noise(c, first, second)


def _not_noise(c: Comparison, first: Record, second: Record) -> str | None:
    """Why the two runs' first steps differ by more than rounding can bring about.

    Such as an engine that draws masks anew at each launch: a floor of that kind would let any pair
    pass. Later steps amplify what they start from, and are no evidence.
    """
    pair = dataclasses.replace(c, a=first, b=second)
    for metric in (metric for rung in rungs() for metric in rung.metrics):
        if metric.distance is None or not math.isfinite(metric.rounding):
            continue
        measured, (floor, _) = metric.distance(first, second), pair.documented(metric)
        if measured is not None and exceeds(measured, metric.rounding * floor):
            return (
                f"its {metric.name} of step 0 is {measured:.2g} away, {metric.rounding:g} × the "
                f"documented floor of {floor:.2g} and more: {first.label} does not train alike "
                "twice"
            )
    return None
