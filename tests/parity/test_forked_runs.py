"""A forked run records what a run in an interpreter of its own records, to the last bit."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.devices import native
from harness.ladder.result import Result
from harness.plugins.ladder import EnginePair, pair_outcome
from harness.record.evidence import Record
from harness.record.layout import PARAMETERS, STEPS

OF_ONE_LAUNCH = {"at", "seconds", "cpu_seconds", "compile_seconds", "phases", "forked"}
"""Fields that say when something was, how long it took, or how it was launched."""


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in OF_ONE_LAUNCH}
    return [_without_times(v) for v in value] if isinstance(value, list) else value


def _recorded(record: Record, workspace: Path) -> dict[str, Any]:
    """Everything in a Record but times; its folder is told by another name."""
    events = [json.loads(line) for line in (record.directory / STEPS).read_text().splitlines()]
    command = json.dumps(dataclasses.asdict(record.manifest)["command"]).replace(
        str(workspace), "WORKSPACE"
    )
    command = re.sub(r"\.[0-9a-f]{8}\.(running|scratch)", r".ATTEMPT.\1", command)
    found = {
        # A loader's thread may be ahead of the steps by more or fewer batches.
        "batches": [event for event in events if event["event"] == "batch"],
        "events": [event for event in events if event["event"] != "batch"],
        "parameters": json.loads((record.directory / PARAMETERS).read_text()),
        "observed": dataclasses.asdict(record.observed),
        "key": record.manifest.key,
        "command": json.loads(command),
        "ended": [record.ended.status, record.ended.code],
    }
    assert isinstance(_without_times(found), dict)
    return dict(_without_times(found))


@pytest.fixture(scope="module")
def fresh_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs go that are launched in an interpreter of their own."""
    return tmp_path_factory.mktemp("fresh")


@pytest.mark.cpu
@pytest.mark.parametrize("engine", ["hf", "reference", "torchprime"])
def test_a_forked_run_is_bitwise_a_launched_one(
    engine: str,
    request: pytest.FixtureRequest,
    parity_workspace: Path,
    fresh_workspace: Path,
) -> None:
    pair = EnginePair("llama-tiny", "hf", "reference" if engine == "hf" else engine, "cpu")
    alone = ("launcher.fork_server=false", "tolerance.noise_floor=table", "float64=never")
    found = []
    for workspace, *overrides in (
        (parity_workspace,), (fresh_workspace, *alone, f"workspace='{fresh_workspace}'")
    ):  # fmt: skip
        outcome = pair_outcome(request.config, pair, *overrides)
        verdict = outcome.verdict.pairs[0]
        record = outcome.records[verdict.a_record if engine == "hf" else verdict.b_record]
        assert record.engine == engine
        found.append((record, _recorded(record, workspace)))
    (by_fork, forked), (by_launch, launched) = found
    assert by_fork.observed.forked
    assert not by_launch.observed.forked
    assert len(forked["events"]) > by_fork.requested_steps
    for part, value in forked.items():
        assert value == launched[part], part


@pytest.mark.slow
@pytest.mark.cpu
def test_runs_at_the_same_time_are_bitwise_runs_one_after_the_other(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pair = EnginePair("llama-tiny", "hf", "reference", "cpu-native")
    found = []
    for processors in (1, 2):
        monkeypatch.setattr(native, "processors", lambda many=processors: many)
        workspace = tmp_path / str(processors)
        outcome = pair_outcome(request.config, pair, f"workspace='{workspace}'")
        assert outcome.verdict.result is Result.PASS
        runs = [r for r in outcome.runs if r.manifest.role != "float64"]
        assert len(runs) == 3
        spans = sorted((r.manifest.started, r.manifest.started + r.ended.seconds) for r in runs)
        at_once = any(later[0] < span[1] for span, later in itertools.pairwise(spans))
        assert at_once == (processors > 1)
        found.append({r.directory.name: _recorded(r, workspace) for r in runs})
    assert found[0] == found[1]
