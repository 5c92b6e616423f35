"""Which runs a session says are coming, before it launches the first."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate_samples import Silent, plan

from harness.config.compose import load
from harness.launchers.launcher import Local, Run
from harness.launchers.registry import launcher_for
from harness.run.execute import expect, with_launcher_identity
from harness.run.workspace import slot


@pytest.fixture
def expected(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """What a local launcher was told to expect."""
    announced: list[Run] = []
    monkeypatch.setattr(Local, "expect", lambda self, run: announced.append(run))
    return announced


def ask(workspace: Path, *overrides: str) -> None:
    """Two plans, of which the first has a Record."""
    settings = load(list(overrides))
    plans = [plan(label, settings) for label in ("a", "b")]
    first = with_launcher_identity(plans[0], launcher_for(settings.launcher, print))
    slot(workspace, first.case.name, first.engine, first.key).directory.mkdir(parents=True)
    expect(plans, workspace, settings.launcher, Silent())


def test_those_that_have_no_record_yet(tmp_path: Path, expected: list[Run]) -> None:
    ask(tmp_path)
    assert [run.command.argv for run in expected] == [("b",)]
    (run,) = expected
    assert "transformers.trainer" in run.libraries
    assert run.places.record.parent.parent == tmp_path


def test_none_where_they_run_elsewhere(tmp_path: Path, expected: list[Run]) -> None:
    ask(tmp_path, "launcher=docker")
    assert expected == []
