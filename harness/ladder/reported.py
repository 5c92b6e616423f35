"""What a trainer's own log says of its training, held against what was observed."""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.ladder.distances import exceeds, relative_difference
from harness.ladder.result import Finding
from harness.record.evidence import Record

AS_PRINTED = 1e-3
"""Relative difference of what a log says from what it means: trainers print four decimals, and
averages of their own in float32."""


def misreported(record: Record) -> Iterator[Finding]:
    """Where a trainer's own log says something else than was observed.

    What it says of steps that were not all observed is left out.
    """
    steps = {step.index: step for step in record.steps}
    for reported in record.manifest.reported:
        spoken = [step for step in steps.values() if reported.first <= step.index <= reported.last]
        losses = [step.loss for step in spoken if step.loss is not None]
        if not losses or len(losses) != reported.last - reported.first + 1:
            continue
        last, mean = steps[reported.last], math.fsum(losses) / len(losses)
        if exceeds(relative_difference(reported.loss, mean), AS_PRINTED):
            when = (
                f"step {reported.last}"
                if len(losses) == 1
                else f"steps {reported.first}-{reported.last}"
            )
            text = (
                f"{when}: {record.label} reports a loss of {reported.loss:g}, and it is {mean:.6g}"
            )
            cause = _cause(reported.loss / mean if mean else math.nan, len(last.micro_losses))
            kind = f"reported loss{cause}" if cause else ""  # what has no cause may be two things
            yield Finding(text + cause, reported.last, None, reported.loss, mean, kind=kind)
        norms = reported.gradient_norm, last.gradient_norm
        if None not in norms and exceeds(relative_difference(*norms), AS_PRINTED):
            text = f"step {reported.last}: {record.label} reports a gradient norm of {norms[0]:g}, "
            yield Finding(f"{text}and it is {norms[1]:.6g}", reported.last, None, *norms)


def _cause(ratio: float, micro_batches: int) -> str:
    """What a loss that is reported `ratio` times as large is, where that can be told."""
    if micro_batches > 1 and abs(ratio / micro_batches - 1) < AS_PRINTED:
        return f": the sum over {micro_batches} micro-batches"
    if micro_batches > 1 and abs(ratio * micro_batches - 1) < AS_PRINTED:
        return f": divided by {micro_batches} micro-batches"
    return ""
