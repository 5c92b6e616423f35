"""The speed rungs on the real Trainer: what is seeded is caught, and equal runs are not failed."""

from __future__ import annotations

from typing import Any

import pytest

from harness.config.compose import load
from harness.config.settings import SeededFault, Settings
from harness.ladder.comparison import Comparison
from harness.ladder.judge import judge
from harness.ladder.result import Result, RungResult
from harness.plugins.ladder import EnginePair, pair_outcome
from harness.report.progress import ConsoleReporter
from harness.run.plan import planner
from harness.run.timing import time_in_turns

PAIR = EnginePair("llama-tiny", "reference", "hf", "cpu")


def _quiet() -> ConsoleReporter:
    from rich.console import Console

    return ConsoleReporter(Console(quiet=True))


def _settings(request: pytest.FixtureRequest, *overrides: str) -> Settings:
    workspace = request.config.getoption("--parity-workspace")
    more = request.config.getoption("--parity-override")
    return load([f"workspace='{workspace}'", "tolerance.step_time=0.015", *more, *overrides])


@pytest.mark.cpu
def test_an_extra_step_marker_is_another_graph(request: pytest.FixtureRequest) -> None:
    clean = pair_outcome(request.config, PAIR)
    fault = "engine.hf.faults=[{name: extra_sync}]"
    cut = pair_outcome(request.config, PAIR, "float64=never", fault)
    a = clean.records[clean.verdict.pairs[0].b_record]
    b = cut.records[cut.verdict.pairs[0].b_record]
    verdict = judge(Comparison(a, b, _settings(request).tolerance))
    assert verdict.rung("graph").result is Result.FAIL
    found = {(finding.a, finding.b) for finding in verdict.rung("graph").findings}
    assert (0, 1) in found, "a cut within a pass"


def _step_time(settings: Settings, fault: dict[str, Any] | None = None) -> RungResult:
    """The rung of hf against hf, windows in turns, with a fault in the second."""
    faults = [] if fault is None else [SeededFault(**fault)]
    sides = (planner("hf", lambda line: None),) * 2
    pairs = time_in_turns(sides, settings, _quiet(), faults=faults)
    a, b = pairs[0]
    return judge(Comparison(a, b, settings.tolerance, timing=pairs)).rung("step_time")


@pytest.mark.cpu
@pytest.mark.slow
def test_a_large_slowdown_is_a_failure(request: pytest.FixtureRequest) -> None:
    slow = {"name": "slowdown", "arguments": {"seconds": 0.5}}
    rung = _step_time(_settings(request, "timing.windows=60"), slow)
    assert rung.result is Result.FAIL
    assert rung.value is not None
    assert rung.value > 1


@pytest.mark.cpu
@pytest.mark.slow
def test_equal_runs_are_never_slower(request: pytest.FixtureRequest) -> None:
    rung = _step_time(_settings(request, "timing.windows=60"))
    assert rung.result is not Result.FAIL


@pytest.mark.cpu
@pytest.mark.slow
def test_a_stall_at_one_step_of_every_launch_is_a_failure(request: pytest.FixtureRequest) -> None:
    stall = {"name": "sleep", "arguments": {"seconds": 2.0, "step": 12}}
    rung = _step_time(_settings(request, "timing.windows=30", "timing.launches=3"), stall)
    assert rung.result is Result.FAIL
    assert {finding.step for finding in rung.findings} >= {12}


@pytest.mark.cpu
@pytest.mark.slow
def test_the_compiled_steps_of_two_engines_are_compared(request: pytest.FixtureRequest) -> None:
    outcome = pair_outcome(request.config, PAIR, "graph=hlo")
    rung = outcome.verdict.pairs[0].rung("graph")
    assert rung.result in (Result.PASS, Result.FAIL)
    assert rung.value is not None
