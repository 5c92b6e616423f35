"""Two runs without XLA: what is judged, what cannot be, and what is no excuse."""

from __future__ import annotations

from typing import Any

import pytest
from builders import Trainer, comparison, with_manifest, with_observed, with_parameter, with_window

from harness.ladder.judge import judge
from harness.ladder.result import Result
from harness.ladder.rungs.environment import environment
from harness.ladder.rungs.graph import graph
from harness.ladder.rungs.sharding import sharding
from harness.record.evidence import Record

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID
NOT_EXERCISED = Result.NOT_EXERCISED

EAGER: dict[str, Any] = {
    "device": "host",
    "device_kind": "eager CPU",
    "devices": 1,
    "versions": {"python": "3.11.7", "torch": "2.9.0"},
    "flags": {"OMP_NUM_THREADS": "1", "USE_TORCH_XLA": "0"},
    "mesh": None,
    "input_sharding": "",
}


def eager(run: Record, **observed: Any) -> Record:
    """A Record as a run without XLA leaves it."""
    run = with_manifest(run, lambda m: m["case"].update(mesh={"fsdp": 1}))
    for index in range(len(run.parameters)):
        run = with_parameter(run, index, sharding="")
    return with_observed(run, **{**EAGER, **observed})


@pytest.fixture(scope="module")
def b() -> Record:
    return Trainer(label="other", sums=-1).record()


def test_all_that_has_a_number_is_judged(a: Record, b: Record) -> None:
    verdict = judge(comparison(eager(a), eager(b)))
    found = {result.rung: result.result for result in verdict.rungs}
    assert {r for r, result in found.items() if result is NOT_EXERCISED} == {
        "sharding", "routing", "checkpoint", "graph", "compiled", "predicted_time", "step_time"
    }  # fmt: skip
    passed = {"environment", "data", "init", "forward", "backward", "clip", "optimizer"}
    assert {found[rung] for rung in passed} == {PASS}


class TestEnvironment:
    def test_torch_is_needed_and_torch_xla_is_not(self, a: Record, b: Record) -> None:
        assert environment(comparison(eager(a), eager(b))).result is PASS
        unknown = eager(b, versions={"python": "3.11.7"})
        assert environment(comparison(eager(a), unknown)).result is INVALID

    def test_on_a_mesh_torch_xla_is(self, a: Record, b: Record) -> None:
        pair = [with_observed(run, versions=EAGER["versions"]) for run in (a, b)]
        assert environment(comparison(*pair)).result is INVALID

    def test_one_that_imported_torch_xla_all_the_same(self, a: Record, b: Record) -> None:
        imported = eager(b, versions={**EAGER["versions"], "torch_xla": "2.9.0"})
        result = environment(comparison(eager(a), imported))
        assert (result.result, result.findings[0].b) == (FAIL, "2.9.0")

    def test_one_with_xla_and_one_without(self, a: Record, b: Record) -> None:
        result = environment(comparison(a, eager(b)))
        assert (result.result, result.findings[0].a, result.findings[0].b) == (FAIL, "CPU", "host")


class TestSharding:
    def test_a_mesh_that_was_not_observed_is_no_single_process(self, a: Record, b: Record) -> None:
        assert sharding(comparison(eager(a), with_observed(b, mesh=None))).result is INVALID

    @pytest.mark.parametrize("changed", [{"dtype": "bfloat16"}, {"shape": (8, 16)}])
    def test_shapes_and_dtypes_are_compared(
        self, a: Record, b: Record, changed: dict[str, Any]
    ) -> None:
        other = with_parameter(eager(b), 0, **changed)
        result = sharding(comparison(eager(a), other))
        assert (result.result, result.findings[-1].parameter) == (FAIL, a.parameters[0].name)


class TestGraph:
    def test_no_recompilation_is_claimed(self, a: Record, b: Record) -> None:
        """There are no counters: zeros of two runs are no evidence of a good graph."""
        assert graph(comparison(eager(a), eager(b))).result is NOT_EXERCISED

    def test_checkpointing_is_judged(self, a: Record, b: Record) -> None:
        pair = [eager(run, recomputed={"model.layers.*": n}) for run, n in ((a, 0), (b, 2))]
        result = graph(comparison(*pair))
        assert (result.result, result.findings[0].b) == (FAIL, 2)

    @pytest.mark.parametrize("side", [0, 1])
    def test_one_of_two_that_has_counters_is_asked_for_them(
        self, a: Record, b: Record, side: int
    ) -> None:
        pair = [a, b]
        pair[side] = eager(pair[side])
        for index in range(len(a.windows)):
            pair[side] = with_window(pair[side], index, executions=0, compilations=0)
        assert graph(comparison(*pair)).result is INVALID
