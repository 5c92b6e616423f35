"""Whether two runs do the same work in a step: as many micro-batches, of the same shapes."""

from __future__ import annotations

from harness.record.evidence import Record, Step


def skipped_updates(record: Record) -> dict[int, int]:
    """Steps before which an update was skipped, and the micro-batches that they took.

    That is a multiple of what the case asks for, which other steps have.
    """
    accumulation = record.case.accumulation
    micro = {step.index: len(step.micro_losses) for step in record.steps if step.finished}
    skipped = {step: n for step, n in micro.items() if n > accumulation and n % accumulation == 0}
    return {} if len(skipped) == len(micro) else skipped


def other_work(a: Record, b: Record) -> int | None:
    """The first step in which the runs work on batches of other number or shape; None for none.

    A step that only one of them has is such a step.
    """
    left, right = ({s.index: _shapes(s) for s in r.steps if s.finished} for r in (a, b))
    steps = sorted(left.keys() | right.keys())
    return next((step for step in steps if left.get(step) != right.get(step)), None)


def _shapes(step: Step) -> list[tuple[int, ...]]:
    return [batch.shape for batch in step.batches]
