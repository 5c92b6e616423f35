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


def measure_noise(plan: Plan, subject: Record, settings: Settings, reporter: Reporter) -> Noise:
    """Launch what `settings.tolerance` asks for beside `subject`, the run of `plan`.

    Only aligned cases prepare weights, so that only theirs can be perturbed; for the others the
    documented floors are taken.
    """
    workspace, tolerance = Path(settings.workspace), settings.tolerance
    if settings.stage:
        return NOT_MEASURED
    floor = None
    if tolerance.noise_floor == "ulp" and settings.case.aligned:
        perturbed = with_perturbed_weights(plan.inputs, settings.case.computed_in)
        moved = run_or_reuse(
            plan_perturbed(plan, perturbed), workspace, settings.launcher, reporter
        )
        floor = (subject, moved)
    needed = floor is not None and floor[1].complete and needs_repeat(floor, tolerance)
    if tolerance.repeat != "always" and not (tolerance.repeat == "auto" and needed):
        return Noise(floor)
    again = run_or_reuse(plan_repeat(plan), workspace, settings.launcher, reporter)
    return Noise(floor, (subject, again))
