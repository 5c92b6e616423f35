"""Runs beside the compared ones that save and resume, where the case does."""

from __future__ import annotations

from pathlib import Path

from harness.config.settings import Settings
from harness.inputs.prepared import Inputs
from harness.ladder.comparison import Resumption
from harness.record.evidence import Record
from harness.run.execute import run_or_reuse
from harness.run.plan import Planner, plan_resumed, plan_saving
from harness.run.reporter import Reporter


def resume(
    planner: Planner, straight: Record, settings: Settings, inputs: Inputs, reporter: Reporter
) -> Resumption | None:
    """What becomes of the run `straight` where it is saved and resumed on its way.

    None where the case does not save, and of what is only traced. A run that does not get as far as
    the save is not resumed.
    """
    case, workspace = settings.case, Path(settings.workspace)
    if case.save_at is None or settings.stage or not straight.complete:
        return None
    saving = run_or_reuse(
        plan_saving(planner, settings, inputs, straight), workspace, settings.launcher, reporter
    )
    if saving.trained_steps < case.save_at:
        return Resumption(straight, saving)
    plan = plan_resumed(planner, settings, inputs, saving)
    return Resumption(straight, saving, run_or_reuse(plan, workspace, settings.launcher, reporter))
