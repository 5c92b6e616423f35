"""Verdicts of the gate that the ladder alone does not give; pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from harness.config.case import ALIGNED, AS_SHIPPED
from harness.gate.change import equal_parameters
from harness.ladder.ladder import names as rung_names
from harness.ladder.ladder import rung as rung_of
from harness.ladder.result import Finding, Result, RungResult
from harness.ladder.rungs import environment, graph, sharding
from harness.ladder.verdict import PairVerdict
from harness.record.evidence import Record

STANDING = (sharding.RUNG.name, graph.RUNG.name)
"""Rungs that find what a trainer always does. What they find takes no evidence from the others, as
steps that both runs lack would."""


def without_evidence(
    names: tuple[str, str], places: tuple[str, str], because: str, failed: str | None = None,
    notes: tuple[str, ...] = (),
) -> PairVerdict:  # fmt: skip
    """Every rung INVALID `because` of something; the rung `failed` is a FAIL for the same."""
    results = dict.fromkeys(rung_names(), Result.INVALID)
    if failed is not None:
        results[failed] = Result.FAIL
    rungs = tuple(RungResult(name, result, because) for name, result in results.items())
    return PairVerdict(*names, *places, rungs, notes)


def only_with(pair: PairVerdict, failed: str, because: str) -> PairVerdict:
    """The verdict of a candidate that trains with a workaround only: the rung `failed` says so."""
    then = f"with it, {pair.headline}"
    broken = RungResult(failed, Result.FAIL, f"{because}; {then}")
    rungs = tuple(broken if r.rung == failed else r for r in pair.rungs)
    return dataclasses.replace(pair, rungs=rungs)


def with_parameters(pair: PairVerdict, a: Record, b: Record) -> PairVerdict:
    """The verdict with a note of whether both runs ended in bitwise equal parameters."""
    note = f"final parameters: {equal_parameters(a, b)}"
    return dataclasses.replace(pair, notes=(note, *pair.notes))


def against_stored(pair: PairVerdict, aligned: bool) -> PairVerdict:
    """The verdict against a stored baseline, which must not be blamed on what is gated.

    Where the harness prepares weights and rows, another start means another baseline.
    """
    kind = ALIGNED if aligned else AS_SHIPPED
    broken = [
        result.rung
        for result in pair.rungs
        if result.result is Result.FAIL and kind in rung_of(result.rung).prepared
    ]
    if not broken:
        return pair
    because = f"the baseline is not comparable: {broken[0]}: {pair.rung(broken[0]).explanation}"
    found = pair.rung(broken[0]).findings
    rungs = tuple(
        RungResult.invalid(r.rung, because, found if r.rung == broken[0] else ())
        for r in pair.rungs
    )
    return dataclasses.replace(pair, rungs=rungs)


def with_defects_of_both(pair: PairVerdict, dumped: bool = False) -> PairVerdict:
    """The verdict where both versions do alike what their case, or any good run, does not.

    Between two trainers it is a finding, as for either alone. Between versions of one it is what
    the baseline does too: no change. Its rung claims nothing then, and a note says what it is.

    dumped: whether the compiled steps were to be compared, which they are only where the counters
            hold: then nothing is known of what was asked for, and `graph` is INVALID
    """
    alike = _alike(pair)
    known = {
        r.rung: RungResult.not_exercised(r.rung, f"the same in both: {r.explanation}")
        for r in alike
    }
    if dumped and graph.RUNG.name in known:
        because = f"compiled steps were not compared; {known[graph.RUNG.name].explanation}"
        known[graph.RUNG.name] = RungResult.invalid(graph.RUNG.name, because)
    notes = [f"{r.rung}: both versions: {'; '.join(f.text for f in r.findings)}" for r in alike]
    rungs = tuple(known.get(r.rung, r) for r in pair.rungs)
    return dataclasses.replace(pair, rungs=rungs, notes=(*pair.notes, *notes))


def _alike(pair: PairVerdict) -> list[RungResult]:
    """The standing rungs whose findings are of both runs: those that fail, and those that were not
    judged for the sake of such a one alone."""
    alike: list[RungResult] = []
    for rung in pair.rungs:
        fails = rung.result is Result.FAIL
        follows = bool(alike) and rung.result is Result.INVALID
        if rung.rung in STANDING and (fails or follows) and _of_both(rung):
            alike.append(rung)
        elif fails:
            break  # what stands below it may follow from this
    return alike


def _of_both(rung: RungResult) -> bool:
    """Whether all that a rung found is of both runs: one finding each, or one of equal numbers."""
    between = [finding for finding in rung.findings if finding.run is None]
    if not rung.findings or any(f.a is None or f.a != f.b for f in between):
        return False
    found = {run: [_without_run(f) for f in rung.findings if f.run == run] for run in ("a", "b")}
    for finding in found["a"]:
        if finding not in found["b"]:
            return False
        found["b"].remove(finding)
    return not found["b"]


def _without_run(finding: Finding) -> Finding:
    """What was found, whichever run it was found in, and in whatever words."""
    return dataclasses.replace(finding, text="", run=None)


def with_wanted_stack(pair: PairVerdict) -> PairVerdict:
    """The verdict where torch and torch_xla are what is gated: they are meant to differ.

    A rung that fails without a finding is that of a candidate that does not train.
    """
    rung = pair.rung(environment.RUNG.name)
    meant = rung.findings and all(environment.of_stack(f) for f in rung.findings)
    if rung.result is not Result.FAIL or not meant:
        return pair
    wanted = dataclasses.replace(
        rung,
        result=Result.NOT_EXERCISED,
        explanation=f"differs as it was asked for: {rung.explanation}",
    )
    rungs = tuple(wanted if r is rung else r for r in pair.rungs)
    return dataclasses.replace(pair, rungs=rungs)


def all_in_cases(pairs: Sequence[tuple[str, PairVerdict]]) -> list[PairVerdict]:
    """The verdicts by case, labelled by it where there is more than one."""
    if len({case for case, _ in pairs}) < 2:
        return [pair for _, pair in pairs]
    return [dataclasses.replace(pair, a=f"{case}: {pair.a}") for case, pair in pairs]
