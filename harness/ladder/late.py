"""Why two runs part in the middle of training: by the gradients, or by what is made of them.

The loss of a step tells of all updates before it, and the gradient norm of a step is measured
before it is updated: which of them differs first says where to look. What Adam keeps at the end of
training, and how many updates it has counted, says what happened to it.
"""

from __future__ import annotations

import math

from harness.ladder.comparison import Comparison
from harness.ladder.distances import by_name, exceeds, relative_difference
from harness.ladder.series import gradient_norms
from harness.record.evidence import Record

TIMES_AS_LARGE = 1.25
"""How many times as large what an optimizer keeps has to be to be another: after runs have parted
their gradients differ as well, by percents."""

SECOND = "exp_avg_sq"
"""torch's name of Adam's second moment, which forgets little in a thousand steps."""


def cause(c: Comparison, step: int, limit: float) -> str:
    """In words, what happened before the loss of `step`, the first that differs; "" for nothing.

    limit: relative difference of gradient norms that counts as none
    """
    if (earlier := first_norm_apart(c, step, limit)) is not None:
        at, x, y = earlier
        text = (
            f"step {at}: the gradients differ, where the loss still agrees: their norm is {x:.6g} "
            f"in {c.names[0]}, {y:.6g} in {c.names[1]}, {y / x:.3g} times as large"
        )
        return "; ".join(filter(None, (text, _of_gradients(c))))
    if not step:
        return ""
    text = f"step {step - 1}: the gradients agree, and the updates that were made of them do not"
    what = _of_updates(c, step - 1)
    return text + (f": {what}" if what else "")


def first_norm_apart(c: Comparison, end: int, limit: float) -> tuple[int, float, float] | None:
    """The first step before `end` whose gradient norms differ, and both."""
    left, right = gradient_norms(c.a), gradient_norms(c.b)
    for step in range(end):
        x, y = left.get(step), right.get(step)
        if x and y and exceeds(relative_difference(x, y), limit):
            return step, x, y
    return None


def _of_updates(c: Comparison, step: int) -> str:
    """What the optimizers' own counts, and what Adam keeps, say of the updates from `step` on."""
    for record, other in ((c.a, c.b), (c.b, c.a)):
        counts, theirs = _counted(record), _counted(other)
        fewer = [name for name, count in counts.items() if count < theirs.get(name, -math.inf)]
        if not fewer:
            continue
        of, count = _which(fewer, len(counts)), counts[fewer[0]]
        if count == record.trained_steps - step:
            return f"{record.label} began anew to count its updates of {of}: its state was reset"
        return f"{record.label} has counted {count:g} updates of {of}, not {theirs[fewer[0]]:g}"
    return _of_gradients(c)


def _of_gradients(c: Comparison) -> str:
    """What Adam keeps at the end says whose gradients were others."""
    ratios = _ratios(c.a, c.b, SECOND)
    if odd := [name for name, ratio in ratios.items() if max(ratio, 1 / ratio) > TIMES_AS_LARGE]:
        furthest = max(odd, key=lambda name: abs(math.log(ratios[name])))
        return (
            f"what Adam keeps of {_which([furthest, *odd], len(ratios))} ends otherwise, as of "
            f"other gradients: {SECOND} is {ratios[furthest]:.3g} times as large in {c.names[1]}"
        )
    return ""


def _which(names: list[str], total: int) -> str:
    """A person's name for some of `total` parameters."""
    different = list(dict.fromkeys(names))
    if len(different) == total:
        return "every parameter"
    return different[0] + (f" and {len(different) - 1} more" if different[1:] else "")


def _counted(record: Record) -> dict[str, float]:
    """By parameter, the updates that the optimizer had counted at the end, where it counts them."""
    return {p.name: p.counted for p in record.parameters if p.counted is not None}


def _ratios(a: Record, b: Record, moment: str) -> dict[str, float]:
    """By parameter, how many times as large this moment is in `b` at the end."""
    left, right = by_name(a), by_name(b)
    found = {}
    for name in (n for n in left if n in right):
        x, y = left[name].state_final.get(moment), right[name].state_final.get(moment)
        if x is not None and y is not None and 0 < x.norm < math.inf and 0 < y.norm < math.inf:
            found[name] = y.norm / x.norm
    return found
