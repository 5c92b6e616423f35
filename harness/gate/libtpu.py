"""The gate for the TPU's compiler: one trace of each trainer's step, compiled by many releases."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import BadInput, CannotTrain
from harness.base.progress import Progress
from harness.compiler.flags import CompilerFlags
from harness.config.compose import load
from harness.environments.compilers import forget, passing_releases
from harness.environments.sources import default_cache_dir
from harness.gate.bisect import BAD, GOOD, SKIP, FirstBad, search
from harness.gate.refs import Ref
from harness.gate.releases import between, listed
from harness.gate.selection import chosen_cases
from harness.ladder.ladder import names
from harness.ladder.result import Result, RungResult
from harness.ladder.rungs import predicted_time
from harness.ladder.rungs.compiled import NAME, judge_compilers
from harness.ladder.verdict import PairVerdict, Verdict
from harness.record.evidence import Record
from harness.run.compiling import Compiling, compiled_for, flags_of, installer, plan_compiling
from harness.run.plan import inputs_of, planner
from harness.run.reporter import Reporter
from harness.run.session import Outcome
from harness.run.timing import compiled_step_of

LIBTPU = "libtpu"


@dataclass(frozen=True)
class TracedCase:
    """The steps of a case's trainers, and how the releases are to compile them.

    compiling: by the release that others are compared with
    notes:     of trainers that cannot train the case
    """

    case: str
    compiling: Compiling
    steps: tuple[tuple[Record, CompilerFlags], ...]
    notes: tuple[str, ...]


def is_libtpu(ref: str) -> bool:
    """Whether a candidate is a release of libtpu."""
    return ref.partition("@")[0] == LIBTPU


def gate_libtpu(
    overrides: Sequence[str],
    candidate: str,
    baseline: str | None,
    cases: Sequence[str],
    reporter: Reporter,
) -> Outcome:
    """Judge what `candidate` makes of every trainer's step by what `baseline` makes of it.

    The steps are traced once, by a short run on the CPU mesh. A release that was not installed
    before is removed again. Raises BadInput where no target is named, or a release is none.
    """
    new, old = release_of(candidate), release_of(baseline or _no_baseline())
    with passing_releases(default_cache_dir()) as passing:
        traced = [
            trace_steps(overrides, case, old, reporter, passing)
            for case in chosen_cases(cases).trainers
        ]
        return judge_release(traced, new, reporter, passing)


def bisect_libtpu(
    overrides: Sequence[str],
    good: str,
    bad: str,
    case: str,
    releases: Sequence[str] | None,
    reporter: Reporter,
) -> FirstBad:
    """The first release that makes a worse step than `good` of any trainer's, or none.

    releases: to search; None for those of the package index
    Raises BadInput where `bad` does not.
    """
    first, last = release_of(good), release_of(bad)
    versions = between(first, last, listed(LIBTPU) if releases is None else releases)
    reporter.note(f"{len(versions)} releases: {', '.join(versions)}")
    with passing_releases(default_cache_dir()) as passing:
        traced = [trace_steps(overrides, case, first, reporter, passing)]

        def ask(version: str) -> str:
            try:
                return answer(traced, version, reporter, passing)
            finally:
                forget(version, passing)

        if ask(last) != BAD:
            raise BadInput(
                f"{bad} does not fail {NAME} against {good}: there is nothing to be found"
            )
        last_good, first_bad, skipped = search(versions, ask)
        neighbours = [compiled_by(last_good, of, reporter.note, passing) for of in traced]
        outcome = judge_release(neighbours, first_bad, reporter, passing)
    return FirstBad(NAME, Ref(LIBTPU, last_good), Ref(LIBTPU, first_bad), skipped, outcome)


def answer(
    traced: Sequence[TracedCase], release: str, reporter: Reporter, passing: Path | None = None
) -> str:
    """BAD where a step fails, GOOD where all hold, else SKIP."""
    try:
        verdict = judge_release(traced, release, reporter, passing).verdict
    except BadInput as error:
        reporter.note(f"{LIBTPU}@{release} is skipped: {error}")
        return SKIP
    found = {Result.FAIL: BAD, Result.PASS: GOOD}.get(verdict.result, SKIP)
    worst = next((p for p in verdict.pairs if p.result is verdict.result), verdict.pairs[0])
    reporter.note(f"{LIBTPU}@{release} is {found}: {worst.headline}")
    return found


def trace_steps(
    overrides: Sequence[str], case: str, release: str, reporter: Reporter,
    passing: Path | None = None,
) -> TracedCase:  # fmt: skip
    """The steps of the trainers of a case, to be compiled by `release` and compared with others.

    Raises BadInput where no target is named.
    """
    settings = load([f"case={case}", f"compiler.libtpu={release}", *overrides])
    compiling = plan_compiling(settings, reporter.note, passing)
    if compiling is None:
        raise BadInput(f"{LIBTPU}@{release}: name a slice to compile for, such as target=v6e:2x2")
    inputs = inputs_of(settings)
    steps: list[tuple[Record, CompilerFlags]] = []
    notes: list[str] = []
    for name in settings.engines:
        replan = planner(name, reporter.note)
        try:
            flags = flags_of(replan(settings, inputs))
            steps.append((compiled_step_of(replan, settings, inputs, reporter), flags))
        except CannotTrain as error:
            notes.append(f"{case}: {name} was not compiled: {error}")
    return TracedCase(case, compiling, tuple(steps), tuple(notes))


def compiled_by(
    release: str, traced: TracedCase, progress: Progress, passing: Path | None = None
) -> TracedCase:
    """The same steps, to be compiled by another release and compared with that."""
    install = installer(release, progress, passing)
    compiling = dataclasses.replace(traced.compiling, release=release, compiler=install)
    return dataclasses.replace(traced, compiling=compiling)


def judge_release(
    traced: Sequence[TracedCase], release: str, reporter: Reporter, passing: Path | None = None
) -> Outcome:
    """What `release` makes of the steps, by what the release makes of them that they are for.

    Raises BadInput for a release that cannot be used.
    """
    pairs = [
        pair
        for of in traced
        for record, flags in of.steps
        for pair in _judged(record, flags, of, release, reporter.note, passing)
    ]
    targets = ", ".join(target.name for target in traced[0].compiling.targets)
    old = traced[0].compiling.release
    compared = f"{LIBTPU}@{release} against {LIBTPU}@{old}, steps compiled for {targets}"
    notes = tuple(note for of in traced for note in of.notes)
    verdict = Verdict(compared, ", ".join(of.case for of in traced), tuple(pairs), notes)
    return Outcome(verdict, {str(r.directory): r for of in traced for r, _ in of.steps})


def _judged(
    record: Record, flags: CompilerFlags, traced: TracedCase, release: str, progress: Progress,
    passing: Path | None,
) -> list[PairVerdict]:  # fmt: skip
    """A verdict for each target: of all rungs, only the compiler's own can differ."""
    before, after = traced.compiling, compiled_by(release, traced, progress, passing).compiling
    found = []
    for target in before.targets:
        a, b = (compiled_for(record, record, flags, by, target, progress) for by in (before, after))
        labels = tuple(f"{record.label} by {LIBTPU}@{step.libtpu}" for step in (a, b))
        names_of = labels[0], labels[1]
        own = {NAME: judge_compilers(names_of, (a, b))}
        if before.timed and a.compiles and b.compiles:
            own[predicted_time.NAME] = predicted_time.judge_times(names_of, (a, b), only_more=True)
        untouched = "the compiler is not run by what this rung judges"
        results = tuple(
            own.get(name, RungResult.not_exercised(name, untouched)) for name in names()
        )
        place = str(record.directory)
        found.append(PairVerdict(labels[0], labels[1], place, place, results))
    return found


def release_of(ref: str) -> str:
    """The release in `libtpu@RELEASE`. Raises BadInput for anything else."""
    package, _, release = ref.partition("@")
    if package != LIBTPU or not release:
        raise BadInput(f"`{ref}` is no release of libtpu: write libtpu@0.0.52")
    return release


def _no_baseline() -> str:
    raise BadInput(
        "libtpu is gated against another release: name it by --baseline libtpu@0.0.21, for example"
    )
