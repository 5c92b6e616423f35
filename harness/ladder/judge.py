"""Judges one pair: every rung in causal order, and which of them say something."""

from __future__ import annotations

import dataclasses

from harness.ladder.comparison import Comparison
from harness.ladder.float64 import who_deviates
from harness.ladder.known_answers import wrong_known_answers
from harness.ladder.ladder import names, rungs
from harness.ladder.noise_floor import checked
from harness.ladder.result import Result, RungResult
from harness.ladder.rung import Rung
from harness.ladder.verdict import PairVerdict
from harness.record.termination import OK, STOPPED_EARLY


def judge(comparison: Comparison) -> PairVerdict:
    """The whole ladder for one pair of runs.

    A run that crashed or was ended makes every rung INVALID, with how it ended, and so does a
    device that computes fingerprints wrongly. A run that stopped early by itself is judged as far
    as its evidence goes, and never passes.
    """
    a, b = comparison.a, comparison.b
    for record in (a, b):
        ended = record.ended
        if ended.status not in (OK, STOPPED_EARLY) or record.trained_steps == 0:
            return _all_invalid(comparison, f"{record.label} {ended.status}: {ended.reason}")
    if (reason := wrong_known_answers(comparison)) is not None:
        return _all_invalid(comparison, reason)
    comparison, notes = checked(comparison)
    results: list[RungResult] = []
    for rung in rungs():
        broken = tuple(result.rung for result in results if not result.holds)
        results.append(_judged(rung, dataclasses.replace(comparison, broken=broken)))
    notes += who_deviates(comparison, results)
    return PairVerdict(a.label, b.label, str(a.directory), str(b.directory), tuple(results), notes)


def _judged(rung: Rung, c: Comparison) -> RungResult:
    """One rung, which says nothing while one that it needs does not hold."""
    result = rung.judge(c)
    if rung.float64_per_run and c.judges_per_run:
        return result
    broken = [name for name in rung.needs if name in c.broken]
    if not broken or result.result in (Result.INVALID, Result.NOT_EXERCISED):
        return result
    text = f"says nothing while {broken[0]} does not hold ({result.explanation})"
    return dataclasses.replace(result, result=Result.INVALID, explanation=text, detects="")


def _all_invalid(comparison: Comparison, reason: str) -> PairVerdict:
    a, b = comparison.a, comparison.b
    notes = [
        "\n".join([f"last lines of {record.label}'s log:", *record.ended.log])
        for record in (a, b)
        if record.ended.log
    ]
    results = tuple(RungResult.invalid(name, reason) for name in names())
    return PairVerdict(a.label, b.label, str(a.directory), str(b.directory), results, tuple(notes))
