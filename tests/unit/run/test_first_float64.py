"""Step 0 in float64: of which cases it is asked, and what is trained for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from builders import Trainer

from harness.config.case import Case, Optimizer
from harness.config.compose import load
from harness.inputs.prepared import Inputs
from harness.run import float64
from harness.run.plan import Plan


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that were launched; each gives a whole Record."""
    plans: list[Plan] = []

    def launch(plan: Plan, *_: Any) -> Any:
        plans.append(plan)
        return Trainer(steps=3).record()

    monkeypatch.setattr(float64, "run_or_reuse", launch)
    monkeypatch.setattr(float64, "interpreter_for", lambda *_: None)
    return plans


class Notes(list[str]):
    def note(self, text: str) -> None:
        self.append(text)


def first(overrides: list[str], tmp_path: Path) -> tuple[Any, Notes]:
    notes = Notes()
    found = float64.first_step_in_float64(load(overrides), Inputs(tmp_path), tmp_path, notes)  # type: ignore[arg-type]
    return found, notes


@pytest.mark.parametrize(
    "case", ["llama-tiny", "llama-tiny-bf16", "llama-tiny-adafactor", "llama-tiny-accumulated"]
)
def test_every_aligned_case_is_asked_for(case: str, asked: list[Plan], tmp_path: Path) -> None:
    found, notes = first([f"case={case}"], tmp_path)
    assert found is not None
    assert not notes
    (plan,) = asked
    trained = plan.case
    assert isinstance(trained, Case)
    whole = load([f"case={case}"]).case
    assert trained == dataclasses.replace(whole, steps=1, optimizer=Optimizer())
    assert plan.role == "float64"


@pytest.mark.parametrize("overrides", [["float64=never"], ["case=llama-tiny-as-shipped"]])
def test_not_where_nobody_wants_it_or_weights_are_not_prepared(
    overrides: list[str], asked: list[Plan], tmp_path: Path
) -> None:
    assert first(overrides, tmp_path) == (None, [])
    assert not asked


@pytest.mark.parametrize(
    "overrides",
    [["case.model.layers=40", "case.model.hidden_size=1024", "case.model.intermediate_size=4096"],
     ["case.global_batch=65536"]],
)  # fmt: skip
def test_not_where_it_takes_more_than_a_minute(
    overrides: list[str], asked: list[Plan], tmp_path: Path
) -> None:
    found, notes = first(overrides, tmp_path)
    assert (found, len(notes)) == (None, 1)
    assert not asked
