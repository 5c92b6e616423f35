"""The series that charts and event files draw, out of a Record."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from harness.ladder.distances import relative_difference
from harness.record.evidence import Record, Step

ByStep = dict[int, float | None]
"""A value, or None where none was observed, by optimizer step in ascending order."""


def series(record: Record, of: Callable[[Step], float | None]) -> ByStep:
    """One quantity over the steps of a run."""
    return {step.index: of(step) for step in record.steps}


def learning_rates(record: Record) -> list[ByStep]:
    """The learning rates of each optimizer group; a single one where all groups are equal."""
    groups = max((len(step.learning_rates) for step in record.steps), default=0)
    rates = [_group(record, group) for group in range(groups)]
    return rates[:1] if all(one == rates[0] for one in rates) else rates


def difference(a: ByStep, b: ByStep) -> ByStep:
    """|a − b| over the larger of both, at every step of either, as the loss_curve rung judges it.

    None where one has no value, NaN where one is not finite.
    """
    both = sorted(a.keys() | b.keys())
    return {step: _distance(a.get(step), b.get(step)) for step in both}


def finite(values: ByStep) -> dict[int, float]:
    """The steps that have a finite value."""
    return {step: v for step, v in values.items() if v is not None and math.isfinite(v)}


def broken(values: ByStep) -> list[int]:
    """The steps whose value is NaN or infinite."""
    return [step for step, v in values.items() if v is not None and not math.isfinite(v)]


def spell(steps: Sequence[int], shown: int = 6) -> str:
    """Steps as a person would list them: "step 7", "steps 1, 2, 3 and 4 more"."""
    listed = ", ".join(map(str, steps[:shown]))
    rest = f" and {len(steps) - shown} more" if len(steps) > shown else ""
    return f"{'step' if len(steps) == 1 else 'steps'} {listed}{rest}"


def _group(record: Record, group: int) -> ByStep:
    return {
        step.index: step.learning_rates[group] if group < len(step.learning_rates) else None
        for step in record.steps
    }


def _distance(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else relative_difference(a, b)
