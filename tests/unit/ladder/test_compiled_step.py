"""The rung graph, by compiled steps: each way in which it could pass and should not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from builders import (
    Trainer,
    comparison,
    compiled_step,
    with_window,
)
from golden import Worded

from harness.ladder.result import Result
from harness.ladder.rungs.graph import (
    graph,
)
from harness.record.evidence import Record
from harness.record.graph import ModuleGraph

PASS, FAIL, INVALID = Result.PASS, Result.FAIL, Result.INVALID


class Recompiles(Trainer):
    """A compilation in mid-run, as when a learning rate meets another constant of the graph."""

    def compilations(self, window: int) -> int:
        return super().compilations(window) + (window == 3)


def dumped(run: Record, step: ModuleGraph) -> Record:
    return dataclasses.replace(run, graph=step)


class TestCompiledStep:
    def judged(self, a: Record, b: Record, x: ModuleGraph, y: ModuleGraph) -> Any:
        return graph(comparison(a, b, graphs=(dumped(a, x), dumped(b, y))))

    def test_two_engines(self, a: Record, b: Record) -> None:
        result = self.judged(
            a, b, compiled_step(), compiled_step(fingerprint="xyz", instructions=99)
        )
        assert result.result is PASS
        assert result.detects == "1% more FLOPs, 25% more bytes moved or held"

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"flops": 1009}, PASS), ({"flops": 1020}, FAIL), ({"flops": 980}, FAIL),
            ({"collectives": ()}, FAIL), ({"peak_memory_bytes": 5000}, PASS),
            ({"peak_memory_bytes": 6000}, FAIL), ({"peak_memory_bytes": 3000}, FAIL),
            ({"peak_memory_bytes": None}, INVALID),
        ],
    )  # fmt: skip
    def test_limits_in_both_directions(
        self, worded: Worded, a: Record, b: Record, fields: dict[str, Any], expected: Result
    ) -> None:
        other = compiled_step(fingerprint="xyz", **fields)
        for x, y in ((compiled_step(), other), (other, compiled_step())):
            result = self.judged(a, b, x, y)
            assert result.result is expected
            worded(result)

    @pytest.mark.parametrize("fields", [{"flops": 990}, {"peak_memory_bytes": 3072}])
    def test_a_difference_of_the_limit_itself_is_none(
        self, a: Record, b: Record, fields: dict[str, Any]
    ) -> None:
        other = compiled_step(fingerprint="xyz", **fields)
        result = self.judged(a, b, compiled_step(), other)
        assert (result.result, result.value) == (PASS, result.limit)

    def test_what_neither_knows(self, a: Record, b: Record) -> None:
        unknown = compiled_step(peak_memory_bytes=None)
        assert self.judged(a, b, unknown, unknown).result is INVALID
        more = compiled_step(peak_memory_bytes=None, flops=2000)
        assert self.judged(a, b, unknown, more).result is FAIL

    def test_only_the_heaviest_module_was_compared(self, a: Record, b: Record) -> None:
        """Where a step executes several, the claim must not be about all of its work."""
        two = with_window(b, 3, executions=4)
        for pair in ((a, two), (two, a)):
            result = self.judged(*pair, compiled_step(), compiled_step(fingerprint="xyz"))
            assert result.result is PASS

    def test_one_engine_is_exact(self, worded: Worded, a: Record) -> None:
        assert self.judged(a, a, compiled_step(), compiled_step()).result is PASS
        result = self.judged(a, a, compiled_step(), compiled_step(fingerprint="xyz"))
        assert result.result is FAIL
        result = self.judged(
            a, a, compiled_step(), compiled_step(fingerprint="xyz", opcodes={"dot": 3})
        )
        assert result.result is FAIL
        worded(result)

    def test_a_step_without_work_says_nothing(self, a: Record, b: Record) -> None:
        for empty in (compiled_step(flops=0), compiled_step(fingerprint="")):
            for pair in ((a, b), (a, a)):
                assert self.judged(*pair, empty, empty).result is INVALID
                assert self.judged(*pair, compiled_step(), empty).result is INVALID

    def test_no_step_was_dumped(self, a: Record, b: Record) -> None:
        for graphs in ((a, dumped(b, compiled_step())), (dumped(a, compiled_step()), b), (a, b)):
            result = graph(comparison(a, b, graphs=graphs))
            assert result.result is INVALID

    def test_counters_come_first(self, a: Record) -> None:
        b = Recompiles(label="b").record()
        assert self.judged(a, b, compiled_step(), compiled_step()).result is FAIL
