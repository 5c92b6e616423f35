"""The gate for the TPU's compiler: one trace of each trainer's step, compiled by two releases."""

from __future__ import annotations

from collections.abc import Sequence

from harness.base.errors import BadInput, CannotTrain
from harness.config.compose import load
from harness.config.settings import Settings
from harness.environments.compilers import tpu_compiler
from harness.environments.sources import default_cache_dir
from harness.gate.selection import chosen_cases
from harness.ladder.ladder import names
from harness.ladder.result import RungResult
from harness.ladder.rungs.compiled import NAME, judge_compilers
from harness.ladder.verdict import PairVerdict, Verdict
from harness.record.evidence import Record
from harness.run.compiling import Compiling, compiled_for, plan_compiling
from harness.run.plan import inputs_of, planner
from harness.run.reporter import Reporter
from harness.run.session import Outcome
from harness.run.timing import compiled_step_of

PACKAGE = "libtpu"


def is_libtpu(ref: str) -> bool:
    """Whether a candidate is a release of libtpu."""
    return ref.partition("@")[0] == PACKAGE


def gate_libtpu(
    overrides: Sequence[str],
    candidate: str,
    baseline: str | None,
    cases: Sequence[str],
    reporter: Reporter,
) -> Outcome:
    """Judge what `candidate` makes of every trainer's step by what `baseline` makes of it.

    The steps are traced once, by a short run on the CPU mesh. Raises BadInput where no target is
    named, or a release is none.
    """
    new, old = _release(candidate), _release(baseline or _no_baseline())
    pairs: list[PairVerdict] = []
    records: dict[str, Record] = {}
    notes: list[str] = []
    for case in chosen_cases(cases).trainers:
        settings = load([f"case={case}", f"compiler.libtpu={new}", *overrides])
        compiling = plan_compiling(settings, reporter.note)
        if compiling is None:
            raise BadInput(f"{candidate}: name a slice to compile for, such as target=v6e:2x2")
        inputs = inputs_of(settings)
        for name in settings.engines:
            try:
                traced = compiled_step_of(planner(name, reporter.note), settings, inputs, reporter)
            except CannotTrain as error:
                notes.append(f"{case}: {name} was not compiled: {error}")
                continue
            records[str(traced.directory)] = traced
            pairs += _judged(traced, compiling, old, reporter)
    compared = f"{candidate} against {PACKAGE}@{old}, steps compiled for {_targets(settings)}"
    return Outcome(
        Verdict(compared, ", ".join(chosen_cases(cases).trainers), tuple(pairs), tuple(notes)),
        records,
    )


def _judged(
    traced: Record, compiling: Compiling, old: str, reporter: Reporter
) -> list[PairVerdict]:
    """A verdict for each target: of all rungs, only the compiler's own can differ."""
    before = Compiling(
        tpu_compiler(old, default_cache_dir(), reporter.note), compiling.targets, compiling.limits
    )
    found = []
    for target in compiling.targets:
        a, b = (
            compiled_for(traced, traced, by, target, reporter.note) for by in (before, compiling)
        )
        labels = tuple(f"{traced.label} by {PACKAGE}@{step.libtpu}" for step in (a, b))
        own = judge_compilers((labels[0], labels[1]), (a, b))
        untouched = "the compiler is not run by what this rung judges"
        results = tuple(
            own if name == NAME else RungResult.not_exercised(name, untouched) for name in names()
        )
        place = str(traced.directory)
        found.append(PairVerdict(labels[0], labels[1], place, place, results))
    return found


def _release(ref: str) -> str:
    package, _, release = ref.partition("@")
    if package != PACKAGE or not release:
        raise BadInput(f"`{ref}` is no release of libtpu: write libtpu@0.0.52")
    return release


def _no_baseline() -> str:
    raise BadInput(
        "libtpu is gated against another release: name it by --baseline libtpu@0.0.21, for example"
    )


def _targets(settings: Settings) -> str:
    return ", ".join(settings.targets)
