"""Which engines train which case: what one refuses is told, with its reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from checkouts import torchprime_tree

from harness.config.compose import case_names, load
from harness.run.trained_by import refusals


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, str | None]:
    return {"torchprime": str(torchprime_tree(tmp_path))}


EXPECTED = {
    "llama-tiny-accumulated": {"torchprime": "case.accumulation=2"},
    "llama-tiny-adafactor": {"reference": "case.optimizer.name=adafactor"},
    "llama-tiny-as-shipped": {"reference": "case=llama-tiny-as-shipped"},
    "llama-tiny-epochs": {
        "reference": "case=llama-tiny-epochs",
        "torchprime": "case.accumulation=2",
    },
    "qwen3-tiny": {"torchprime": "case.model.family=qwen3"},
}
"""How each refusal begins, by case and engine; every other case is trained by all."""


@pytest.mark.parametrize("name", case_names())
def test_every_case_of_ours(name: str, tree: dict[str, str | None]) -> None:
    found = refusals(load([f"case={name}"]).case, tree)
    assert list(found) == ["hf", "reference", "torchprime"]
    wanted = EXPECTED.get(name, {})
    assert {engine for engine, reason in found.items() if reason is not None} == set(wanted)
    for engine, key in wanted.items():
        assert str(found[engine]).startswith(key)


def test_a_case_that_nobody_trains(tree: dict[str, str | None]) -> None:
    case = load([]).case
    table: dict[str, Any] = {**case.sharding, "lm_head.weight": ["context", "fsdp"]}
    along = dataclasses.replace(case, mesh={"fsdp": 2, "context": 2}, sharding=table)
    assert all(
        str(reason).startswith("case.mesh.context") for reason in refusals(along, tree).values()
    )


def test_an_engine_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for one that trains everything, and nothing is fetched to find out."""
    monkeypatch.delenv("TORCHPRIME_DIR", raising=False)
    monkeypatch.setattr("harness.run.trained_by.default_cache_dir", lambda: tmp_path)
    found = refusals(load([]).case, {})
    assert "needs a checkout" in str(found["torchprime"])
    assert (found["hf"], found["reference"]) == (None, None)
