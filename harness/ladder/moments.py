"""What an optimizer keeps of the first gradients: the nearest that shows what it was given.

An update of Adam has the size of the learning rate, and little of its gradient's: the moments that
it is made of are linear and quadratic in the gradients, and as near as these are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from harness.ladder.distances import by_name, relative_distance, worst
from harness.record.evidence import Fingerprint, Record


def steps_alike(a: Record, b: Record) -> int:
    """How many of the first two steps took their gradients at the weights that both began with:
    the second does where a warm-up from zero made the first update none."""
    rates = [rate for record in (a, b) for step in record.steps[:1] for rate in step.learning_rates]
    return 1 if any(rates) else 2


def moment_distances(a: Record, b: Record) -> dict[tuple[str, int, str], float]:
    """Relative distance of every moment, by parameter, step, and torch's name of it.

    Of the steps that are alike (`steps_alike`). Infinite for one that only one of the runs has.
    Empty where no optimizer keeps any, such as one without momentum.
    """
    left, right = by_name(a), by_name(b)
    found: dict[tuple[str, int, str], float] = {}
    for name in (name for name in left if name in right):
        for step in range(steps_alike(a, b)):
            x, y = _kept(left[name].state_after, step), _kept(right[name].state_after, step)
            for kind in sorted({*x, *y}):
                both = kind in x and kind in y
                found[name, step, kind] = relative_distance(x[kind], y[kind]) if both else math.inf
    return found


def _kept(states: tuple[dict[str, Fingerprint], ...], step: int) -> Mapping[str, Fingerprint]:
    return states[step] if step < len(states) else {}


def worst_moment_distance(a: Record, b: Record) -> float | None:
    """The largest of `moment_distances`; None where there are none."""
    distances = moment_distances(a, b)
    return worst(distances)[1] if distances else None
