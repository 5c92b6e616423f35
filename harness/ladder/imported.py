"""Runs that were not launched here: what they cannot show is not proven, whatever they log."""

from __future__ import annotations

import dataclasses

from harness.ladder.comparison import Comparison
from harness.ladder.result import Result, RungResult
from harness.ladder.rung import Rung
from harness.record.evidence import Record
from harness.record.termination import OK


def is_imported(record: Record) -> bool:
    """Whether a run was imported, and so shows nothing but the numbers that its trainer logged."""
    return record.manifest.imported is not None


def imported_runs(c: Comparison) -> list[Record]:
    """Those of both runs that were."""
    return [record for record in (c.a, c.b) if is_imported(record)]


def not_proven(rung: Rung, c: Comparison) -> RungResult | None:
    """INVALID, where a rung rests on more than numbers and a run was imported; else None."""
    runs = imported_runs(c)
    if rung.from_numbers or not runs:
        return None
    who = " and ".join(dict.fromkeys(record.label for record in runs))
    text = f"not proven: what a trainer logs does not show it ({who} imported)"
    return RungResult.invalid(rung.name, text)


def with_assumptions(result: RungResult, c: Comparison) -> RungResult:
    """A rung of an imported run that could not be judged, where a person takes it to hold.

    What was judged stays: an assumption makes no FAIL good. It is NOT_EXERCISED, and never a PASS.
    """
    if result.result is not Result.INVALID or result.rung not in assumed(c):
        return result
    text = f"assumed, not proven (--assume {result.rung}): {result.explanation}"
    return dataclasses.replace(result, result=Result.NOT_EXERCISED, explanation=text)


def assumed(c: Comparison) -> tuple[str, ...]:
    """The rungs that a person takes to hold, of either run."""
    named = [
        rung
        for record in (c.a, c.b)
        if record.manifest.imported is not None
        for rung in record.manifest.imported.assumed
    ]
    return tuple(dict.fromkeys(named))


def imported_notes(c: Comparison) -> tuple[str, ...]:
    """What was noticed when the runs were imported."""
    return tuple(
        f"{record.label}: {text}"
        for record in (c.a, c.b)
        if record.manifest.imported is not None
        for text in record.manifest.imported.findings
    )


def first_steps(record: Record, steps: int) -> Record:
    """The run as if no more had been asked for."""
    case = dataclasses.replace(record.case, steps=steps)
    ended = dataclasses.replace(record.ended, status=OK)
    manifest = dataclasses.replace(record.manifest, case=case, ended=ended)
    kept = tuple(step for step in record.steps if step.index < steps)
    return dataclasses.replace(record, manifest=manifest, steps=kept)
