"""The loss of a step, and what a trainer divides it by before it calls `backward()`."""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.ladder.result import Finding
from harness.record.evidence import Record, Step

NEAR = 0.1
"""Relative difference up to which a ratio is taken for a number of micro-batches. Means over labels
that are counted otherwise differ by a few percent, and two micro-batches from one by a factor."""


def first_loss(record: Record) -> float | None:
    """The loss of step 0: before any division that only its gradients show."""
    if not record.steps or record.steps[0].index != 0:
        return None
    first = record.steps[0]
    return None if first.loss is None else first.loss * division(first)


def division(step: Step) -> float:
    """What the sum of a step's losses is divided by before `backward()`; 1 for nothing.

    That sum is the mean over all labels of the step, whatever the number n of micro-batches. Where
    the cross-entropies are n times or 1/n of it, the trainer divided once too often, or forgot to.
    1 as well where they were not observed, and for a single micro-batch.
    """
    n, mean = len(step.micro_losses), mean_cross_entropy(step)
    if n < 2 or mean is None or not step.loss:
        return 1.0
    ratio = mean / step.loss
    return next((f for f in (float(n), 1 / n) if abs(ratio / f - 1) < NEAR), 1.0)


def mean_cross_entropy(step: Step) -> float | None:
    """Mean cross-entropy over the labels that count in a step; None where it cannot be known."""
    n = len(step.micro_losses)
    targets = [batch.targets for batch in step.batches]
    if not n or len(targets) != n or len(step.cross_entropies) != n or not all(targets):
        return None
    sums = []
    for found, count in zip(step.cross_entropies, targets, strict=True):
        if found.reduction not in ("sum", "mean") or not math.isfinite(found.value):
            return None
        sums.append(found.value * (count if found.reduction == "mean" else 1))
    return math.fsum(sums) / sum(targets)


def divided(record: Record) -> Iterator[Finding]:
    """What `backward()` was called on at step 0 where that is not the loss."""
    if not record.steps or record.steps[0].index != 0:
        return
    first = record.steps[0]
    by, n = division(first), len(first.micro_losses)
    if by == 1:
        return
    if by > 1:
        text = f"{record.label} called backward() on its loss divided by {n}, once too often"
    else:
        text = f"{record.label} called backward() on the sum of its {n} micro-batches' mean losses"
    yield Finding(text, 0, kind=f"division by {by:g}")
