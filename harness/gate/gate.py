"""The gate: a candidate against its baseline, and against the other trainer.

What judges is imported where it is called, as in `harness.run.session`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.base.errors import BadInput, CannotStart, CannotTrain
from harness.compiler.compiled import CompiledStep
from harness.config.settings import Settings
from harness.devices.device import device
from harness.engines.spec import Workaround, engine
from harness.environments.interpreters import BaseInstallFailed, InstallFailed
from harness.environments.stack import check_exists
from harness.gate import baselines
from harness.gate import verdicts as pairs
from harness.gate.failures import broken_rung, did_not_train, why
from harness.gate.refs import Ref, plan_ref, planner_of
from harness.gate.selection import GatePair
from harness.ladder.comparison import Comparison
from harness.ladder.judge import judge
from harness.ladder.ladder import rungs
from harness.ladder.result import Result
from harness.ladder.verdict import PairVerdict, Verdict, merged
from harness.record.evidence import Record
from harness.run import session
from harness.run.compiling import (
    Compiling,
    compiled_for,
    flags_of,
    plan_compiling,
    same_compilations,
)
from harness.run.execute import run_or_reuse
from harness.run.noise import NOT_MEASURED, Noise, measure_noise, perturbed_of
from harness.run.plan import Plan, inputs_of, with_workarounds, workarounds_of
from harness.run.reporter import Reporter
from harness.run.session import Outcome, Planned
from harness.run.timing import compiled_step_of

_NETWORK = re.compile(r"error sending request|dns error|client error \(Connect\)|timed out", re.I)


class NotCompared(BadInput):
    """A trainer cannot train this case, so that there is nothing to be gated."""


def run_gate(gated: Sequence[GatePair], reporter: Reporter) -> Outcome:
    """Judge everything; a case that one of the trainers cannot train is a note."""
    outcomes: list[tuple[str, Outcome]] = []
    notes: list[str] = []
    for pair in gated:
        try:
            outcomes.append((pair.case, judge_pair(pair, reporter)))
        except NotCompared as error:
            notes.append(str(error))
    verdict = merged([outcome.verdict for _, outcome in outcomes])
    judged = pairs.all_in_cases([(case, p) for case, o in outcomes for p in o.verdict.pairs])
    records = {k: v for _, outcome in outcomes for k, v in outcome.records.items()}
    notes = [*verdict.notes, *notes]
    return Outcome(dataclasses.replace(verdict, pairs=tuple(judged), notes=tuple(notes)), records)


def judge_pair(pair: GatePair, reporter: Reporter) -> Outcome:
    """Launch what is not in the workspace yet, and judge one pair.

    Raises NotCompared where the other trainer cannot train the case, and BadInput for whatever
    else cannot work; a candidate that cannot be installed or does not train is a verdict.
    """
    against = None if pair.against is None else _plan_against(pair, pair.against, reporter)
    try:
        candidate = plan_candidate(pair, reporter)
    except BaseInstallFailed:
        raise  # says nothing of the candidate
    except InstallFailed as error:
        if _NETWORK.search(str(error)):
            raise
        check_exists(error, pair.candidate.packages)
        return _not_installed(pair, against, str(error), reporter)
    except CannotStart as error:
        return _not_installed(pair, against, str(error), reporter)
    if against is None:
        return _against_stored(pair, candidate, reporter)
    # The order is fixed, so that a reader finds the candidate where it was the last time.
    order = (candidate, against) if pair.parity else (against, candidate)
    refs = (pair.candidate, pair.against) if pair.parity else (pair.against, pair.candidate)
    planners = tuple(
        planner_of(ref, reporter.note, pair.workarounds if ref is pair.candidate else ())
        for ref in refs
        if ref is not None
    )
    compiling = plan_compiling(pair.settings, reporter.note)
    planned = Planned(
        pair.settings, order, planners, (), compiling=compiling, held_against_float64=pair.parity
    )
    reporter.note(planned.compared)
    outcome = _judged(planned, reporter)
    verdict = outcome.verdict.pairs[0]
    records = outcome.records
    if pair.parity:
        return outcome
    if not verdict.b_record:  # the baseline did not train, and the candidate was spared
        base = records[verdict.a_record]
        if (workaround := _workaround(pair, base)) is not None:
            return _both_worked_around(pair, workaround, base, reporter)
        return _outcome(planned.compared, pair, verdict, records)
    base, own = (records[p] for p in (verdict.a_record, verdict.b_record))
    if did_not_train(own):
        if (workaround := _workaround(pair, own)) is not None:
            return _worked_around(pair, workaround, own, reporter)
        verdict = _not_trained(verdict, base, own)
    else:
        verdict = pairs.with_defects_of_both(
            pairs.with_parameters(verdict, base, own), pair.settings.graph == "hlo"
        )
    if pair.candidate.packages & {"torch", "torch_xla"}:
        verdict = pairs.with_wanted_stack(verdict)
    return _outcome(planned.compared, pair, verdict, records)


def _workaround(pair: GatePair, record: Record) -> Workaround | None:
    """What would let a version train that does not, if that is known and not tried yet."""
    name, root = pair.candidate.engine, why(record)
    tried = [*workarounds_of(pair.settings.engine[name]), *pair.workarounds]
    known = engine(name).workarounds
    return next((w for w in known if w.name not in tried and re.search(w.symptom, root)), None)


def _worked_around(
    pair: GatePair, workaround: Workaround, own: Record, reporter: Reporter
) -> Outcome:
    """The verdict where the candidate `own` does not train, for a known reason: that it does not,
    and what it does with the workaround."""
    words = f"the workaround {workaround.name} ({workaround.what})"
    reporter.note(f"{own.label} does not train: {why(own)}; again with {words}")
    again = dataclasses.replace(pair, workarounds=(*pair.workarounds, workaround.name))
    outcome = judge_pair(again, reporter)
    (verdict,) = outcome.verdict.pairs
    if did_not_train(outcome.records[verdict.b_record]):
        return outcome
    because = f"{own.label} trains only with {words}: {why(own)}"
    return _replaced(outcome, pairs.only_with(verdict, broken_rung(own), because))


def _both_worked_around(
    pair: GatePair, workaround: Workaround, base: Record, reporter: Reporter
) -> Outcome:
    """The verdict where the baseline `base` does not train, for a known reason: both versions with
    the workaround, which one that does not need it does as well with."""
    words = f"the workaround {workaround.name} ({workaround.what})"
    reporter.note(f"{base.label} does not train: {why(base)}; both again with {words}")
    settings = with_workarounds(pair.settings, pair.candidate.engine, (workaround.name,))
    again = dataclasses.replace(pair, settings=settings)
    outcome = judge_pair(again, reporter)
    (verdict,) = outcome.verdict.pairs
    note = f"{base.label} trains only with {words}; both versions were given it"
    return _replaced(outcome, dataclasses.replace(verdict, notes=(note, *verdict.notes)))


def _replaced(outcome: Outcome, verdict: PairVerdict) -> Outcome:
    whole = dataclasses.replace(outcome.verdict, pairs=(verdict,))
    return dataclasses.replace(outcome, verdict=whole)


def plan_candidate(pair: GatePair, reporter: Reporter) -> Plan:
    """The Plan of the candidate. Raises BadInput, InstallFailed, NotCompared."""
    try:
        return plan_ref(
            pair.candidate, pair.settings, inputs_of(pair.settings), reporter.note, pair.workarounds
        )
    except CannotTrain as error:
        raise NotCompared(f"{pair.case}: {pair.candidate} was not compared: {error}") from None


def _plan_against(pair: GatePair, ref: Ref, reporter: Reporter) -> Plan:
    try:
        return plan_ref(ref, pair.settings, inputs_of(pair.settings), reporter.note)
    except InstallFailed:
        raise
    except BadInput as error:
        if not pair.parity and not isinstance(error, CannotTrain):
            raise
        raise NotCompared(f"{pair.case}: {ref} was not compared: {error}") from None


def _judged(planned: Planned, reporter: Reporter) -> Outcome:
    """Judge by the documented floors, and by the measured floor only where those are exceeded.

    The measured floor can only be the wider one, and costs a run.
    """
    settings = planned.settings
    strict = dataclasses.replace(settings.tolerance, noise_floor="table", repeat="never")
    first = dataclasses.replace(planned, settings=dataclasses.replace(settings, tolerance=strict))
    outcome = session.run(first, reporter)
    if settings.tolerance.noise_floor == "table" or not _exceeded(outcome.verdict.pairs[0]):
        return outcome
    return session.run(planned, reporter)


def _exceeded(verdict: PairVerdict) -> bool:
    """Whether a limit that comes from a noise floor was exceeded, or could not be had."""
    asking = (Result.FAIL, Result.INCONCLUSIVE)
    return any(verdict.rung(rung.name).result in asking for rung in rungs() if rung.metrics)


def _against_stored(pair: GatePair, plan: Plan, reporter: Reporter) -> Outcome:
    """Launch the candidate alone, and judge it against what is stored."""
    check_executed(pair.settings)
    compiling = plan_compiling(pair.settings, reporter.note)
    workspace, case = Path(pair.settings.workspace), pair.settings.case
    conditions = f"case {case.name}, {case.dtype}, matmul precision {case.matmul_precision}"
    launcher = pair.settings.launcher
    kind = device(launcher.device).only_kind if launcher.condition is None else None
    if baselines.latest(pair.stored, plan.engine, case.name, kind) is None:
        # One would be written, which has to be of code that others can have.
        baselines.check_committed(plan.label, plan.origin.get("dirty"))
    reporter.note(f"{plan.label} against the stored baseline: {conditions}")
    own = run_or_reuse(plan, workspace, pair.settings.launcher, reporter)
    records = {str(own.directory): own}
    compared = f"{conditions}: {plan.label} ({plan.origin.get('description')}) against "
    if did_not_train(own):
        if (workaround := _workaround(pair, own)) is not None:
            return _worked_around(pair, workaround, own, reporter)
        names, places = ("baseline", own.label), ("", str(own.directory))
        because = f"{own.label} does not train: {why(own)}; {_stored_worked(pair)}"
        verdict = pairs.without_evidence(names, places, because, broken_rung(own), _log_of(own))
        return _outcome(f"{compared}the stored baseline", pair, verdict, records)
    if not own.complete:
        # Ended by the machine: no baseline is looked for, and above all none is written.
        names, places = ("baseline", own.label), ("", str(own.directory))
        because = f"{own.label} says nothing of its version: {why(own)}"
        verdict = pairs.without_evidence(names, places, because, None, _log_of(own))
        return _outcome(f"{compared}the stored baseline", pair, verdict, records)
    kind = str(own.observed.device_kind)
    baseline = baselines.latest(pair.stored, own.engine, case.name, kind)
    if baseline is None:
        subject, noise = measured(pair, plan, reporter)
        steps = compiled_of(pair, plan, subject, compiling, reporter)
        path = baselines.save(pair.stored, subject, noise, baselines.author(), steps)
        because = f"there was no baseline: {own.label} was written to {path}, to be reviewed"
        names, places = ("no baseline", own.label), ("", str(own.directory))
        verdict = pairs.without_evidence(names, places, because, broken_rung(None))
        return _outcome(f"{compared}no baseline", pair, verdict, records)
    base = baseline.record
    records[str(base.directory)] = base
    by = f"{base.label} (baseline of {baseline.blessed.at[:10]} by {baseline.blessed.by})"
    names, places = (base.label, own.label), (str(base.directory), str(own.directory))
    differing = baselines.differences(base, own)
    hlo = pair.settings.graph == "hlo"
    if hlo and base.graph is None:
        differing.append("it has no compiled step (bless it with graph=hlo)")
    differing += _not_compiled(baseline.compiled, compiling)
    if differing:
        because = f"the baseline is not comparable: {'; '.join(differing)}"
        verdict = pairs.without_evidence(names, places, because)
        return _outcome(compared + by, pair, verdict, records)
    graphs = (base, _compiled_step(pair, reporter)) if hlo else None
    steps = compiled_of(pair, plan, own, compiling, reporter)
    compiled = same_compilations(baseline.compiled, steps)
    comparison = Comparison(
        base, own, pair.settings.tolerance, versions=True, graphs=graphs, compiled=compiled
    )
    verdict = judge(comparison)
    wanted = pair.settings.tolerance.noise_floor != "table"
    noise = baseline.noise
    if wanted and noise != NOT_MEASURED and _exceeded(verdict):
        comparison = dataclasses.replace(comparison, noise_floor=noise.floor, repeat=noise.repeat)
        verdict = judge(comparison)
    verdict = pairs.with_defects_of_both(
        pairs.with_parameters(verdict, base, own), pair.settings.graph == "hlo"
    )
    verdict = pairs.against_stored(verdict, case.aligned)
    return _outcome(compared + by, pair, verdict, records)


def check_executed(settings: Settings) -> None:
    """Raise BadInput for settings under which no run could be a baseline."""
    if settings.stage:
        raise BadInput(
            "stage=true executes nothing that a stored baseline could hold: name what the "
            "candidate has to compile like by --baseline"
        )


def compiled_of(
    pair: GatePair, plan: Plan, subject: Record, compiling: Compiling | None, reporter: Reporter
) -> tuple[CompiledStep, ...]:
    """The candidate's step compiled for each target; () where none is named."""
    if compiling is None or not subject.complete:
        return ()
    dumped, flags = _compiled_step(pair, reporter), flags_of(plan)
    return tuple(
        compiled_for(subject, dumped, flags, compiling, target, reporter.note)
        for target in compiling.targets
    )


def _not_compiled(stored: Sequence[CompiledStep], compiling: Compiling | None) -> list[str]:
    """The targets that a stored baseline has no compiled step for."""
    if compiling is None:
        return []
    there = {(step.target, step.libtpu) for step in stored}
    return [
        f"it has no step compiled for {target.name} by libtpu {compiling.release} (bless it with "
        f"target={target.topology})"
        for target in compiling.targets
        if (target.name, compiling.release) not in there
    ]


def _stored_worked(pair: GatePair) -> str:
    """Which version still worked, as far as the stored baselines know."""
    baseline = baselines.latest(pair.stored, pair.candidate.engine, pair.case)
    if baseline is None:
        return "no stored baseline says which version did"
    return f"{pair.candidate.engine} {baselines.version_of(baseline.record)} did"


def measured(
    pair: GatePair, plan: Plan, reporter: Reporter, floor: bool = True
) -> tuple[Record, Noise]:
    """The Record of `plan`, with its compiled step where the settings ask for it, and the runs that
    measure its noise where they ask for a `floor`."""
    workspace, settings = Path(pair.settings.workspace), pair.settings
    subject = run_or_reuse(plan, workspace, settings.launcher, reporter)
    if settings.graph == "hlo" and subject.complete:
        subject = dataclasses.replace(subject, graph=_compiled_step(pair, reporter).graph)
    if not floor or not subject.complete:
        return subject, NOT_MEASURED
    perturbed = perturbed_of(plan, settings)
    moved = None
    if perturbed is not None:
        moved = run_or_reuse(perturbed, workspace, settings.launcher, reporter)
    return subject, measure_noise(plan, subject, moved, settings, reporter)


def _compiled_step(pair: GatePair, reporter: Reporter) -> Record:
    """The candidate's compiled step."""
    replan = planner_of(pair.candidate, reporter.note, pair.workarounds)
    return compiled_step_of(replan, pair.settings, inputs_of(pair.settings), reporter)


def _not_installed(pair: GatePair, against: Plan | None, error: str, reporter: Reporter) -> Outcome:
    """The candidate cannot be installed: FAIL, unless what it is judged against fails too."""
    workspace, records = Path(pair.settings.workspace), {}
    failed, label, place = broken_rung(None), "baseline", ""
    because = f"{error} {_stored_worked(pair)}"
    if against is not None:
        base = run_or_reuse(against, workspace, pair.settings.launcher, reporter)
        records[str(base.directory)] = base
        label, place = base.label, str(base.directory)
        if base.complete:
            because = f"{error} {base.label} still trains."
        else:
            failed = ""
            because = f"{error} But {base.label} does not train either: {why(base)}"
    names = (label, str(pair.candidate))
    verdict = pairs.without_evidence(names, (place, ""), because, failed or None)
    return _outcome(f"{pair.candidate} against {label}", pair, verdict, records)


def _not_trained(verdict: PairVerdict, base: Record, own: Record) -> PairVerdict:
    """The candidate does not train: FAIL, unless the baseline does not train either."""
    names, places = (base.label, own.label), (str(base.directory), str(own.directory))
    because = f"{own.label} does not train: {why(own)}"
    if not base.complete:
        because += f"; but {base.label} does not train either: {why(base)}"
        return pairs.without_evidence(names, places, because, None, verdict.notes)
    because += f"; {base.label} still trains"
    return pairs.without_evidence(names, places, because, broken_rung(own), _log_of(own))


def _log_of(record: Record) -> tuple[str, ...]:
    lines = record.ended.log
    return ("\n".join([f"last lines of {record.label}'s log:", *lines]),) if lines else ()


def _outcome(
    compared: str, pair: GatePair, verdict: PairVerdict, records: Mapping[str, Record]
) -> Outcome:
    return Outcome(Verdict(compared, pair.case, (verdict,)), records)
