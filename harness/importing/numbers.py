"""The numbers of a run as its trainer left them, whatever it left them in."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

QUANTITIES = ("loss", "learning_rate", "gradient_norm")
"""What is read of each step, by the name of the field of `Point`."""


@dataclass(frozen=True)
class Point:
    """What was logged of one optimizer step, counted from 0; None for what was not.

    at:      when it was logged, in seconds since 1970
    seconds: what the trainer says that the step took
    tracing: how much of that was tracing and compiling on the host
    """

    step: int
    loss: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    at: float | None = None
    seconds: float | None = None
    tracing: float | None = None


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run beside its steps; None and empty for what is not.

    engine:    the trainer that it is of
    steps:     optimizer steps that were asked for
    arguments: the trainer's own configuration
    """

    engine: str | None = None
    steps: int | None = None
    dtype: str | None = None
    global_batch: int | None = None
    accumulation: int | None = None
    max_norm: float | None = None
    sequence_length: int | None = None
    warmup_steps: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


Known = TypeVar("Known", Point, RunFacts)


@dataclass(frozen=True)
class LoggedSource:
    """One file, or one kind of line, that was read.

    what:     what it is, in a few words, with where it lies
    points:   by step
    every:    steps whose mean the loss of a point is
    began:    when the trainer began to write it, in seconds since 1970
    rounding: by quantity: how far, relatively, a number may be from the one that was printed
    notes:    what a reader has to know of it
    """

    what: str
    points: tuple[Point, ...] = ()
    every: int = 1
    began: float | None = None
    rounding: Mapping[str, float] = field(default_factory=dict)
    facts: RunFacts = field(default_factory=RunFacts)
    notes: tuple[str, ...] = ()


def first_of(first: RunFacts, *others: RunFacts) -> RunFacts:
    """What any of them knows; the first that knows something is believed."""
    return functools.reduce(_completed, others, first)


def joined(sources: Sequence[LoggedSource]) -> tuple[Point, ...]:
    """The points of several sources; of each number, the first source that has it is believed."""
    steps: dict[int, Point] = {}
    for source in sources:
        for point in source.points:
            known = steps.get(point.step)
            steps[point.step] = point if known is None else _completed(known, point)
    return tuple(steps[step] for step in sorted(steps))


def _completed(known: Known, other: Known) -> Known:
    """`known`, with what only `other` knows."""
    unknown = {
        key.name: getattr(other, key.name)
        for key in dataclasses.fields(known)
        if getattr(known, key.name) in (None, {})
    }
    return dataclasses.replace(known, **unknown)


def spacing(steps: Sequence[int]) -> int:
    """The distance of most neighbours."""
    gaps = [b - a for a, b in pairwise(steps)]
    return max(set(gaps), key=gaps.count) if gaps else 1


_PRINTED = re.compile(r"^[+-]?\d*\.?(?P<decimals>\d*)(?P<exponent>[eE][+-]?\d+)?$")


def rounding(texts: Iterable[str]) -> float:
    """How far, relatively, printed numbers may be from what they were, at most.

    Half a unit in the last place that any of them shows, as trailing zeros are often dropped.

    >>> rounding(["1.2352", "0.5"])
    0.0001
    >>> rounding(["9.89e-06", "1.00e-06"])
    0.005
    """
    fixed, scientific, values = 0, 0, []
    in_exponents = False
    for text in texts:
        found = _PRINTED.match(text.strip())
        if found is None:  # nan, inf
            continue
        decimals = len(found["decimals"])
        if found["exponent"]:
            in_exponents, scientific = True, max(scientific, decimals)
        else:
            fixed = max(fixed, decimals)
        values.append(abs(float(text)))
    if in_exponents:
        return 0.5 * 10.0 ** -max(scientific, fixed)
    smallest = min((value for value in values if value > 0), default=math.inf)
    return 0.5 * 10.0**-fixed / smallest
