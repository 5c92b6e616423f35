"""What the numbers of one run alone show: gaps, slow steps, a rate that is logged a step early."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from harness.importing.numbers import Point, spacing

SLOW = 3.0
"""A step that takes more than this many times the median is one that something else happened in."""

STEPS_SHOWN = 8


@dataclass(frozen=True)
class Took:
    """What one step took, and how much of it was tracing and compiling; None where nobody says."""

    step: int
    seconds: float
    tracing: float | None


def notice(points: Sequence[Point], requested: int, every: int, began: float | None) -> list[str]:
    """All that is remarkable, in the reader's terms."""
    found = [*_missing(points, requested, every), *_not_finite(points)]
    if (rise := _first_rise(points)) is not None:
        found.append(
            f"the learning rate of step 0 is {points[0].learning_rate:g} and rises by {rise:g} a "
            "step: a warm-up from zero would begin with 0, so the rate of the next step is logged "
            "(a lag of one)"
        )
    return found + _slow(durations(points, began))


def meant_steps(points: Sequence[Point]) -> int:
    """How many steps were meant, as far as the numbers tell.

    As many as there are; one more where a linear decay of the rate would reach zero only after it.
    """
    last = points[-1].step
    if _first_rise(points) is None or len(points) < 3:
        return last + 1
    before, rate = points[-2].learning_rate, points[-1].learning_rate
    if before is None or rate is None or rate <= 0:
        return last + 1
    # What is logged with the last step is the rate of the next: a zero would mean that none comes.
    return last + 2 if abs(before - 2 * rate) < 0.02 * before else last + 1


def durations(points: Sequence[Point], began: float | None) -> list[Took]:
    """What each step took: as the trainer says, else the time from one line to the next.

    Of the first step nobody knows when it began, unless it is told: then tracing is all there is.
    """
    took = []
    ends = {point.step: point.at for point in points if point.at is not None}
    for point in points:
        before = ends.get(point.step - 1, began if point.step == 0 else None)
        seconds = point.seconds
        if seconds is None and point.at is not None and before is not None:
            seconds = point.at - before
        if seconds is None and point.step == 0:
            seconds = point.tracing
        if seconds is not None and math.isfinite(seconds) and seconds > 0:
            took.append(Took(point.step, seconds, point.tracing))
    return took


def _missing(points: Sequence[Point], requested: int, every: int) -> list[str]:
    """Steps that were asked for, or lie between others, and of which nothing is told."""
    there = {point.step for point in points}
    expected = range(every - 1, requested, every)
    missing = [step for step in expected if step not in there]
    if not missing:
        return []
    apart = spacing(sorted(there))
    if every == 1 and apart > 1:
        return [
            f"{len(there)} of {requested} steps are there, most of them {apart} apart: curves are "
            "judged where every step was logged"
        ]
    last = " (the last)" if missing == [expected[-1]] else ""
    ranges = _ranges(missing, every)
    are = "is" if len(missing) == 1 else "are"
    return [f"{_steps(ranges, len(missing))}{last} of {requested} {are} not there"]


def _not_finite(points: Sequence[Point]) -> list[str]:
    bad = [
        point.step
        for point in points
        for value in (point.loss, point.gradient_norm)
        if value is not None and not math.isfinite(value)
    ]
    steps = list(dict.fromkeys(bad))
    return [f"{_steps(_ranges(steps, 1), len(steps))}: not finite"] if steps else []


def _first_rise(points: Sequence[Point]) -> float | None:
    """How much the rate rises a step where a warm-up from zero is logged a step early; else None.

    A linear warm-up from zero uses 0, d, 2d; logged after the scheduler was advanced, it begins
    with d, 2d, 3d.
    """
    rates = {point.step: point.learning_rate for point in points[:3]}
    first, second, third = (rates.get(step) for step in range(3))
    if first is None or second is None or third is None or first <= 0:
        return None
    rise = second - first
    close = 0.02 * first  # rates are printed with three digits
    linear = rise > 0 and abs(third - second - rise) <= close and abs(first - rise) <= close
    return rise if linear else None


def _slow(took: Sequence[Took]) -> list[str]:
    """Steps in which something else happened, wherever they are."""
    if len(took) < 4:
        return []
    usual = statistics.median(t.seconds for t in took)
    found = []
    for step in [t for t in took if t.seconds > SLOW * usual]:
        what = "a pause"
        if step.tracing is not None:
            what = "tracing and compiling" if step.tracing > step.seconds / 2 else "a pause outside"
            what += "" if step.tracing > step.seconds / 2 else " of tracing"
        text = f"step {step.step} took {step.seconds:.3g} s, {step.seconds / usual:.0f} times the "
        found.append(f"{text}usual {usual:.3g} s: {what}")
    if len(found) > STEPS_SHOWN:
        found[STEPS_SHOWN:] = [
            f"and {len(found) - STEPS_SHOWN} more steps took over {SLOW:g} times the usual"
        ]
    return found


def _ranges(steps: Sequence[int], every: int) -> list[tuple[int, int]]:
    """Consecutive steps as ranges."""
    keyed = enumerate(steps)
    groups = groupby(keyed, key=lambda pair: pair[1] - every * pair[0])
    return [(run[0][1], run[-1][1]) for run in (list(group) for _, group in groups)]


def _steps(ranges: Sequence[tuple[int, int]], count: int) -> str:
    shown = ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in ranges[:STEPS_SHOWN])
    more = "" if len(ranges) <= STEPS_SHOWN else f" and {len(ranges) - STEPS_SHOWN} more ranges"
    return f"{'step' if count == 1 else 'steps'} {shown}{more}"
