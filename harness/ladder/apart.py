"""How far apart two runs are, in three numbers: for a table of many pairs."""

from __future__ import annotations

from dataclasses import dataclass

from harness.ladder.distances import largest
from harness.ladder.series import furthest_apart, gradient_norms, losses
from harness.record.evidence import Record


@dataclass(frozen=True)
class Apart:
    """What two runs of one training differ by; None for what was not observed in both.

    loss:  largest difference of the losses of any step, in nats
    norm:  largest relative difference of the gradient norms of any step
    first: first step whose losses are not bitwise equal; None where all are
    """

    loss: float | None = None
    norm: float | None = None
    first: int | None = None


def apart(a: Record, b: Record) -> Apart:
    """The numbers of two runs. A step that one of them lacks tells nothing."""
    left, right = losses(a), losses(b)
    both = [
        (step, x, y)
        for step in sorted(left.keys() & right.keys())
        if (x := left[step]) is not None and (y := right[step]) is not None
    ]
    if not both:
        return Apart()
    loss = largest(abs(x - y) for _, x, y in both)
    first = next((step for step, x, y in both if x != y), None)
    return Apart(loss, _norms_apart(a, b), first)


def _norms_apart(a: Record, b: Record) -> float | None:
    """None where one of them measured no norm at all, as where nothing is clipped."""
    x, y = gradient_norms(a), gradient_norms(b)
    measured = all(any(norm is not None for norm in norms.values()) for norms in (x, y))
    return furthest_apart(x, y) if measured else None
