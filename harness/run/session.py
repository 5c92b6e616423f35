"""One session: plan every run, launch what is missing, judge every pair."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.base.conditions import title_of
from harness.base.errors import BadInput
from harness.config.case import Case
from harness.config.settings import BY_DEVICE, LauncherSettings, Settings, Tolerance
from harness.devices.device import KEY, device
from harness.engines.command import Course
from harness.engines.sources import MissingSource
from harness.engines.spec import engine
from harness.inputs.prepared import Inputs
from harness.ladder.cases import difference, of_two_cases
from harness.ladder.comparison import Comparison
from harness.ladder.float64 import can_tell, silent
from harness.ladder.judge import judge, untrained, why_untrained
from harness.ladder.ladder import check_floors
from harness.ladder.verdict import PairVerdict, Verdict
from harness.launchers.registry import launcher_for
from harness.record.checksums import changed
from harness.record.evidence import Record
from harness.record.layout import GRAPH
from harness.record.reader import READ
from harness.run.against import check_same_training, configured
from harness.run.clock import SessionClock
from harness.run.compiling import (
    CompiledPairs,
    Compiling,
    compiled_pairs,
    flags_of,
    kept_pairs,
    plan_compiling,
)
from harness.run.execute import expect, run_or_reuse, run_or_reuse_each
from harness.run.float64 import (
    first_step_in_float64,
    float64_from_own_weights,
    plan_float64,
)
from harness.run.noise import NOT_MEASURED, measure_noise, perturbed_of
from harness.run.plan import Plan, Planner, inputs_of, planner
from harness.run.reporter import Reporter
from harness.run.resuming import resume
from harness.run.timing import (
    Measurements,
    can_take_turns,
    compiled_step_of,
    measure,
    plan_compiled_step,
)


@dataclass(frozen=True)
class Outcome:
    """What a session found, with the Records by folder for reports.

    runs:    the runs that it rests on, those that noise was measured by among them
    seconds: of the session, by phase (`harness.run.clock`)
    """

    verdict: Verdict
    records: Mapping[str, Record]
    runs: tuple[Record, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """Everything that a session will run, checked before anything is launched.

    planners: how each of the subjects is planned, for what is measured of it beside
    missing:  engines that could not be had, in whose place others stand
    compiling: what steps are compiled for, where that is asked for
    configurations: the second is the first's training in another configuration
    held_against_float64: whether the first loss is, where both agree: of two versions of one
              trainer, what both compute otherwise is no change
    """

    settings: Settings
    subjects: tuple[Plan, ...]
    planners: tuple[Planner, ...]
    notes: tuple[str, ...]
    missing: tuple[str, ...] = ()
    compiling: Compiling | None = None
    held_against_float64: bool = True
    configurations: bool = False

    @property
    def compared(self) -> str:
        """What is compared, for the first line of every output."""
        first, *others = self.subjects
        case = self.settings.case
        mesh = " × ".join(f"{axis} {size}" for axis, size in case.mesh.items())
        mesh += "" if case.slices == 1 else f" across {case.slices} slices"
        on = _device(self.settings.launcher)
        cast = "" if case.autocast is None else f" cast to {case.autocast}"
        names = " and ".join(_described(plan) for plan in others)
        named = ", ".join(self.missing)
        missing = f" ({named} is missing, see the notes)" if self.missing else ""
        return (
            f"{_described(first)} against {names}{missing}: case {case.name}, {case.dtype}{cast}, "
            f"matmul precision {case.matmul_precision}, {case.steps} steps, mesh {mesh} on {on}"
        )


def _device(launcher: LauncherSettings) -> str:
    """What the runs are on, as far as that is known before the first."""
    plugin = device(launcher.device).plugin() if launcher.name == "local" else None
    name = launcher.device if plugin is None else f"{plugin.name} ({KEY}={launcher.device})"
    return name if launcher.condition is None else f"{name}, {title_of(launcher.condition)}"


def _described(plan: Plan) -> str:
    description = plan.origin.get("description")
    return f"{plan.label} ({description})" if description else plan.label


def plan(
    settings: Settings,
    reporter: Reporter,
    may_substitute: bool = True,
    against: Settings | None = None,
    called: str = "",
) -> Planned:
    """Plan the session.

    against: the configuration of the second run, of the same training; `called` tells it

    Where an engine's code cannot be had, its stand-in takes its place, if it `may_substitute`, and
    the first line of the output says so. Raises BadInput for whatever cannot work.
    """
    settings = with_device_tolerance(settings)
    check_floors(settings.tolerance)
    # Its options are checked before anything is made.
    launcher_for(settings.launcher, reporter.note)
    compiling = plan_compiling(settings, reporter.note)
    inputs = inputs_of(settings)
    subjects: list[Plan] = []
    planners: list[Planner] = []
    notes: list[str] = []
    missing: list[str] = []

    def add(name: str) -> None:
        plan_again = planner(name, reporter.note)
        if against is not None and subjects:
            plan_again = _planner_against(plan_again, against, called)
        subjects.append(plan_again(settings, inputs))
        planners.append(plan_again)

    if against is not None:
        check_same_training(settings, with_device_tolerance(against))
    for name in settings.engines:
        try:
            add(name)
        except MissingSource as error:
            stand_in = engine(error.engine).stand_in
            if stand_in is None or not (may_substitute and settings.case.aligned):
                raise
            missing.append(error.engine)
            notes.append(
                f"{error.engine} was not compared, the {stand_in} was, in its place: {error}"
            )
            if stand_in not in settings.engines:
                add(stand_in)
    return Planned(
        settings, tuple(subjects), tuple(planners), tuple(notes), tuple(missing), compiling,
        configurations=against is not None,
    )  # fmt: skip


def _planner_against(plan_again: Planner, against: Settings, called: str) -> Planner:
    """Plans a run of whatever settings in the configuration of `against`."""

    def planned(settings: Settings, inputs: Inputs, course: Course = Course.STRAIGHT) -> Plan:
        other = configured(settings, against)
        found = plan_again(other, inputs_of(other), course)
        return dataclasses.replace(found, label=f"{found.label} with {called}")

    return planned


def with_device_tolerance(settings: Settings) -> Settings:
    """`settings` with the device's own tolerance of step times, where nobody asks for another."""
    if settings.tolerance.step_time != BY_DEVICE:
        return settings
    limit = device(settings.launcher.device).step_time
    tolerance = dataclasses.replace(settings.tolerance, step_time=limit)
    return dataclasses.replace(settings, tolerance=tolerance)


def run(planned: Planned, reporter: Reporter) -> Outcome:
    """Launch what is not in the workspace yet, and judge every pair with the first engine.

    Where a run says nothing without which no pair can be judged, the others are not launched.
    """
    clock = SessionClock()
    settings = planned.settings
    workspace = Path(settings.workspace)
    apart = _apart(planned.subjects)
    expect((*apart, *_compiled_steps(planned)), workspace, settings.launcher, reporter)
    reporter.expects(_runs(planned))
    found: dict[int, Record] = {}
    order, perturbed = launch_order(apart), perturbed_of(planned.subjects[0], settings)
    coming = [*(apart[index] for index in order), *([] if perturbed is None else [perturbed])]
    runs = run_or_reuse_each(coming, workspace, settings.launcher, reporter)
    with contextlib.closing(runs):
        for index, found[index] in zip(order, runs, strict=False):
            in_every_pair = index == 0 or len(apart) == 2
            if in_every_pair and (reason := why_untrained(found[index])) is not None:
                return _nothing_to_judge(planned, found, reason, clock)
        subjects = [found[index] for index in range(len(apart))]
        moved = next(runs, None) if subjects[0].complete else None
    noise = NOT_MEASURED
    if subjects[0].complete:
        noise = measure_noise(planned.subjects[0], subjects[0], moved, settings, reporter)
    first = None
    if planned.held_against_float64 and all(subject.complete for subject in subjects[:2]):
        first = first_step_in_float64(settings, planned.subjects[0].inputs, workspace, reporter)
    resumptions = [
        resume(planner, subject, settings, planned.subjects[0].inputs, reporter)
        for planner, subject in zip(planned.planners, subjects, strict=True)
    ]
    verdicts = []
    for index in range(1, len(subjects)):
        measured = Measurements()
        compiled: CompiledPairs = ()
        if subjects[0].complete and subjects[index].complete:
            sides = (planned.planners[0], planned.planners[index])
            inputs = planned.subjects[0].inputs
            measured = measure(sides, settings, inputs, reporter)
            if planned.compiling is not None:
                a, b = (compiled_step_of(side, settings, inputs, reporter) for side in sides)
                pair = (subjects[0], subjects[index])
                flags = flags_of(planned.subjects[0]), flags_of(planned.subjects[index])
                compiled = compiled_pairs(pair, (a, b), flags, planned.compiling, reporter.note)
        comparison = Comparison(
            a=subjects[0],
            b=subjects[index],
            tolerance=settings.tolerance,
            noise_floor=noise.floor,
            repeat=noise.repeat,
            first_float64=first,
            graphs=measured.graphs,
            compiled=compiled,
            timing=measured.timing,
            rounds=settings.timing.rounds,
            resumptions=(resumptions[0], resumptions[index]),
            versions=not planned.held_against_float64,
            configurations=planned.configurations,
        )
        verdicts.append(_judge_with_float64(comparison, planned, reporter, clock))
    beside = (*noise.runs, *([] if first is None else [first]))
    return _outcome(planned, tuple(verdicts), subjects, beside, clock)


def _outcome(
    planned: Planned, pairs: tuple[PairVerdict, ...], compared: Sequence[Record],
    beside: tuple[Record, ...], clock: SessionClock,
) -> Outcome:  # fmt: skip
    verdict = Verdict(planned.compared, planned.settings.case.name, pairs, planned.notes)
    runs = (*compared, *beside)
    return Outcome(verdict, {str(r.directory): r for r in compared}, runs, clock.seconds(runs))


def _nothing_to_judge(
    planned: Planned, found: Mapping[int, Record], reason: str, clock: SessionClock
) -> Outcome:
    """Every pair is INVALID for `reason`; of some engines there is no run."""
    sides = [(plan.label, found.get(index)) for index, plan in enumerate(planned.subjects)]
    pairs = tuple(untrained(sides[0], side, reason) for side in sides[1:])
    return _outcome(planned, pairs, list(found.values()), (), clock)


def _compiled_steps(planned: Planned) -> list[Plan]:
    """The runs that dump compiled steps, where any are wanted."""
    if planned.settings.graph != "hlo" and planned.compiling is None:
        return []
    inputs = planned.subjects[0].inputs
    return [plan_compiled_step(planner, planned.settings, inputs) for planner in planned.planners]


def _runs(planned: Planned) -> int:
    """How many runs a session launches at least, where none is there and all go well."""
    settings = planned.settings
    tolerance, timing = settings.tolerance, settings.timing
    runs = len(planned.subjects)
    runs += tolerance.noise_floor == "ulp" and settings.case.aligned
    runs += tolerance.repeat == "always"
    runs += 0 if settings.case.save_at is None or settings.stage else 2 * len(planned.subjects)
    a_pair = 2 * (settings.graph == "hlo" or planned.compiling is not None)
    if tolerance.judged_step_time is not None:
        a_pair += timing.launches * (1 if can_take_turns(settings) else 2)
    return runs + a_pair * (len(planned.subjects) - 1)


def _apart(subjects: tuple[Plan, ...]) -> list[Plan]:
    """The same engine twice is launched twice: a run that is compared with itself shows nothing."""
    seen: Counter[str] = Counter()
    apart = []
    for subject in subjects:
        apart.append(dataclasses.replace(subject, repeat=seen[subject.key]))
        seen[subject.key] += 1
    return apart


def launch_order(subjects: Sequence[Plan]) -> list[int]:
    """In which order to launch: who needs few libraries trains while the others' are imported."""
    return sorted(
        range(len(subjects)), key=lambda index: len(engine(subjects[index].engine).libraries)
    )


def _judge_with_float64(
    comparison: Comparison, planned: Planned, reporter: Reporter, clock: SessionClock
) -> PairVerdict:
    """Judge; where two runs disagree about numbers, ask float64 and judge again."""
    settings = planned.settings
    verdict = clock.judge(comparison)
    without_float64 = settings.stage or settings.float64 == "never"
    if without_float64 or settings.case.optimizer.name != "adamw":
        return verdict
    if silent(comparison.a, comparison.b) is not None:
        return verdict
    workspace = Path(settings.workspace)
    if not settings.case.aligned:
        own = float64_from_own_weights(
            comparison, settings, planned.subjects[0].inputs, workspace, reporter
        )
        if not own:
            return verdict
        return clock.judge(dataclasses.replace(comparison, float64_per_run=own))
    if not can_tell(verdict.rungs):
        return verdict
    reference = run_or_reuse(
        plan_float64(settings, planned.subjects[0].inputs, reporter.note),
        workspace,
        settings.launcher,
        reporter,
    )
    usable = reference if reference.complete else None
    return clock.judge(dataclasses.replace(comparison, float64=usable))


def check_apart(a: Record, b: Record) -> None:
    """Raise BadInput where both are one Record: a run that is compared with itself shows nothing.

    A copy of it, in another folder, is the same run.
    """
    here = a.directory.resolve() == b.directory.resolve()
    if here or dataclasses.replace(b, directory=a.directory) == a:
        raise BadInput(
            f"{b.directory} is {'' if here else 'a copy of '}{a.directory}: a run that is compared "
            "with itself shows nothing. Name the Record of another run"
        )


def compare(a: Record, b: Record, tolerance: Tolerance) -> Outcome:
    """Judge two Records as they are, with all that they hold, without launching anything.

    What they were asked to train comes first: runs of two cases are INVALID, whatever they did. Two
    runs of `parity train` are judged, as what each trainer was given is a part of the question.
    """
    check_floors(tolerance)
    dumped = [record for record in (a, b) if record.graph is not None]
    graphs = (a, b) if len(dumped) == 2 else None
    pair = judge(Comparison(a, b, tolerance, graphs=graphs, compiled=kept_pairs(a, b)))
    compared = f"{a.label} ({a.directory}) against {b.label} ({b.directory})"
    if (differs := difference(a, b)) is not None:
        compared += f": {differs}"
        if isinstance(a.case, Case) and isinstance(b.case, Case):
            pair = of_two_cases(pair, differs)
    notes = tuple(text for record in (a, b) for text in changed(record.directory, *READ))
    if len(dumped) == 1:
        notes += (f"compiled steps were not compared: only {dumped[0].directory} has a {GRAPH}",)
    verdict = Verdict(compared, a.case.name, (pair,), notes)
    return Outcome(verdict, {str(r.directory): r for r in (a, b)})
