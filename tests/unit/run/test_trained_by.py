"""Which engines train which case: what one refuses is told, with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkouts import torchprime_tree

from harness.config.compose import case_names, load
from harness.run.trained_by import refusals


@pytest.fixture
def tree(tmp_path: Path) -> str:
    """An override that names a checkout of torchprime."""
    return f"engine.torchprime.source={torchprime_tree(tmp_path)}"


EXPECTED = {
    "deepseek3-tiny": {
        "hf": "case.model.family=deepseek3",
        "torchprime": "case.model.family=deepseek3",
    },
    "llama-tiny-accumulated": {"torchprime": "case.accumulation=2"},
    "llama-tiny-adafactor": {"reference": "case.optimizer.name=adafactor"},
    "llama-tiny-as-shipped": {"reference": "case=llama-tiny-as-shipped"},
    "llama-tiny-epochs": {
        "reference": "case=llama-tiny-epochs",
        "torchprime": "case.accumulation=2",
    },
    "llama-tiny-resumed": {"torchprime": "case.save_at=6: torchprime cannot resume"},
    "mixtral-8x7b": {"hf": "case.model.family=mixtral"},
    "mixtral-tiny": {"hf": "case.model.family=mixtral"},
    "qwen3-tiny": {"torchprime": "case.model.family=qwen3"},
}
"""How each refusal begins, by case and engine; every other case is trained by all."""


@pytest.mark.parametrize("name", case_names())
def test_every_case_of_ours(name: str, tree: str) -> None:
    found = refusals(load([f"case={name}", tree]))
    assert {"hf", "reference", "torchprime"} <= set(found)
    wanted = EXPECTED.get(name, {})
    refused = {engine for engine, reason in found.items() if reason is not None}
    assert refused & {"hf", "reference", "torchprime"} == set(wanted)
    for engine, key in wanted.items():
        assert str(found[engine]).startswith(key)


def test_a_case_that_nobody_trains(tree: str) -> None:
    along = ["case.mesh={fsdp: 2, context: 2}", "case.sharding={lm_head.weight: [context, fsdp]}"]
    found = refusals(load([*along, tree]))
    assert all(str(reason).startswith("case.mesh.context") for reason in found.values())


def test_with_the_options_of_its_engines(tree: str) -> None:
    found = refusals(load([tree, "engine.hf.workarounds=[magic]"]))
    assert str(found["hf"]).startswith("engine.hf.workarounds")
    assert found["torchprime"] is None


def test_an_engine_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for one that trains everything, and nothing is fetched to find out."""
    monkeypatch.delenv("TORCHPRIME_DIR", raising=False)
    monkeypatch.setattr("harness.run.trained_by.default_cache_dir", lambda: tmp_path)
    found = refusals(load([]))
    assert "needs a checkout" in str(found["torchprime"])
    assert (found["hf"], found["reference"]) == (None, None)
