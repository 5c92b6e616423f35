"""Judges one pair: every rung in causal order, and which of them say something."""

from __future__ import annotations

import dataclasses

from harness.ladder.comparison import Comparison
from harness.ladder.float64 import who_deviates
from harness.ladder.imported import assumed, imported_notes, not_proven, with_assumptions
from harness.ladder.known_answers import wrong_known_answers
from harness.ladder.ladder import names, rungs
from harness.ladder.noise_floor import checked
from harness.ladder.result import Result, RungResult
from harness.ladder.rung import Rung
from harness.ladder.rungs import environment
from harness.ladder.verdict import PairVerdict
from harness.record.evidence import Record
from harness.record.termination import OK, STOPPED_EARLY

NOT_EXECUTED = "the steps were traced and not executed (stage=true)"


def judge(comparison: Comparison) -> PairVerdict:
    """The whole ladder for one pair of runs.

    A run that crashed or was ended makes every rung INVALID, with how it ended, and so does a
    device that computes fingerprints wrongly. A run that stopped early by itself is judged as far
    as its evidence goes, and never passes.
    """
    a, b = comparison.a, comparison.b
    sides = (a.label, a), (b.label, b)
    for record in (a, b):
        if (reason := why_untrained(record)) is not None:
            return untrained(*sides, reason)
    if a.staged != b.staged:
        which = a.label if a.staged else b.label
        return untrained(*sides, f"of {which} alone the steps were traced and not executed")
    if not a.staged and (reason := wrong_known_answers(comparison)) is not None:
        return untrained(*sides, reason)
    comparison, notes = checked(comparison)
    results: list[RungResult] = []
    for rung in rungs():
        if a.staged and not rung.traced:
            results.append(RungResult.not_exercised(rung.name, NOT_EXECUTED))
            continue
        broken = tuple(result.rung for result in results if not result.holds)
        judged = _judged(rung, dataclasses.replace(comparison, broken=broken))
        results.append(_unless_it_follows(rung, judged, results))
    notes += who_deviates(comparison, results) + imported_notes(comparison)
    return PairVerdict(
        a.label,
        b.label,
        str(a.directory),
        str(b.directory),
        tuple(results),
        notes,
        assumed(comparison),
    )


def _judged(rung: Rung, c: Comparison) -> RungResult:
    """One rung, which says nothing while one that it needs does not hold."""
    result = with_assumptions(not_proven(rung, c) or rung.judge(c), c)
    if rung.float64_per_run and c.judges_per_run(*rung.float64_per_run):
        return result
    broken = [name for name in rung.needs if name in c.broken]
    if not broken or result.result in (Result.INVALID, Result.NOT_EXERCISED):
        return result
    text = f"says nothing while {broken[0]} does not hold ({result.explanation})"
    return dataclasses.replace(result, result=Result.INVALID, explanation=text, detects="")


def _unless_it_follows(rung: Rung, judged: RungResult, above: list[RungResult]) -> RungResult:
    """A rung that fails, INVALID where that may follow from what fails above it.

    What begins before that has a cause of its own.
    """
    if judged.result is not Result.FAIL:
        return judged
    causes = [r for r in above if r.rung in rung.follows and _is_a_cause(r)]
    # A loss tells of the update before it.
    cause = next((r for r in causes if r.since - 1 <= judged.since), None)
    if cause is None:
        return judged
    text = f"says nothing while {cause.rung} does not hold ({judged.explanation})"
    return dataclasses.replace(judged, result=Result.INVALID, explanation=text)


def _is_a_cause(result: RungResult) -> bool:
    """Whether what lies below can follow: other versions are often compared on purpose."""
    if result.result is not Result.FAIL:
        return False
    return result.rung != environment.RUNG.name or not all(
        map(environment.of_stack, result.findings)
    )


def why_untrained(record: Record) -> str | None:
    """Why a run says nothing of how it trains; None for one that can be judged."""
    ended = record.ended
    if ended.status in (OK, STOPPED_EARLY) and record.trained_steps > 0:
        return None
    return f"{record.label} {ended.status}: {ended.reason}"


Side = tuple[str, Record | None]
"""The label of one side of a pair, and its run; None for one that was not launched."""


def untrained(a: Side, b: Side, reason: str) -> PairVerdict:
    """The verdict of runs that say nothing: every rung is INVALID for `reason`.

    A side that was not launched was spared for the sake of the other.
    """
    logs = tuple(
        "\n".join([f"last lines of {record.label}'s log:", *record.ended.log])
        for _, record in (a, b)
        if record is not None and record.ended.log
    )
    spared = tuple(
        f"{label} was not trained: no verdict can come of it"
        for label, record in (a, b)
        if record is None
    )
    results = tuple(RungResult.invalid(name, reason) for name in names())
    first, second = ("" if record is None else str(record.directory) for _, record in (a, b))
    return PairVerdict(a[0], b[0], first, second, results, (*logs, *spared))
