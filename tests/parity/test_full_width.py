"""What the probe costs at real width: one layer of Llama 3 8B under the real Trainer, on and off.

Fingerprints of tiny tensors cost nothing that could be measured. These have up to 4,096 × 14,336
elements.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.config.compose import load
from harness.inputs.prepared import prepare
from harness.launchers.invocation import bare, make_scratch, watched
from harness.launchers.local import Limits, launch
from harness.report.progress import ConsoleReporter
from harness.run.device_lock import DeviceLock
from harness.run.execute import places_of
from harness.run.plan import Plan, plan_run

WIDE = (
    "case.model.layers=1", "case.model.hidden_size=4096", "case.model.intermediate_size=14336",
    "case.model.heads=32", "case.model.kv_heads=8",
)  # fmt: skip
"""Llama 3 8B's layer; the vocabulary is the case's own, so that it fits a machine of 12 GB."""

CASE = (
    "case=llama-tiny", "case.name=full-width", "case.steps=5", "case.global_batch=4",
    "case.data.sequence_length=32", "case.model.init_std=0.02",
)  # fmt: skip

MEASURED = Path(__file__).with_name("measured.py")


@dataclass(frozen=True)
class Taken:
    """What a trainer took, as measured.py tells it.

    peak:            resident memory, bytes
    compilations:    of XLA
    compile_seconds: in all of them
    steps:           seconds from the end of an optimizer step to that of the next
    """

    peak: int
    compilations: int
    compile_seconds: float
    steps: Sequence[float]


def taken(plan: Plan, folder: Path, watch: bool) -> Taken:
    """Train with or without the probe; what that took."""
    places = places_of(plan, folder, folder / "scratch")
    make_scratch(places)
    build = watched if watch else bare
    python, path = str(plan.interpreter.python), plan.interpreter.pythonpath
    invocation = build(plan.command, places, python, path, plan.environment)
    argv = (python, str(MEASURED), str(folder / "taken.json"), *invocation.argv[1:])
    invocation = dataclasses.replace(invocation, argv=argv)
    invocation.write_files()
    with DeviceLock("cpu", _quiet()):
        ended = launch(invocation, folder, Limits(3600, 3600), lambda event: None)
    assert ended.status == "ok", (folder / "trainer.log").read_text()[-3000:]
    return Taken(**json.loads((folder / "taken.json").read_text()))


def _quiet() -> ConsoleReporter:
    from rich.console import Console

    return ConsoleReporter(Console(quiet=True))


@pytest.mark.cpu
@pytest.mark.slow
def test_the_probe_costs_little_at_real_width(tmp_path: Path) -> None:
    settings = load([*CASE, *WIDE, f"workspace='{tmp_path}'"])
    inputs = prepare(settings.case, tmp_path / "inputs")
    plan = plan_run("hf", settings, inputs, lambda line: None)
    off = taken(plan, tmp_path / "off", watch=False)
    on = taken(plan, tmp_path / "on", watch=True)
    print(f"off: {off}", f"on: {on}", sep="\n")
    parameters = json.loads((tmp_path / "on" / "parameters.json").read_text())["parameters"]
    assert len(parameters) == 12
    assert all(p["gradient"]["norm"] > 0 and len(p["state_after"]) == 2 for p in parameters)
    assert on.peak < 1.1 * off.peak
    # The first two steps are observed, and the last values after the last step.
    assert statistics.median(on.steps[2:]) < 1.5 * statistics.median(off.steps[2:])
