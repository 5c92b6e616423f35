"""The branch gate: `pytest tests/parity/test_gate.py --parity-candidate transformers@REF`."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from harness.gate.gate import judge_pair
from harness.gate.refs import Ref
from harness.gate.selection import gate_pairs
from harness.ladder.result import Result, RungResult
from harness.ladder.verdict import PairVerdict
from harness.plugins.ladder import assert_holds
from harness.report.progress import ConsoleReporter


def test_gate(parity_gate_result: RungResult) -> None:
    assert_holds(parity_gate_result)


@pytest.mark.cpu
def test_a_stored_baseline_lets_nothing_else_pass(
    request: pytest.FixtureRequest, parity_workspace: Path, tmp_path: Path
) -> None:
    """The Trainer of the engine environment: written, passed, and then with a fault each."""
    words = [
        f"workspace='{parity_workspace}'",
        *request.config.getoption("--parity-override"),
        "tolerance.noise_floor=table",  # no noise has to be measured to see these
    ]

    def gate(*overrides: str) -> PairVerdict:
        pairs = gate_pairs(
            [*words, *overrides], Ref("transformers"), None, ["llama-tiny"], tmp_path
        )
        (pair,) = [pair for pair in pairs if not pair.parity]
        reporter = ConsoleReporter(Console(stderr=True, force_terminal=False))
        return judge_pair(pair, reporter).verdict.pairs[0]

    def failed(verdict: PairVerdict) -> str | None:
        rung = verdict.headline_rung
        return None if rung is None or rung.result is not Result.FAIL else rung.rung

    missing = gate()
    assert missing.result is Result.FAIL
    assert "there was no baseline" in missing.headline
    again = gate()
    assert again.result is Result.PASS, again.headline
    assert "bitwise equal" in again.notes[0]
    assert failed(gate("engine.hf.faults=[{name: rope_theta, arguments: {}}]")) == "forward"
    short = gate("engine.hf.faults=[{name: exit_early, arguments: {after: 8}}]")
    assert failed(short) == "loss_curve"
    other = gate("engine.hf.faults=[{name: perturb_weight, arguments: {by: 1e-3}}]")
    assert other.result is Result.INVALID
    assert "not comparable: init" in other.headline
