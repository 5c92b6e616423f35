"""A trainer that ends otherwise than by training every step is never a PASS, and leaves nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.ladder.ladder import names
from harness.ladder.result import Result
from harness.plugins.ladder import EnginePair, pair_outcome
from harness.record.termination import FAILED, STOPPED_EARLY, TIMED_OUT


def _seed(name: str, arguments: str, *more: str) -> tuple[str, ...]:
    return (f"engine.hf.faults=[{{name: {name}, arguments: {arguments}}}]", "float64=never", *more)


def _processes_of(workspace: Path) -> str:
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return "\n".join(
        line
        for line in listing.stdout.splitlines()
        if str(workspace) in line and "harness.probe" in line
    )


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("fault", "arguments", "more", "expected"),
    [
        ("exit_early", "{after: 1}", (), STOPPED_EARLY),
        ("exit_early", "{after: 4, code: 3}", (), FAILED),
        ("hang", "{after: 4}", ("launcher.silence=10",), TIMED_OUT),
    ],
    ids=["exits-with-0-after-no-step", "exits-with-3", "hangs"],
)
def test_a_broken_run_is_invalid(
    fault: str,
    arguments: str,
    more: tuple[str, ...],
    expected: str,
    request: pytest.FixtureRequest,
    parity_workspace: Path,
) -> None:
    pair = EnginePair("llama-tiny", "reference", "hf", "cpu")
    outcome = pair_outcome(request.config, pair, *_seed(fault, arguments, *more))
    verdict = outcome.verdict.pairs[0]
    assert verdict.result is Result.INVALID
    assert outcome.verdict.exit_code == 3
    assert all(verdict.rung(name).result is Result.INVALID for name in names())
    assert outcome.records[verdict.b_record].ended.status == expected
    assert any("log" in note for note in verdict.notes)
    assert _processes_of(parity_workspace) == ""
