"""The probe disturbs nothing: losses of unwatched runs are bitwise equal to those of watched ones.

As shipped, no engine is patched. Unwatched, the Trainer tells its own running sum of losses, and
torchprime its TensorBoard scalars, both at full precision.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from harness.config.compose import load
from harness.config.settings import Settings
from harness.engines.sources import MissingSource
from harness.inputs.prepared import prepare
from harness.launchers.invocation import Invocation, bare, make_scratch
from harness.launchers.local import Limits, launch
from harness.report.progress import ConsoleReporter
from harness.run.device_lock import DeviceLock
from harness.run.execute import places_of, run_or_reuse
from harness.run.plan import Plan, plan_run

CASE = ("case=llama-tiny-as-shipped", "case.steps=8")
EXPERTS = ("model@case.model=mixtral-tiny", "sharding@case.sharding=mixtral-fsdp")
"""The same of a model with routers, whose choice is watched."""


def _settings(request: pytest.FixtureRequest, workspace: Path, *overrides: str) -> Settings:
    source = request.config.getoption("--parity-torchprime")
    named = [] if source is None else [f"engine.torchprime.source='{source}'"]
    more = [*request.config.getoption("--parity-override"), *named]
    return load([*CASE, f"workspace='{workspace}'", *more, *overrides])


def _plan(engine: str, settings: Settings, request: pytest.FixtureRequest) -> Plan:
    inputs = prepare(settings.case, Path(settings.workspace) / "inputs")
    try:
        return plan_run(engine, settings, inputs, lambda line: None)
    except MissingSource as error:
        if "torchprime" in request.config.getoption("--parity-require"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


def _run_unwatched(plan: Plan, folder: Path, wrapper: tuple[str, ...] = ()) -> Path:
    """Run the plan's command by itself; the scratch folder that it wrote to."""
    places = places_of(plan, folder, folder / "scratch")
    make_scratch(places)
    python = str(plan.interpreter.python)
    invocation = bare(plan.command, places, python, plan.interpreter.pythonpath, plan.environment)
    if wrapper:
        argv = (python, *wrapper, *invocation.argv[1:])
        invocation = dataclasses.replace(invocation, argv=argv)
    invocation.write_files()
    ending = _launch(invocation, folder)
    assert ending == "ok", (folder / "trainer.log").read_text()[-3000:]
    return places.scratch


def _launch(invocation: Invocation, folder: Path) -> str:
    with DeviceLock("cpu", _quiet()):
        return launch(invocation, folder, Limits(900, 900), lambda event: None).status


def _quiet() -> ConsoleReporter:
    from rich.console import Console

    return ConsoleReporter(Console(quiet=True))


def _watched_losses(plan: Plan, settings: Settings) -> list[float | None]:
    record = run_or_reuse(plan, Path(settings.workspace), settings.launcher, _quiet())
    assert record.complete, record.ended
    return [step.loss for step in record.steps]


@pytest.mark.cpu
def test_the_trainers_own_losses_are_those_of_a_watched_run(
    request: pytest.FixtureRequest, parity_workspace: Path, tmp_path: Path
) -> None:
    settings = _settings(request, parity_workspace, "+engine.hf.arguments.logging_steps=1")
    plan = _plan("hf", settings, request)
    wrapper = Path(__file__).with_name("unwatched_hf.py")
    target = tmp_path / "sums.json"
    _run_unwatched(plan, tmp_path, (str(wrapper), str(target)))
    sums = [0.0, *json.loads(target.read_text())]
    own = [after - before for before, after in itertools.pairwise(sums)]
    assert len(own) == settings.case.steps
    assert own == _watched_losses(plan, settings)


@pytest.mark.cpu
@pytest.mark.parametrize(
    "model",
    [pytest.param((), id="llama"), pytest.param(EXPERTS, marks=pytest.mark.slow, id="mixtral")],
)
def test_torchprimes_own_losses_are_those_of_a_watched_run(
    model: tuple[str, ...],
    request: pytest.FixtureRequest,
    parity_workspace: Path,
    tmp_path: Path,
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    logs = "+engine.torchprime.arguments.logging_steps=1"
    settings = _settings(request, parity_workspace, logs, *model)
    plan = _plan("torchprime", settings, request)
    scratch = _run_unwatched(plan, tmp_path)
    events = EventAccumulator(str(scratch / "output" / "runs" / "parity"))
    events.Reload()
    own = {event.step: event.value for event in events.Scalars("train/loss")}
    watched = _watched_losses(plan, settings)
    # Its own log may lose the last step, whose closure runs while the process ends.
    assert len(own) >= settings.case.steps - 1
    assert all(watched[step] == loss for step, loss in own.items())
