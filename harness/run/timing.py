"""Runs beside the compared ones: step times in turns, and dumps of the compiled step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config.case import Case
from harness.config.settings import SeededFault, Settings
from harness.devices.device import device
from harness.inputs.prepared import Inputs, prepare
from harness.ladder.result import Result
from harness.ladder.rungs.step_time import judge_launches
from harness.ladder.timed import Launches
from harness.record.evidence import Record
from harness.record.steady import COMPILING_STEPS
from harness.run.execute import run_or_reuse, run_or_reuse_in_turns
from harness.run.plan import (
    DUMP_STEPS,
    Plan,
    Planner,
    inputs_of,
    plan_graph,
    plan_turns,
    plan_whole,
)
from harness.run.reporter import Reporter

Planners = tuple[Planner, Planner]
"""How the two runs that are compared are planned."""


@dataclass(frozen=True)
class Measurements:
    """What was measured of a pair beside its curves.

    graphs: a Record of each side that has its compiled step, or says why it has none
    timing: the Records of both sides, for each launch
    """

    graphs: tuple[Record, Record] | None = None
    timing: Launches = ()


def measure(
    planners: Planners, settings: Settings, inputs: Inputs, reporter: Reporter
) -> Measurements:
    """Measure what the settings ask for, of the two sides that are compared."""
    graphs = None
    if settings.graph == "hlo":
        a, b = (compiled_step_of(side, settings, inputs, reporter) for side in planners)
        graphs = (a, b)
    timing: Launches = ()
    if settings.tolerance.judged_step_time is not None:
        if can_take_turns(settings):
            timing = time_in_turns(planners, settings, reporter)
        else:
            timing = time_whole_runs(planners, settings, inputs, reporter)
    return Measurements(graphs, timing)


def can_take_turns(settings: Settings) -> bool:
    """Whether two runs can be alive at once and run their windows in turns.

    A case as shipped is run as it is: its steps and its data are its own.
    """
    launcher = settings.launcher
    shared = device(launcher.device).shared and launcher.name == "local" and launcher.hosts == 1
    return shared and settings.case.aligned


def plan_compiled_step(replan: Planner, settings: Settings, inputs: Inputs) -> Plan:
    """A short run that dumps its compiled step. What is staged has its modules already."""
    if settings.stage:
        return replan(settings, inputs)
    short = dataclasses.replace(settings, case=dataclasses.replace(settings.case, steps=DUMP_STEPS))
    if short.case.steps > settings.case.steps:
        inputs = inputs_of(short)  # with rows for that many steps
    return plan_graph(replan(short, inputs))


def compiled_step_of(
    replan: Planner, settings: Settings, inputs: Inputs, reporter: Reporter
) -> Record:
    """A Record with the compiled step; without a graph where the dump failed."""
    plan = plan_compiled_step(replan, settings, inputs)
    return run_or_reuse(plan, Path(settings.workspace), settings.launcher, reporter)


def timing_case(case: Case, windows: int, steps: int) -> Case:
    """`case` with as many steps as `windows` windows of `steps` steps need.

    Rows lie closer together for it, so that the text suffices; they are as long as before.
    """
    return dataclasses.replace(
        case,
        steps=COMPILING_STEPS + windows * steps,
        window=steps,
        data=dataclasses.replace(case.data, stride=1),
    )


def time_in_turns(
    planners: Planners,
    settings: Settings,
    reporter: Reporter,
    faults: Sequence[SeededFault] = (),
    first_launch: int = 0,
) -> Launches:
    """Time both sides window by window, in turns, until it is decided.

    `faults` are seeded into the second side. Launches are numbered from `first_launch`, so that a
    later call measures anew.
    """

    def launch(number: int) -> tuple[Record, Record]:
        return _in_turns(planners, settings, first_launch + number, faults, reporter)

    return _until_decided(settings, reporter, launch)


def time_whole_runs(
    planners: Planners, settings: Settings, inputs: Inputs, reporter: Reporter
) -> Launches:
    """Time both sides run by run, A B B A …, where the device belongs to one process at a time.

    Never run on a TPU.
    """
    workspace = Path(settings.workspace)
    a, b = (replan(settings, inputs) for replan in planners)

    def launch(number: int) -> tuple[Record, Record]:
        plans = plan_whole((a, b), number)
        order = (0, 1) if number % 2 == 0 else (1, 0)
        records = {
            side: run_or_reuse(plans[side], workspace, settings.launcher, reporter)
            for side in order
        }
        return records[0], records[1]

    return _until_decided(settings, reporter, launch)


def _until_decided(
    settings: Settings, reporter: Reporter, launch: Callable[[int], tuple[Record, Record]]
) -> Launches:
    """All launches of as many rounds as it takes; each judges those of the rounds before too."""
    timing, started = settings.timing, time.monotonic()
    launches: Launches = ()
    for _ in range(timing.rounds):
        made = len(launches)
        launches += tuple(launch(number) for number in range(made, made + timing.launches))
        judged = judge_launches(launches, settings.tolerance, timing.rounds)
        if judged.result is not Result.INCONCLUSIVE:
            break
        if time.monotonic() - started > timing.budget:
            reporter.note(f"step time: the budget of {timing.budget:.0f} s is used up")
            break
    return launches


def _in_turns(
    planners: Planners,
    settings: Settings,
    launch: int,
    faults: Sequence[SeededFault],
    reporter: Reporter,
) -> tuple[Record, Record]:
    timing = settings.timing
    case = timing_case(settings.case, timing.windows, timing.steps_per_window)
    long = dataclasses.replace(settings, case=case)
    workspace = Path(settings.workspace)
    inputs = prepare(case, workspace / "inputs")
    a, b = (replan(long, inputs) for replan in planners)
    if faults:
        faulty = dataclasses.replace(settings.engine[b.engine], faults=list(faults))
        b = planners[1](
            dataclasses.replace(long, engine={**settings.engine, b.engine: faulty}), inputs
        )
    return run_or_reuse_in_turns(plan_turns((a, b), launch), workspace, settings.launcher, reporter)
