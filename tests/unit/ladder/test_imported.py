"""Runs that were imported: numbers that a trainer logged prove no more than these numbers."""

from __future__ import annotations

import dataclasses

import pytest
from builders import Trainer, comparison, imported, with_loss

from harness.ladder.imported import (
    assumed,
    first_steps,
    imported_notes,
    not_proven,
    with_assumptions,
)
from harness.ladder.ladder import LADDER, rung
from harness.ladder.result import Result, RungResult
from harness.ladder.rungs.loss_curve import loss_curve
from harness.record.evidence import Record
from harness.record.termination import STOPPED_EARLY

A = Trainer().record()
B = Trainer(label="b").record()
PAIRS = ((imported(A), B), (A, imported(B)), (imported(A), imported(B)))


class TestNotProven:
    @pytest.mark.parametrize("pair", PAIRS)
    def test_what_rests_on_more_than_numbers(self, pair: tuple[Record, Record]) -> None:
        c = comparison(*pair)
        unproven = {each.name for each in LADDER if not_proven(each, c) is not None}
        assert unproven == {each.name for each in LADDER if not each.from_numbers}
        assert {each.name for each in LADDER} - unproven >= {"loss_curve", "schedule"}
        result = not_proven(rung("init"), c)
        assert result is not None
        assert result.result is Result.INVALID
        who = " and ".join(r.label for r in pair if r.manifest.imported is not None)
        assert result.explanation.endswith(f"({who} imported)")

    def test_runs_that_were_launched_here(self) -> None:
        assert not any(not_proven(each, comparison(A, B)) for each in LADDER)

    def test_two_imports_of_one_name_are_named_once(self) -> None:
        result = not_proven(rung("init"), comparison(imported(A), imported(A)))
        assert result is not None
        assert result.explanation.endswith("(hf imported)")


class TestAssumptions:
    C = comparison(imported(A, assumed=("init", "data")), imported(B, assumed=("data", "sharding")))

    def test_of_either_run(self) -> None:
        assert assumed(self.C) == ("init", "data", "sharding")
        assert assumed(comparison(A, imported(B, assumed=("init",)))) == ("init",)
        assert assumed(comparison(A, B)) == ()

    @pytest.mark.parametrize(
        ("name", "result", "becomes"),
        [
            ("init", Result.INVALID, Result.NOT_EXERCISED),
            ("sharding", Result.INVALID, Result.NOT_EXERCISED),
            ("forward", Result.INVALID, Result.INVALID),
            ("init", Result.FAIL, Result.FAIL),
            ("init", Result.INCONCLUSIVE, Result.INCONCLUSIVE),
            ("init", Result.PASS, Result.PASS),
        ],
    )
    def test_they_take_the_place_of_what_is_not_proven_alone(
        self, name: str, result: Result, becomes: Result
    ) -> None:
        found = with_assumptions(RungResult(name, result, "why"), self.C)
        assert found.result is becomes
        said = f"assumed, not proven (--assume {name}): why" if becomes is not result else "why"
        assert found.explanation == said


def test_what_was_noticed_is_told_with_the_run() -> None:
    c = comparison(imported(A, findings=("step 3 is missing", "a lag")), imported(B))
    assert imported_notes(c) == ("hf: step 3 is missing", "hf: a lag")
    assert imported_notes(comparison(A, imported(B, findings=("slow",)))) == ("b: slow",)


def test_the_first_steps_are_a_whole_run() -> None:
    ended = dataclasses.replace(A.ended, status=STOPPED_EARLY)
    early = dataclasses.replace(A, manifest=dataclasses.replace(A.manifest, ended=ended))
    first = first_steps(early, 3)
    assert first.complete
    assert (first.requested_steps, [step.index for step in first.steps]) == (3, [0, 1, 2])


class TestLoggedCurves:
    """Those that were not logged at every step."""

    def logged(self, steps: int, run: Record = A) -> Record:
        return imported(dataclasses.replace(run, steps=run.steps[:steps]))

    def test_they_cannot_pass(self) -> None:
        for pair in ((self.logged(5), B), (A, self.logged(5, B)), (self.logged(5), self.logged(3))):
            result = loss_curve(comparison(*pair))
            assert result.result is Result.INVALID
            assert result.explanation.startswith("not proven: ")
            assert "steps are bitwise equal" in result.explanation

    def test_they_can_fail(self) -> None:
        result = loss_curve(comparison(self.logged(5), with_loss(B, 4, 9.0)))
        assert (result.result, result.findings[0].step) == (Result.FAIL, 4)
        later = loss_curve(comparison(self.logged(5), with_loss(B, 5, 9.0)))
        assert later.result is Result.INVALID

    @pytest.mark.parametrize("steps", [0, 1])
    def test_without_the_first_step_nothing_is_judged(self, steps: int) -> None:
        run = self.logged(steps)
        run = run if not steps else with_loss(run, 0, None)
        result = loss_curve(comparison(run, B))
        assert result.result is Result.INVALID
        assert result.explanation == "not proven: hf has no loss at 8 of 8 steps, first at 0"
