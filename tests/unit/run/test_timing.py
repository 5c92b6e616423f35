"""What is measured beside the compared runs, and in which order."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from harness.config.compose import load
from harness.config.settings import Settings
from harness.environments.interpreters import Interpreter
from harness.inputs.prepared import Inputs, prepare
from harness.ladder.result import Result, RungResult
from harness.record.evidence import Record
from harness.run import plan
from harness.run import timing as measuring
from harness.run.timing import measure, time_whole_runs

PYTHON = Interpreter(Path("/python"), (), {"transformers": "4.57.6"}, {}, "interpreter")


SIDES = (plan.planner("hf", lambda _: None),) * 2


class Silent:
    def note(self, text: str) -> None: ...


class Launched:
    """Stands in for `obtain`: what was asked for, in its order."""

    def __init__(self, run: Record) -> None:
        self.run, self.plans = run, list[plan.Plan]()

    def __call__(self, asked: plan.Plan, *_: Any) -> Record:
        self.plans.append(asked)
        return self.run


@pytest.fixture
def launched(a: Record, monkeypatch: pytest.MonkeyPatch) -> Launched:
    launched = Launched(a)
    monkeypatch.setattr(measuring, "obtain", launched)
    monkeypatch.setattr(plan, "interpreter_for", lambda *_: PYTHON)
    return launched


def asked(tmp_path: Path, *words: str) -> Settings:
    device = ["launcher.device=tpu", "tolerance.step_time=0.02"]
    return load([f"workspace='{tmp_path}'", "engines=[hf,hf]", *device, *words])


def sides(launched: Launched) -> str:
    return "".join("AB"[int(p.partner.removeprefix("whole-"))] for p in launched.plans)


class TestWholeRuns:
    """A TPU belongs to one process at a time: there whole runs take turns."""

    def run(self, settings: Settings, monkeypatch: pytest.MonkeyPatch, *decided: bool) -> int:
        results = [Result.PASS if answer else Result.INCONCLUSIVE for answer in decided]
        answers = iter(RungResult("step_time", result, "") for result in results)
        monkeypatch.setattr(measuring, "judge_launches", lambda *_: next(answers))
        inputs = prepare(settings.case, Path(settings.workspace) / "inputs")
        return len(time_whole_runs(SIDES, settings, inputs, Silent()))  # type: ignore[arg-type]

    def test_a_b_b_a(
        self, tmp_path: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.run(asked(tmp_path, "timing.launches=4"), monkeypatch, False) == 4
        assert sides(launched) == "ABBAABBA"
        assert {p.role for p in launched.plans} == {"timing"}
        assert len({p.key for p in launched.plans}) == 8

    def test_each_look_takes_twice_the_launches_and_keeps_the_earlier_ones(
        self, tmp_path: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = asked(tmp_path, "timing.launches=1", "timing.looks=3")
        assert self.run(settings, monkeypatch, False, True) == 2
        assert sides(launched) == "ABABBA"
        keys = [p.key for p in launched.plans]
        assert keys[:2] == keys[2:4]

    def test_the_budget(
        self, tmp_path: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = asked(tmp_path, "timing.looks=3", "timing.budget=1e-9")
        assert self.run(settings, monkeypatch, False, False, False) == 1

    def test_only_where_they_are_asked_for(self, tmp_path: Path, launched: Launched) -> None:
        for words, count in (([], 0), (["timing.launches=2"], 4)):
            launched.plans.clear()
            settings = asked(tmp_path, *words)
            inputs = prepare(settings.case, tmp_path / "inputs")
            found = measure(SIDES, settings, inputs, Silent())  # type: ignore[arg-type]
            assert (len(launched.plans), len(found.timing)) == (count, count // 2)


class TestWhatIsMeasured:
    def test_each_side_is_planned_as_it_was_for_the_comparison(
        self, tmp_path: Path, launched: Launched
    ) -> None:
        """Not what `engines` names: a gate compares versions that are not there."""
        settings = asked(tmp_path, "launcher.device=cpu", "tolerance.step_time=null", "graph=hlo")
        inputs = prepare(settings.case, tmp_path / "inputs")

        def old(settings: Settings, inputs: Inputs) -> plan.Plan:
            return dataclasses.replace(SIDES[0](settings, inputs), label="hf@old")

        measure((old, SIDES[1]), settings, inputs, Silent())  # type: ignore[arg-type]
        assert [p.label for p in launched.plans] == ["hf@old's graph", "hf's graph"]
        assert {p.case.steps for p in launched.plans} == {plan.DUMP_STEPS}
