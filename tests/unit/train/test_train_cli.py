"""`parity train`: what it says at the end, and how it exits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import manifests
import pytest
from typer.testing import CliRunner

from harness.base.errors import BadInput
from harness.cli import train as cli
from harness.cli.main import app
from harness.config.training import TrainingData, TrainingRequest
from harness.record.evidence import Parameter, Record, Step
from harness.record.termination import Termination
from harness.train import hf as hf_side
from harness.train import request as requested
from harness.train import watching
from harness.train.request import TrainingPlan


def record(**changes: Any) -> Record:
    steps = tuple(Step(i, loss=6.0 - i, finished=True) for i in range(3))
    case = TrainingRequest("bfloat16", 3, 8, 1, None, None, None, TrainingData(None))
    manifest = manifests.parsed(manifests.raw(dataclasses.asdict(case)))
    weight = Parameter("w", (2,), "bfloat16", "", 0)
    ours = Record(Path("/out/runs/mine"), manifest, steps, (), (weight,), ())
    return dataclasses.replace(ours, **changes)


class TestSummary:
    def test_a_run_that_trained(self) -> None:
        assert cli.summary(record()) == [
            "3 of 3 steps trained, loss 6 to 4",
            "Record: /out/runs/mine",
            "curves: tensorboard --logdir /out/runs",
        ]

    def test_a_run_that_failed(self) -> None:
        ended = Termination("failed", "ValueError: no", 1, 1.0, ("one", "two"))
        failed = record(steps=(), manifest=dataclasses.replace(record().manifest, ended=ended))
        assert cli.summary(failed) == [
            "0 of 3 steps trained",
            "it failed: ValueError: no",
            "  one",
            "  two",
            "Record: /out/runs/mine",
        ]

    def test_a_script_that_trains_in_another_dtype(self) -> None:
        other = record(parameters=(Parameter("w", (2,), "float32", "", 0),))
        assert any("bfloat16 was asked for, but" in line for line in cli.summary(other))

    def test_a_loss_that_is_not_finite_is_shown(self) -> None:
        steps = (Step(0, loss=6.0, finished=True), Step(1, loss=float("nan"), finished=True))
        assert "loss 6 to nan" in cli.summary(record(steps=steps))[0]


class TestFromTheAdapter:
    @pytest.mark.parametrize("engine", ["hf", "torchprime"])
    def test_use_hf_is_told_what_it_is_here(self, engine: str) -> None:
        result = CliRunner().invoke(app, ["train", engine, "--use-hf", "torchprime/x/train.py"])
        assert isinstance(result.exception, BadInput)
        assert "`parity train hf` is what" in str(result.exception)

    def test_a_dry_run_trains_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class FakePlan:
            label, origin = "mine", {"description": "transformers 4.57.6"}

        side = TrainingPlan(FakePlan(), Path("/out/runs/mine"))  # type: ignore[arg-type]
        monkeypatch.setattr(hf_side, "plan", lambda training, note: side)
        monkeypatch.setattr(requested, "commands", lambda *_: [("docker", "run", "a b")])
        result = CliRunner().invoke(app, ["train", "hf", "--dry-run"])
        assert result.exit_code == 0
        assert result.stdout.splitlines()[-1] == "docker run 'a b'"


class TestExit:
    @pytest.fixture
    def ending(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Makes `parity train hf` end with a given Record, without planning or training."""

        class FakePlan:
            label, origin = "mine", {"description": "transformers 4.57.6"}

        def plan(training: Any, note: Any) -> Any:
            return TrainingPlan(FakePlan(), Path("/out/runs/mine"), ("left out",))  # type: ignore[arg-type]

        def end_with(result: Record) -> None:
            monkeypatch.setattr(hf_side, "plan", plan)
            monkeypatch.setattr(requested, "train", lambda *_: result)

        return end_with

    def test_trained(self, ending: Any) -> None:
        ending(record())
        result = CliRunner().invoke(app, ["train", "hf"])
        assert result.exit_code == 0
        assert "mine: transformers 4.57.6" in result.output
        assert "left out" in result.output

    def test_not_to_its_end(self, ending: Any) -> None:
        ending(record(steps=record().steps[:2]))
        assert CliRunner().invoke(app, ["train", "hf"]).exit_code == 1

    @pytest.mark.parametrize("engine", ["hf", "torchprime"])
    def test_bad_input(self, engine: str) -> None:
        result = CliRunner().invoke(app, ["train", engine, "workload=nobody"])
        assert isinstance(result.exception, BadInput)


class TestInteractive:
    """`--interactive`: one training for each edit, until Ctrl-C."""

    @pytest.fixture
    def source(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The current folder, which is trained with."""
        monkeypatch.setattr(watching, "POLL", 0.01)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "train.py").write_text("0")
        return tmp_path

    def trained(self, monkeypatch: pytest.MonkeyPatch, plans: Any, trains: Any, *more: str) -> Any:
        monkeypatch.setattr(hf_side, "plan", lambda training, note: plans())
        monkeypatch.setattr(requested, "train", lambda *_: trains())
        return CliRunner().invoke(app, ["train", "hf", "--interactive", *more])

    def test_it_trains_again_for_each_edit_until_ctrl_c(
        self, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trained: list[str] = []

        def train() -> Record:
            trained.append((source / "train.py").read_text())
            if len(trained) == 3:
                raise KeyboardInterrupt
            (source / "train.py").write_text(f"edit {len(trained)} while it trains")
            return record(steps=record().steps[: len(trained)])

        result = self.trained(monkeypatch, lambda: planned(source), train)
        assert trained == ["0", "edit 1 while it trains", "edit 2 while it trains"]
        assert result.output.count(f"waiting for an edit in {source}; Ctrl-C ends it") == 2
        assert result.output.count(f"{source / 'train.py'} was edited") == 2
        assert result.exit_code == 130

    def test_an_edit_that_cannot_be_trained_waits_for_the_next(
        self, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rounds: list[str] = []

        def plan() -> TrainingPlan:
            rounds.append((source / "train.py").read_text())
            (source / "train.py").write_text("edit" + "!" * len(rounds))
            if len(rounds) == 2:
                raise BadInput("SyntaxError: '(' was never closed")
            return planned(source)

        def train() -> Record:
            if len(rounds) == 3:
                raise KeyboardInterrupt
            (source / "train.py").write_text("edit, once trained")
            return record()

        result = self.trained(monkeypatch, plan, train)
        assert "error: SyntaxError: '(' was never closed" in result.stderr
        assert rounds == ["0", "edit, once trained", "edit!!"]
        assert result.exit_code == 130

    def test_what_cannot_be_trained_at_all_is_bad_input(
        self, source: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def plan() -> TrainingPlan:
            raise BadInput("no such thing")

        result = self.trained(monkeypatch, plan, record)
        assert isinstance(result.exception, BadInput)

    def test_two_runs_have_two_names(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        result = self.trained(monkeypatch, lambda: planned(source), record, "run_name=mine")
        assert isinstance(result.exception, BadInput)
        assert "run_name=mine: --interactive trains more than once" in str(result.exception)


def planned(source: Path | None) -> TrainingPlan:
    """The plan of a run of what is in `source`."""
    plan = SimpleNamespace(
        label="mine", origin={"description": "a checkout"}, source=source, output=None
    )
    return TrainingPlan(plan, Path("/out/runs/mine"))  # type: ignore[arg-type]
