"""One training in two configurations: what may differ between them, and what may not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from builders import (
    Trainer,
    as_training,
    comparison,
    with_manifest,
    with_observed,
    with_parameter,
    with_step,
)

from harness.ladder.judge import judge
from harness.ladder.result import Result
from harness.ladder.rungs.data import data
from harness.ladder.rungs.graph import graph
from harness.ladder.rungs.sharding import sharding
from harness.record.evidence import Record

PASS, FAIL = Result.PASS, Result.FAIL


@pytest.fixture(scope="module")
def whole() -> Record:
    return Trainer(label="whole").record()


@pytest.fixture(scope="module")
def halves() -> Record:
    return Trainer(label="halves", accumulation=2).record()


def halved(run: Record) -> Record:
    """The run as if each batch had come in two halves."""
    steps = []
    for step in run.steps:
        (batch,) = step.batches
        middle = len(batch.rows) // 2
        parts = [
            dataclasses.replace(
                batch, rows=rows, shape=(len(rows), batch.shape[1]), tokens=rows[0], labels=rows[0]
            )
            for rows in (batch.rows[:middle], batch.rows[middle:])
        ]
        given = [{"tokens": part.tokens, "labels": part.labels} for part in parts]
        assert step.loss is not None
        changed: dict[str, Any] = {"batches": tuple(parts), "inputs": tuple(given)}
        half = (step.loss / 2, step.loss / 2)
        steps.append(dataclasses.replace(step, micro_losses=half, **changed))
    cut = dataclasses.replace(run, steps=tuple(steps))
    return with_manifest(cut, lambda m: m["case"].update(accumulation=2))


def test_the_same_rows_cut_otherwise_are_equal_data(whole: Record) -> None:
    result = data(comparison(whole, halved(whole), configurations=True))
    assert result.result is PASS, result.explanation
    assert "1 in whole and 2 in whole" in result.explanation
    assert data(comparison(whole, halved(whole))).result is FAIL
    # Any other tensor of a half is another one than that of the whole.
    placed = []
    for run in (whole, halved(whole)):
        given = tuple(
            {**g, "position_ids": str(len(run.steps[2].inputs))} for g in run.steps[2].inputs
        )
        placed.append(with_step(run, 2, inputs=given))
    assert data(comparison(*placed, configurations=True)).result is PASS


def test_other_rows_are_not(whole: Record) -> None:
    cut = halved(whole)
    step = cut.steps[3]
    turned = dataclasses.replace(step, batches=step.batches[::-1], inputs=step.inputs[::-1])
    steps = [turned if s.index == 3 else s for s in cut.steps]
    result = data(
        comparison(whole, dataclasses.replace(cut, steps=tuple(steps)), configurations=True)
    )
    assert result.result is FAIL
    assert any((f.step, "another order" in f.text) == (3, True) for f in result.findings)


def test_a_mask_that_only_one_has(whole: Record) -> None:
    cut = halved(whole)
    first, second = (dataclasses.replace(b, mask="1" * 16) for b in cut.steps[2].batches)
    for masked in ((first, second), (first, cut.steps[2].batches[1])):
        other = with_step(cut, 2, batches=masked)
        for pair in ((whole, other), (other, whole)):
            assert data(comparison(*pair, configurations=True)).result is FAIL


def on_mesh(run: Record, case: dict[str, int], found: dict[str, int] | None = None) -> Record:
    """The run of a case of this mesh, on one."""
    changed = with_manifest(run, lambda m: m["case"].update(mesh=case))
    return with_observed(changed, mesh={"axes": found or case, "device_order": [0, 1, 2, 3]})


def test_each_mesh_is_that_of_its_case(whole: Record) -> None:
    two, four = {"fsdp": 2, "tensor": 2}, {"fsdp": 4}
    other = on_mesh(whole, two, four)
    result = sharding(comparison(whole, other, configurations=True))
    assert result.result is FAIL
    assert any("but the case asks for" in f.text for f in result.findings)


def test_two_meshes_that_are_each_its_case_s_agree(whole: Record) -> None:
    """As two configurations of one training; as two runs of one case they do not."""
    rest = "0,1,2,3 last_tile_dim_replicate}"
    rows = f"{{devices=[2,1,2]{rest}"
    other = with_observed(on_mesh(whole, {"fsdp": 2, "tensor": 2}), input_sharding=rows)
    for index, parameter in enumerate(other.parameters):
        cut = rows if len(parameter.shape) == 2 else f"{{devices=[2,2]{rest}"
        other = with_parameter(other, index, sharding=cut)
    for pair in ((whole, other), (other, whole)):
        assert sharding(comparison(*pair, configurations=True)).result is PASS
        assert sharding(comparison(*pair)).result is FAIL
    imported = as_training(other)
    for pair in ((whole, imported), (imported, whole)):
        assert sharding(comparison(*pair, configurations=True)).result is FAIL


def test_what_is_executed_may_differ(whole: Record) -> None:
    windows = [dataclasses.replace(w, executions=9 * w.executions) for w in whole.windows]
    other = dataclasses.replace(whole, windows=tuple(windows))
    assert graph(comparison(whole, other)).result is FAIL
    assert graph(comparison(whole, other, configurations=True)).result is PASS


def test_a_training_that_accumulates_otherwise_passes(whole: Record) -> None:
    verdict = judge(comparison(whole, halved(whole), configurations=True))
    assert verdict.result is PASS, verdict.headline
