"""What a run trains that its case does not say: float64, which trains what it says, cannot tell."""

from __future__ import annotations

from harness.config.case import Case
from harness.models.family import family
from harness.record.evidence import Record


def beyond_case(record: Record) -> list[str]:
    """In words that follow the run's name: arguments of its user, autocasting, dropout.

    What a case asks to be dropped is drawn, and no two trainers draw alike.
    """
    arguments = [f"trains with {k}={v}" for k, v in record.manifest.beyond_case.items()]
    asked = _asked(record).items()
    drawn = [f"drops {share:g} of {name} by draws of its own" for name, share in asked]
    return [*arguments, *computes_beyond(record), *drawn]


def computes_beyond(record: Record) -> list[str]:
    """What the process of a run of a case was seen to compute beyond it, whoever asked for that."""
    if not isinstance(record.case, Case):
        return []
    observed, parts, asked = record.observed, [], _asked(record)
    if observed.autocast not in (None, record.case.computed_in):
        parts.append(f"casts {record.case.dtype} to {observed.autocast} (autocast)")
    beyond = {name: share for name, share in observed.dropout.items() if name not in asked}
    return parts + [f"drops {share:g} of {name}" for name, share in beyond.items()]


def lacking(record: Record) -> list[str]:
    """What a case asks of a run, and the process was not seen to do; in words as above."""
    case, observed = record.case, record.observed
    if not isinstance(case, Case):
        return []
    if case.autocast in (None, observed.autocast):
        return []
    return [f"does not cast {case.dtype} to {case.autocast} (autocast)"]


def _asked(record: Record) -> dict[str, float]:
    """Of what was seen to be dropped, what the case asks for."""
    seen, case = record.observed.dropout, record.case
    if not isinstance(case, Case) or not seen or not case.model.options:
        return {}
    asked = family(case.model.family).drops(case.model)
    return {name: share for name, share in seen.items() if asked.get(name) == share}
