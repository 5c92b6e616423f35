"""What an optimizer keeps of its gradients: the nearest that shows what it was given.

An update of Adam has the size of the learning rate, and little of its gradient's: the moments that
it is made of are linear and quadratic in the gradients, and as near as these are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sized

from harness.ladder.distances import by_name, largest, relative_distance
from harness.record.evidence import Fingerprint, Parameter, Record


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
            for kind, distance in _state_distances(x, y).items():
                found[name, step, kind] = distance
    return found


def last_moment_distances(a: Record, b: Record) -> dict[str, float]:
    """Relative distance, by parameter, of what the optimizers keep of it at the end.

    The largest of its moments; infinite for one that only one of the runs keeps. Empty where
    neither keeps anything.
    """
    left, right = by_name(a), by_name(b)
    found = {
        name: _state_distances(left[name].state_final, right[name].state_final)
        for name in left
        if name in right
    }
    return {name: largest(each.values()) for name, each in found.items() if each}


def observed_alone(a: Record, b: Record, state: Callable[[Parameter], Sized]) -> str | None:
    """Label of the only one of two runs of which a `state` of the optimizer was observed."""
    held = [record.label for record in (a, b) if any(map(state, record.parameters))]
    return held[0] if len(held) == 1 else None


def _state_distances(
    x: Mapping[str, Fingerprint], y: Mapping[str, Fingerprint]
) -> dict[str, float]:
    return {
        kind: relative_distance(x[kind], y[kind]) if kind in x and kind in y else math.inf
        for kind in sorted({*x, *y})
    }


def _kept(states: tuple[dict[str, Fingerprint], ...], step: int) -> Mapping[str, Fingerprint]:
    return states[step] if step < len(states) else {}
