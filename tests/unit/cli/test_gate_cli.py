"""`parity gate`, `bless` and `bisect` as commands: exit codes, JSON, and what they print."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gate_samples as samples
import pytest
from typer.testing import CliRunner, Result

from harness.base.errors import BadInput
from harness.cli.main import app
from harness.engines.spec import TrainerOptions
from harness.gate import bisect, releases
from harness.gate import gate as gating
from harness.gate.selection import SMOKE, GatePair
from harness.ladder.ladder import names
from harness.ladder.result import Result as Judged
from harness.ladder.result import RungResult
from harness.ladder.verdict import PairVerdict, Verdict
from harness.run.noise import Noise
from harness.run.session import Outcome


def verdict(result: Judged, rung: str = "forward") -> PairVerdict:
    rungs = tuple(
        RungResult(name, result if name == rung else Judged.PASS, f"{name} of it")
        for name in names()
    )
    return PairVerdict("hf@1.0", "hf@2.0", "", "", rungs)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> list[GatePair]:
    """What the gate was asked for; it says FAIL."""
    requested: list[GatePair] = []

    def run_gate(pairs: Sequence[GatePair], reporter: Any) -> Outcome:
        requested.extend(pairs)
        return Outcome(Verdict("compared", "llama-tiny", (verdict(Judged.FAIL),)), {})

    monkeypatch.setattr(gating, "run_gate", run_gate)
    monkeypatch.setattr("harness.cli.gate.progress", samples.Silent)
    monkeypatch.delenv("TORCHPRIME_DIR", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return requested


def test_help_shows_lists_as_they_are_written() -> None:
    assert run("run", "--help").stdout.count("engines=[hf,reference]") == 2


class TestGate:
    @pytest.mark.parametrize("option", ["--json", "--html"])
    def test_a_file_that_cannot_be_written_is_told_before_anything_runs(
        self, gated: list[GatePair], tmp_path: Path, option: str
    ) -> None:
        (tmp_path / "file").write_text("kept")
        for place, said in (
            (tmp_path, "is a folder"), (tmp_path / "file" / "x", "its folder cannot be made")
        ):  # fmt: skip
            done = run("gate", "--candidate", "transformers@2.0", option, str(place))
            assert isinstance(done.exception, BadInput)
            assert f"{option} {place}" in str(done.exception)
            assert said in str(done.exception)
        assert not gated
        assert (tmp_path / "file").read_text() == "kept"

    def test_the_verdict_is_the_last_line_the_exit_code_and_the_json(
        self, gated: list[GatePair], tmp_path: Path
    ) -> None:
        file = tmp_path / "out" / "gate.json"
        words = ("--candidate", "transformers@2.0", "--baseline", "transformers@1.0")
        done = run("gate", *words, "--json", str(file), "--cases", "llama-tiny", "case.steps=5")
        assert done.exit_code == 1
        assert done.stdout.strip().splitlines()[-1] == "FAIL  forward: forward of it"
        written = json.loads(file.read_text())
        assert written["result"] == "FAIL"
        assert written["pairs"][0]["headline_rung"] == "forward"
        (pair,) = gated
        assert pair.settings.case.steps == 5
        assert str(pair.against) == "transformers@1.0"

    def test_a_torchprime_is_judged_too_where_it_is_named(self, gated: list[GatePair]) -> None:
        run("gate", "--candidate", "transformers@2.0", "--torchprime", "/some/where")
        assert [pair.parity for pair in gated] == [*[False] * len(SMOKE), True]
        assert gated[0].against is None
        options = gated[-1].settings.engine["torchprime"]
        assert isinstance(options, TrainerOptions)
        assert options.source == "/some/where"

    def test_several_cases(self, gated: list[GatePair]) -> None:
        run("gate", "--candidate", "transformers@2.0", "--cases", "smoke,llama-tiny-bf16")
        assert [pair.case for pair in gated] == [*SMOKE, "llama-tiny-bf16"]

    def test_bad_input(self, gated: list[GatePair]) -> None:
        done = run("gate", "--candidate", "4.57.6")
        assert isinstance(done.exception, BadInput)


class TestBless:
    @pytest.fixture
    def measured(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bool]:
        """Whether a noise floor was asked for, each time that a run was."""
        floors: list[bool] = []
        record = samples.run(tmp_path / "r", "hf@2.0")
        perturbed = samples.run(tmp_path / "c", "hf@2.0 perturbed")

        def measure(pair: Any, plan: Any, reporter: Any, floor: bool = True) -> Any:
            floors.append(floor)
            return record, Noise((record, perturbed) if floor else None)

        monkeypatch.setattr(gating, "measured", measure)
        plan = samples.plan("hf@2.0", samples.settings(tmp_path))
        monkeypatch.setattr(gating, "plan_candidate", lambda pair, reporter: plan)
        monkeypatch.setattr("harness.cli.bless.progress", samples.Silent)
        monkeypatch.setenv("TORCHPRIME_DIR", "/some/where")
        return floors

    def test_it_is_written_and_shown(self, measured: list[bool], tmp_path: Path) -> None:
        stored = tmp_path / "stored"
        words = ("--cases", "llama-tiny", "--baselines", str(stored))
        done = run("bless", "transformers@2.0", *words)
        assert done.exit_code == 0
        assert "| llama-tiny | 4 CPU | hf | none | 2.0 |" in done.stdout
        names = sorted(path.name for path in stored.rglob("*.json"))
        assert names == ["hf-2.0.json", "hf-2.0.perturbed.json"]
        assert measured == [True], "the other trainer is not blessed"

    def test_show_writes_nothing(self, measured: list[bool], tmp_path: Path) -> None:
        words = ("--show", "--cases", "llama-tiny", "--baselines", str(tmp_path / "stored"))
        done = run("bless", "transformers@2.0", *words)
        assert "| none | 2.0 |" in done.stdout
        assert not (tmp_path / "stored").exists()
        assert measured == [False]

    def test_changes_in_no_commit_are_refused_before_anything_trains(
        self, measured: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = samples.plan("hf@./dirty", samples.settings(tmp_path))
        dirty = dataclasses.replace(plan, origin={**plan.origin, "dirty": "ab12"})
        monkeypatch.setattr(gating, "plan_candidate", lambda pair, reporter: dirty)
        done = run("bless", "transformers@2.0", "--baselines", str(tmp_path / "stored"))
        assert isinstance(done.exception, BadInput)
        assert "in no commit" in str(done.exception)
        assert not measured
        assert run("bless", "transformers@2.0", "--show").exit_code == 0, "but may be looked at"

    def test_another_torch_xla_is_no_baseline(self, measured: list[bool]) -> None:
        assert isinstance(run("bless", "torch_xla@2.8.0").exception, BadInput)


class TestBisect:
    @pytest.fixture
    def world(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Releases 1.0 to 1.9, of which those from 1.6 on fail."""

        def judge_pair(pair: GatePair, reporter: Any) -> Outcome:
            failed = int(str(pair.candidate.source)[2:]) >= 6
            found = verdict(Judged.FAIL if failed else Judged.PASS, "backward")
            return Outcome(Verdict("compared", pair.case, (found,)), {})

        monkeypatch.setattr(bisect, "judge_pair", judge_pair)
        monkeypatch.setattr(
            bisect, "plan_candidate", lambda pair, _: samples.plan("1.0", pair.settings)
        )
        monkeypatch.setattr(releases, "listed", lambda package: [f"1.{n}" for n in range(10)])
        monkeypatch.setattr("harness.cli.bisect.progress", samples.Silent)
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    ENDS = ("--good", "transformers@1.0", "--bad", "transformers@1.9")

    @pytest.mark.usefixtures("world")
    def test_the_rung_the_numbers_and_the_release(self) -> None:
        done = run("bisect", *self.ENDS)
        assert done.exit_code == 1
        printed = " ".join(done.stdout.split())
        assert "backward broke in transformers@1.6; transformers@1.5 is still good" in printed
        assert printed.endswith("FAIL backward: backward of it")

    @pytest.mark.usefixtures("world")
    def test_the_users_own_releases(self) -> None:
        done = run("bisect", *self.ENDS, "--releases", "1.2,1.7,1.8,")
        printed = " ".join(done.stdout.split())
        assert "broke in transformers@1.7; transformers@1.2 is still good" in printed
