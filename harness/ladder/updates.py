"""What explains that two AdamW optimizers update otherwise: bias correction, or weight decay.

From what a Record has of an update: its sketch, which is linear, and so that of a difference too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from harness.ladder.distances import sketch_norm

Sketch = tuple[float, ...]
Updates = Mapping[str, Sketch]
"""Sketches by the parameter's name."""

ALIKE = 0.02
"""Relative difference up to which a ratio is the one that is looked for: those that are looked for
are at least 5 % apart for the betas that are in use."""


def uncorrected(
    names: tuple[str, str], x: Updates, y: Updates, betas: Any, step: int
) -> str | None:
    """Which run leaves out which of Adam's bias corrections; None where that explains nothing.

    Adam divides its moments by 1 - beta^t (Kingma and Ba 2015, algorithm 1). An update without that
    is (1 - beta1^t) / sqrt(1 - beta2^t) times as long.

    names, x, y: of two runs, and their updates
    step:        number t of the update, from 1
    """
    ratio = _common_ratio(x, y)
    if ratio is None or not isinstance(betas, list | tuple) or len(betas) != 2:
        return None
    first, second = 1 - betas[0] ** step, math.sqrt(1 - betas[1] ** step)
    lengths = {
        "without bias correction": first / second,
        "without bias correction of the first moment": first,
        "without bias correction of the second moment": 1 / second,
    }
    for name, longer in ((names[1], ratio), (names[0], 1 / ratio)):
        for text, length in lengths.items():
            if abs(longer / length - 1) < ALIKE:
                return f"{name} updates {text}"
    return None


def decayed(
    names: tuple[str, str], x: Updates, y: Updates, weights: Updates, rate: float
) -> str | None:
    """By how much more one run decays its weights; None where that explains nothing.

    rate: sum of the learning rates of these updates
    """
    found = [k for n in x if n in weights and (k := _decay(x[n], y[n], weights[n])) is not None]
    if not found or not rate or max(found) - min(found) > ALIKE * max(map(abs, found)):
        return None
    more, less = (names[1], names[0]) if found[0] > 0 else names
    by = abs(found[0]) / rate
    return f"{more} decays {len(found)} of {len(x)} parameters by {by:.2g} more than {less}"


def _common_ratio(x: Updates, y: Updates) -> float | None:
    """How many times as long each of the updates `y` is as that in `x`, where all agree.

    Only where they have one direction too.
    """
    ratios = [_multiple(y[name], x[name]) for name in x.keys() & y.keys()]
    if not ratios or not all(ratio > 0 for ratio in ratios):
        return None
    return sum(ratios) / len(ratios) if max(ratios) <= (1 + ALIKE) * min(ratios) else None


def _decay(x: Sketch, y: Sketch, weights: Sketch) -> float | None:
    """The k for which the update `y` is `x - k * weights`; None where the rest is not small."""
    if len(x) != len(y):
        return None
    k = _multiple(tuple(p - q for p, q in zip(x, y, strict=True)), weights)
    return k if abs(k) > 0 else None


def _multiple(sketch: Sketch, direction: Sketch) -> float:
    """The multiple of `direction` that `sketch` is, by least squares; NaN where it is none."""
    square = sum(d * d for d in direction)
    if len(sketch) != len(direction) or square == 0:
        return math.nan
    k = sum(s * d for s, d in zip(sketch, direction, strict=True)) / square
    rest = sketch_norm(tuple(s - k * d for s, d in zip(sketch, direction, strict=True)))
    return k if rest <= ALIKE * abs(k) * sketch_norm(direction) else math.nan
