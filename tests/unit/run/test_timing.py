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
from harness.ladder.timed import Launches
from harness.record.evidence import Record
from harness.run import plan
from harness.run import timing as run_timing
from harness.run.session import with_device_tolerance
from harness.run.timing import compiled_step_of, measure, time_in_turns, time_whole_runs

PACKAGES = {"transformers": "4.57.6", "torch-xla": "2.9.0", "libtpu": "0.0.21"}
PYTHON = Interpreter(Path("/python"), (), PACKAGES, {}, "interpreter")


SIDES = (plan.planner("hf", lambda _: None),) * 2


class Silent:
    def note(self, text: str) -> None: ...


class Launched:
    """Stands in for `run_or_reuse`: what was asked for, in its order."""

    def __init__(self, run: Record) -> None:
        self.run, self.plans = run, list[plan.Plan]()

    def __call__(self, requested: plan.Plan, *_: Any) -> Record:
        self.plans.append(requested)
        return self.run


@pytest.fixture
def launched(a: Record, monkeypatch: pytest.MonkeyPatch) -> Launched:
    launched = Launched(a)
    monkeypatch.setattr(run_timing, "run_or_reuse", launched)
    monkeypatch.setattr(plan, "interpreter_for", lambda *_: PYTHON)
    return launched


def requested(tmp_path: Path, *words: str) -> Settings:
    device = ["launcher.device=tpu", "tolerance.step_time=0.02"]
    return load([f"workspace='{tmp_path}'", "engines=[hf,hf]", *device, *words])


def sides(launched: Launched) -> str:
    return "".join("AB"[int(p.paired_with[-1])] for p in launched.plans)


class TestWholeRuns:
    """A TPU belongs to one process at a time: there whole runs take turns."""

    def run(self, settings: Settings, monkeypatch: pytest.MonkeyPatch, *decided: bool) -> int:
        results = [Result.PASS if answer else Result.INCONCLUSIVE for answer in decided]
        answers = iter(RungResult("step_time", result, "") for result in results)
        monkeypatch.setattr(run_timing, "judge_launches", lambda *_: next(answers))
        inputs = prepare(settings.case, Path(settings.workspace) / "inputs")
        return len(time_whole_runs(SIDES, settings, inputs, Silent()))  # type: ignore[arg-type]

    def test_a_b_b_a(
        self, tmp_path: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = requested(tmp_path, "timing.launches=4", "timing.rounds=1")
        assert self.run(settings, monkeypatch, False) == 4
        assert sides(launched) == "ABBAABBA"
        assert {p.role for p in launched.plans} == {"timing"}
        assert len({p.key for p in launched.plans}) == 8

    def test_each_look_makes_as_many_launches_more_and_keeps_the_earlier_ones(
        self, tmp_path: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = requested(tmp_path, "timing.launches=3", "timing.rounds=5")
        assert self.run(settings, monkeypatch, False, True) == 6
        assert sides(launched) == "ABBA" * 3
        assert len({p.key for p in launched.plans}) == 12
        assert self.run(settings, monkeypatch, *[False] * 5) == 15

    def test_a_run_is_timed_for_one_partner(self, tmp_path: Path, launched: Launched) -> None:
        """hf beside torchprime an hour ago is no neighbour of reference now."""
        settings = requested(tmp_path)
        inputs = prepare(settings.case, tmp_path / "inputs")
        hf = SIDES[0](settings, inputs)
        others = (dataclasses.replace(hf, environment={"IT": name}) for name in "xy")
        first, second = (plan.plan_whole((hf, other), 0)[0] for other in others)
        assert first.key != second.key

    def test_what_more_launches_cannot_decide_ends_it(
        self, tmp_path: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A profile that cannot be believed is INVALID, however often it is taken."""
        invalid = RungResult("step_time", Result.INVALID, "")
        monkeypatch.setattr(run_timing, "judge_launches", lambda *_: invalid)
        settings = requested(tmp_path, "timing.rounds=5")
        inputs = prepare(settings.case, tmp_path / "inputs")
        found = time_whole_runs(SIDES, settings, inputs, Silent())  # type: ignore[arg-type]
        assert len(found) == 3

    def test_the_budget(
        self, tmp_path: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = requested(tmp_path, "timing.rounds=3", "timing.budget=1e-9")
        assert self.run(settings, monkeypatch, False, False, False) == 3

    @pytest.mark.parametrize(
        ("words", "launches"),
        [
            (["launcher.device=tpu"], 3),
            (["launcher.device=tpu", "tolerance.step_time=0.01"], 3),
            (["launcher.device=tpu", "timing.launches=5"], 5),
            (["launcher.device=tpu", "tolerance.step_time=null"], 0),
            (["launcher.device=cpu"], 0),
            # its own steps and data cannot take turns
            (["case=llama-tiny-as-shipped", "launcher.device=cpu", "tolerance.step_time=0.02"], 3),
        ],
    )
    def test_at_least_three_a_side_unless_it_is_the_cpu_mesh(
        self, tmp_path: Path, launched: Launched, words: list[str], launches: int
    ) -> None:
        words = [*words, f"workspace='{tmp_path}'", "engines=[hf,hf]", "timing.rounds=1"]
        settings = with_device_tolerance(load(words))
        inputs = prepare(settings.case, tmp_path / "inputs")
        found = measure(SIDES, settings, inputs, Silent())  # type: ignore[arg-type]
        assert (len(launched.plans), len(found.timing)) == (2 * launches, launches)


class TestInTurns:
    def test_a_further_look_adds_launches(
        self, tmp_path: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And none of them is measured again, or with other windows."""
        made: list[tuple[plan.Plan, plan.Plan]] = []

        def obtained(plans: tuple[plan.Plan, plan.Plan], *_: Any) -> tuple[Record, Record]:
            made.append(plans)
            return launched.run, launched.run

        monkeypatch.setattr(run_timing, "run_or_reuse_in_turns", obtained)
        undecided = RungResult("step_time", Result.INCONCLUSIVE, "")
        looked: list[int] = []

        def judge(launches: Launches, *_: Any) -> RungResult:
            looked.append(len(launches))
            return undecided

        monkeypatch.setattr(run_timing, "judge_launches", judge)
        words = ["tolerance.step_time=0.02", "timing.launches=3", "timing.windows=4"]
        settings = load([f"workspace='{tmp_path}'", "engines=[hf,hf]", "timing.rounds=2", *words])
        found = time_in_turns(SIDES, settings, Silent())  # type: ignore[arg-type]
        assert (looked, len(found)) == ([3, 6], 6)
        assert [a.repeat for a, _ in made] == [0, 1, 2, 3, 4, 5]
        assert {p.case.steps for pair in made for p in pair} == {2 + 4}


class TestWhatIsMeasured:
    def test_each_side_is_planned_as_it_was_for_the_comparison(
        self, tmp_path: Path, launched: Launched
    ) -> None:
        """Not what `engines` names: a gate compares versions that are not there."""
        settings = requested(
            tmp_path, "launcher.device=cpu", "tolerance.step_time=null", "graph=hlo"
        )
        inputs = prepare(settings.case, tmp_path / "inputs")

        def old(settings: Settings, inputs: Inputs) -> plan.Plan:
            return dataclasses.replace(SIDES[0](settings, inputs), label="hf@old")

        measure((old, SIDES[1]), settings, inputs, Silent())  # type: ignore[arg-type]
        assert [p.label for p in launched.plans] == ["hf@old's graph", "hf's graph"]
        assert {p.case.steps for p in launched.plans} == {plan.DUMP_STEPS}

    def test_a_case_of_fewer_steps_than_a_dump_takes(
        self, tmp_path: Path, launched: Launched
    ) -> None:
        """Its rows are too few: a trainer would end before the step is compiled for good."""
        words = ("launcher.device=cpu", "graph=hlo", "case.steps=3")
        settings = requested(tmp_path, *words)
        inputs = prepare(settings.case, tmp_path / "inputs")
        compiled_step_of(SIDES[0], settings, inputs, Silent())  # type: ignore[arg-type]
        (dumped,) = launched.plans
        assert dumped.case.steps == plan.DUMP_STEPS
        assert dumped.inputs.directory != inputs.directory
