"""Runs of the first engine beside the first, by which the noise of a case is measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.config.settings import Settings
from harness.inputs.prepared import with_perturbed_weights
from harness.ladder.comparison import RecordPair
from harness.ladder.noise_floor import needs_repeat
from harness.record.evidence import Record
from harness.run.execute import run_or_reuse
from harness.run.plan import Plan, plan_perturbed, plan_repeat
from harness.run.reporter import Reporter


@dataclass(frozen=True)
class Noise:
    """What was measured of it; None for what was not.

    floor:  the first run, and one from weights that are perturbed in their last place
    repeat: the first run, and one from equal weights
    """

    floor: RecordPair | None = None
    repeat: RecordPair | None = None

    @property
    def runs(self) -> tuple[Record, ...]:
        """What was run beside the first."""
        return tuple(pair[1] for pair in (self.floor, self.repeat) if pair is not None)


NOT_MEASURED = Noise()


def perturbed_of(plan: Plan, settings: Settings) -> Plan | None:
    """The run from perturbed weights beside that of `plan`; None where none is asked for.

    Only aligned cases prepare weights, so that only theirs can be perturbed; for the others the
    documented floors are taken.
    """
    wanted = settings.tolerance.noise_floor == "ulp" and settings.case.aligned
    if settings.stage or not wanted:
        return None
    return plan_perturbed(plan, with_perturbed_weights(plan.inputs, settings.case.computed_in))


def measure_noise(
    plan: Plan, subject: Record, perturbed: Record | None, settings: Settings, reporter: Reporter
) -> Noise:
    """What `perturbed` tells beside `subject`, the run of `plan`; a repeat, where one is needed."""
    workspace, tolerance = Path(settings.workspace), settings.tolerance
    if settings.stage:
        return NOT_MEASURED
    floor = None if perturbed is None else (subject, perturbed)
    needed = floor is not None and floor[1].complete and needs_repeat(floor, tolerance)
    if tolerance.repeat != "always" and not (tolerance.repeat == "auto" and needed):
        return Noise(floor)
    again = run_or_reuse(plan_repeat(plan), workspace, settings.launcher, reporter)
    return Noise(floor, (subject, again))
