"""What a run was given in secret, and printed, is in no part of its Record."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from builders import Trainer
from gate_samples import plan

from harness.base.secrets import SECRET
from harness.config.settings import LauncherSettings
from harness.launchers import local
from harness.launchers.invocation import Invocation
from harness.launchers.launcher import OnEvent, Run
from harness.launchers.local import Limits
from harness.record.reader import read_record
from harness.record.termination import FAILED, Termination
from harness.run import execute

VALUE = "hunter2-hunter2"
SCRIPT = """
import os, sys
print("DB", os.environ["DB_PASS"], flush=True)
sys.exit("no " + os.environ["DB_PASS"])
"""


@dataclass(frozen=True)
class Telling:
    """A launcher of a trainer that tells all that it knows, and fails."""

    here = True
    identity: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """There is nothing to check."""

    def invocation(self, run: Run) -> Invocation:
        return Invocation((sys.executable, "-I", "-c", SCRIPT), {}, run.places.scratch)

    def launch(self, run: Run, on_event: OnEvent) -> Termination:
        return local.launch(self.invocation(run), run.places.record, Limits(30, 30), on_event)


class Quiet:
    """A reporter to which nobody listens, but for how a run ended."""

    def __init__(self) -> None:
        self.ended_as: list[Termination] = []

    def ended(self, label: str, ended: Termination) -> None:
        self.ended_as.append(ended)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def test_the_end_of_a_run_is_told_without_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its log is read by the launcher, before secrets are taken out of the files."""
    monkeypatch.setenv("DB_PASS", VALUE)
    monkeypatch.setenv("PARITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(execute, "launcher_for", lambda *_: Telling())
    Trainer().write(tmp_path / "made")
    chosen: Any = SimpleNamespace(case=read_record(tmp_path / "made").case)
    reporter: Any = Quiet()
    found = execute.run_or_reuse(plan("one", chosen), tmp_path, LauncherSettings(), reporter)
    assert found.ended.status == FAILED
    assert found.ended.reason.endswith(f"no {SECRET}")
    assert f"DB {SECRET}" in found.ended.log
    assert VALUE not in str(reporter.ended_as)
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or VALUE.encode() not in file.read_bytes()
