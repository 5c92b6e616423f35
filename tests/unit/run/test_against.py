"""The same training in another configuration: what may differ, and what is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate_samples import INTERPRETER, Silent

from harness.base.errors import BadInput
from harness.config.compose import load
from harness.run import plan as planning
from harness.run import session


@pytest.fixture(autouse=True)
def no_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(planning, "interpreter_for", lambda *_: INTERPRETER)
    monkeypatch.chdir(tmp_path)


def planned(*others: str, engines: str = "engines=[hf,hf]") -> session.Planned:
    settings, other = load([engines]), load([engines, *others])
    return session.plan(settings, Silent(), against=other, called=" ".join(others))


@pytest.mark.parametrize(
    "word",
    ["case.accumulation=2", "case.model.remat=false", "case.model.attention=sdpa",
     "mesh@case.mesh=fsdp2-tensor2", "engine.hf.arguments.dataloader_num_workers=2"],
)  # fmt: skip
def test_what_may_differ(word: str) -> None:
    others = [word]
    if word.startswith("mesh"):
        others.append("sharding@case.sharding=llama-fsdp-tensor")
    found = planned(*others)
    first, second = found.subjects
    assert found.configurations
    assert (first.label, second.label) == ("hf", f"hf with {' '.join(others)}")
    assert first.key != second.key
    assert f"hf with {word}" in found.compared


def test_both_train_the_same_rows_from_the_same_weights() -> None:
    first, second = planned("case.model.attention=sdpa").subjects
    for file in ("weights", "rows"):
        a, b = (getattr(plan.inputs, file).read_bytes() for plan in (first, second))
        assert a == b
    assert "sdpa" in (second.inputs.model / "config.json").read_text()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("case.steps=5", "case.steps is another training"),
        ("case.model.layers=3", "case.model.layers is another training"),
        ("case.global_batch=16", "case.global_batch is another training"),
        ("tolerance.margin=5.0", "no part of the case is another training"),
        ("case.mesh.fsdp=2", "case.mesh has 2 devices there and 4 here"),
        ("case.accumulation=1", "both runs would be of one configuration"),
    ],
)
def test_what_may_not(word: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        planned(word)


def test_two_engines_are_compared_otherwise() -> None:
    with pytest.raises(BadInput, match="two configurations of one engine"):
        planned("case.accumulation=2", engines="engines=[hf,reference]")


def test_a_side_that_is_planned_again_keeps_its_configuration() -> None:
    found = planned("case.accumulation=2")
    longer = load(["engines=[hf,hf]", "case.steps=30"])
    inputs = found.subjects[0].inputs
    plans = [plan_again(longer, inputs) for plan_again in found.planners]
    assert [(p.case.steps, p.case.accumulation) for p in plans] == [(30, 1), (30, 2)]
