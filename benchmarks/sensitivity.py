"""How strong a fault has to be to be caught: the smallest strength, by rung, for one pair of runs.

    python benchmarks/sensitivity.py RECORD_A RECORD_B

The second run's evidence is changed as a fault of that strength would leave it, and judged by the
documented floors. Strengths are relative, and found by bisection to two digits.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

from harness.config.compose import load
from harness.ladder.comparison import Comparison
from harness.ladder.judge import judge
from harness.ladder.result import Result
from harness.record.evidence import Fingerprint, Parameter, Record
from harness.record.reader import read_record

Change = Callable[[Record, float], Record]


def scaled(print_: Fingerprint | None, by: float) -> Fingerprint | None:
    """The fingerprint of the tensor times `by`."""
    if print_ is None:
        return None
    return Fingerprint(print_.bits ^ 1, tuple(s * by for s in print_.sketch), print_.norm * by)


def moved(first: Fingerprint | None, last: Fingerprint | None, by: float) -> Fingerprint | None:
    """The fingerprint of a tensor that went `by` times as far from `first` as `last` did."""
    if first is None or last is None:
        return None
    sketch = tuple(x + by * (y - x) for x, y in zip(first.sketch, last.sketch, strict=True))
    return Fingerprint(last.bits ^ 1, sketch, last.norm)


def one_parameter(change: Callable[[Parameter, float], Parameter]) -> Change:
    """A fault in the parameter that is in the middle of the model."""

    def apply(run: Record, strength: float) -> Record:
        parameters = list(run.parameters)
        middle = len(parameters) // 2
        parameters[middle] = change(parameters[middle], 1 + strength)
        return dataclasses.replace(run, parameters=tuple(parameters))

    return apply


def loss_at(step: int) -> Change:
    def apply(run: Record, strength: float) -> Record:
        steps = list(run.steps)
        at, by = steps[step], 1 + strength
        losses = tuple(loss * by for loss in at.micro_losses)
        steps[step] = dataclasses.replace(at, loss=(at.loss or 0) * by, micro_losses=losses)
        return dataclasses.replace(run, steps=tuple(steps))

    return apply


def norm_at(step: int) -> Change:
    def apply(run: Record, strength: float) -> Record:
        steps = list(run.steps)
        norm = (steps[step].gradient_norm or 0) * (1 + strength)
        steps[step] = dataclasses.replace(steps[step], gradient_norm=norm)
        return dataclasses.replace(run, steps=tuple(steps))

    return apply


def rates(run: Record, strength: float) -> Record:
    steps = tuple(
        dataclasses.replace(s, learning_rates=tuple(r * (1 + strength) for r in s.learning_rates))
        for s in run.steps
    )
    return dataclasses.replace(run, steps=steps)


def clipped(run: Record, strength: float) -> Record:
    parameters = tuple(
        dataclasses.replace(p, clipped_norm=(p.clipped_norm or 0) * (1 + strength))
        for p in run.parameters
    )
    return dataclasses.replace(run, parameters=parameters)


FAULTS: dict[str, tuple[str, Change]] = {
    "loss of step 0": ("forward", loss_at(0)),
    "gradient of one parameter": (
        "backward", one_parameter(lambda p, by: dataclasses.replace(
            p, gradient=scaled(p.gradient, by)))),
    "scale of clipping": ("clip", clipped),
    "first updates of one parameter": (
        "optimizer", one_parameter(lambda p, by: dataclasses.replace(
            p, after=tuple(moved(p.initial, a, by) or a for a in p.after)))),
    "learning rate": ("schedule", rates),
    "loss of the last step": ("loss_curve", loss_at(-1)),
    "course of one parameter": (
        "loss_curve", one_parameter(lambda p, by: dataclasses.replace(
            p, final=moved(p.initial, p.final, by)))),
    "gradient norm of the last step": ("grad_norm_curve", norm_at(-1)),
}  # fmt: skip
"""By name: the rung that ought to catch it, and what it does to the evidence of a run."""


def smallest(a: Record, b: Record, rung: str, change: Change) -> float | None:
    """The smallest strength that fails `rung`; None where 10 does not."""
    tolerance = load([]).tolerance

    def caught(strength: float) -> bool:
        verdict = judge(Comparison(a, change(b, strength), tolerance))
        return verdict.rung(rung).result is Result.FAIL

    low, high = 1e-10, 10.0
    if not caught(high):
        return None
    while high / low > 1.01:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if caught(middle) else (middle, high)
    return high


def main(first: str, second: str) -> None:
    """Print the table of one pair."""
    a, b = read_record(Path(first)), read_record(Path(second))
    verdict = judge(Comparison(a, b, load([]).tolerance))
    print(f"{a.case.name}, {a.case.dtype}: {verdict.headline}\n")
    print("| fault in | rung | caught from |\n|---|---|---|")
    for name, (rung, change) in FAULTS.items():
        found = smallest(a, b, rung, change)
        print(f"| {name} | {rung} | {'never' if found is None else f'{found:.2g}'} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
