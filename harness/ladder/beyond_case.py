"""What a run trains that its case does not say: float64, which trains what it says, cannot tell."""

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
    if observed.autocast not in (None, record.case.computed_in):
        parts.append(f"casts {record.case.dtype} to {observed.autocast} (autocast)")
    return parts + [f"drops {share:g} of {name}" for name, share in observed.dropout.items()]


def lacking(record: Record) -> list[str]:
    """What a case asks of a run, and the process was not seen to do; in words as above."""
    case, observed = record.case, record.observed
    if not isinstance(case, Case):
        return []
    if case.autocast in (None, observed.autocast):
        return []
    return [f"does not cast {case.dtype} to {case.autocast} (autocast)"]
