"""What two runs were asked to train, before what they did."""

from __future__ import annotations

from typing import Any

import pytest
from builders import Trainer, as_training, comparison, with_manifest
from golden import Worded

from harness.ladder.cases import difference, of_two_cases
from harness.ladder.judge import judge
from harness.ladder.result import Result
from harness.record.evidence import Record

A = Trainer().record()


def asking(run: Record, **keys: Any) -> Record:
    """The run of a case with other values at these dotted keys (`__` for a dot)."""

    def change(manifest: dict[str, Any]) -> None:
        for key, value in keys.items():
            *path, last = key.split("__")
            holder = manifest["case"]
            for part in path:
                holder = holder[part]
            holder[last] = value

    return with_manifest(run, change)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"steps": 30}, "steps"),
        ({"optimizer__learning_rate": 0.5}, "optimizer.learning_rate"),
        ({"schedule__name": "cosine"}, "schedule.name"),
        ({"model__tie_embeddings": True}, "model.tie_embeddings"),
        ({"kind": "as_shipped"}, "kind"),
        ({"mesh": {"fsdp": 2, "tensor": 2}}, "mesh"),
        ({"data__masked_prefix": 0.0}, "data.masked_prefix"),
        ({"max_norm": None}, "max_norm"),
        ({"seed": 7}, "seed"),
        ({"precision": "default"}, "precision"),
    ],
)
def test_what_differs_is_named(changed: dict[str, Any], named: str) -> None:
    said = difference(A, asking(A, **changed))
    assert said is not None
    assert said.startswith(f"the cases differ: {named} is ")
    assert difference(asking(A, **changed), A) is not None


@pytest.mark.parametrize(
    "changed",
    [{}, {"name": "x"}, {"description": "x"}, {"window": 1}, {"precision": "highest"}],
)
def test_other_names_are_no_other_case(changed: dict[str, Any]) -> None:
    assert difference(A, asking(A, **changed)) is None


def test_many_differences_are_counted() -> None:
    other = asking(A, steps=9, seed=7, dtype="bfloat16", max_norm=2.0, accumulation=2)
    # Of matmul precision as well, which is the dtype's where none is named.
    assert str(difference(A, other)).endswith("(and 2 more)")


def test_what_a_trainer_was_not_told_is_left_out() -> None:
    known, unknown = as_training(A, max_norm=0.5), as_training(A, max_norm=None)
    assert difference(known, unknown) is None
    assert "max_norm is 0.5 in hf" in str(difference(known, as_training(A, max_norm=1.0)))
    assert difference(A, as_training(A)) is None
    assert "max_norm" in str(difference(A, known))


def test_no_rung_of_two_cases_passes_or_fails(worded: Worded) -> None:
    b = Trainer(label="b", learning_rate=2e-2).record()
    said = difference(A, b)
    assert said is not None
    verdict = of_two_cases(judge(comparison(A, b)), said)
    assert verdict.result is Result.INVALID
    assert {rung.result for rung in verdict.rungs} == {Result.INVALID}
    assert verdict.headline.startswith(f"environment: {said}")
    worded(verdict.rung("schedule"))
