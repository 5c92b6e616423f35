"""What a run trains that its case does not say: the float64 reference, which does, cannot tell."""

from __future__ import annotations

from harness.config.case import Case
from harness.record.evidence import Record


def beyond_case(record: Record) -> list[str]:
    """In words that follow the run's name: arguments of its user, autocasting, dropout."""
    arguments = record.manifest.beyond_case.items()
    return [f"trains with {key}={value}" for key, value in arguments] + computes_beyond(record)


def computes_beyond(record: Record) -> list[str]:
    """What the process of a run of a case was seen to compute beyond it, whoever asked for that."""
    if not isinstance(record.case, Case):
        return []
    observed, parts = record.observed, []
    if observed.autocast is not None and observed.autocast != record.case.dtype:
        parts.append(f"casts {record.case.dtype} to {observed.autocast} (autocast)")
    return parts + [f"drops {share:g} of {name}" for name, share in observed.dropout.items()]
