"""Facts of a compiled step, and their form in a Record."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from compiled_samples import sample_module, sample_step, texts

from harness.base.errors import BadInput
from harness.compiler.compiled import compiled_module, from_json, to_json

OUTSIDE: dict[str, Any] = {
    "code": "x",
    "executions": 1,
    "seconds": 0.0,
    "compiler_bytes": 0,
    "devices": 4,
    "slices": 1,
}


@pytest.mark.parametrize("release", ["0.0.21", "0.0.52"])
def test_the_tiny_layer(release: str) -> None:
    """x·wᵀ, once more for the backward pass, and the weight's gradient: 1 row × 8 × 16 each."""
    module = sample_module(release)
    assert module.graph.flops == 3 * 2 * 1 * 8 * 16
    assert module.traced_flops == 4 * module.graph.flops  # on four devices together
    assert module.graph.remat == 1
    assert sum(c.count for c in module.graph.collectives) > 0
    assert module.graph.peak_memory_bytes == module.memory.peak > 0


@pytest.mark.parametrize("cut", ["optimized", "unoptimized", "buffer_assignment"])
def test_a_text_that_is_cut_off(cut: str) -> None:
    whole = texts("0.0.21")
    damaged: dict[str, Any] = {**whole, cut: whole[cut][: len(whole[cut]) * 2 // 3]}
    with pytest.raises(BadInput):
        compiled_module(**damaged, **OUTSIDE)


def test_what_slices_exchange_is_of_all_modules() -> None:
    one = sample_module("0.0.52-two-slices", slices=2)
    step = sample_step(modules=(one, dataclasses.replace(one, executions=3)), target="2 × v6e:1x2")
    assert step.slices == 2
    assert step.exchanged_bytes == 4 * (2 * 32 + 512 + 1024)
    assert from_json(json.loads(json.dumps(to_json(step)))) == step
    unknown = dataclasses.replace(one, exchanges=None)
    assert dataclasses.replace(step, modules=(one, unknown)).exchanged_bytes is None
    assert sample_step().exchanged_bytes == 0


def test_a_step_of_several_modules() -> None:
    one = sample_module()
    step = sample_step(modules=(one, dataclasses.replace(one, executions=3)))
    assert step.flops == 4 * one.graph.flops
    assert step.bytes_accessed == 4 * sum(work.bytes for work in one.work.values())
    assert step.peak_bytes == one.memory.peak  # one after the other
    assert step.counts() == {kind: 4 * count for kind, count in sample_step().counts().items()}


@pytest.mark.parametrize(
    "step", [sample_step(), sample_step("0.0.21"), sample_step(error="no", modules=())]
)
def test_there_and_back(step: Any) -> None:
    assert from_json(json.loads(json.dumps(to_json(step)))) == step


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d | {"version": 0},
        lambda d: {},
        lambda d: {"version": d["version"]},
        lambda d: {**d, "step": {**d["step"], "modules": []}},
        lambda d: {**d, "step": {**d["step"], "more": 1}},
        lambda d: {**d, "step": {k: v for k, v in d["step"].items() if k != "error"}},
        lambda d: {**d, "step": {**d["step"], "devices": "many"}},
    ],
)
def test_what_is_no_compiled_step(spoil: Any) -> None:
    with pytest.raises(BadInput):
        from_json(spoil(json.loads(json.dumps(to_json(sample_step())))))
